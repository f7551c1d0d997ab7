"""Shared fixtures: real stores, real clusters, and panels small enough that small data has many."""

from __future__ import annotations

import os

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings

from dasknmf import panels

settings.register_profile(
    "dasknmf",
    deadline=None,
    max_examples=int(os.environ.get("DASKNMF_EXAMPLES", "25")),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dasknmf")


@pytest.fixture
def small_panels(monkeypatch):
    """Panels of a few rows: every chunk of V becomes one."""
    monkeypatch.setattr(panels, "_PANEL_BYTES", (1, 2))
    monkeypatch.setattr(panels, "_PANELS", 10**6)


@pytest.fixture
def low_rank():
    """A 90 x 14 matrix of rank 4 with noise, without zeros."""
    rng = np.random.default_rng(7)
    return rng.random((90, 4)) @ rng.random((4, 14)) + 0.1 * rng.random((90, 14)) + 0.01


@pytest.fixture(scope="session")
def cluster():
    """Two worker processes of one thread each."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
