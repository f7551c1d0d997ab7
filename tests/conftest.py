"""Shared fixtures: real stores, real clusters, and panels small enough that small data has many."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings

from dasknmf.core import panels
from dasknmf.core.starts import trial
from dasknmf.stacks import stack as stacking
from tests.deploy import slurm as slurms

settings.register_profile(
    "dasknmf",
    deadline=None,
    max_examples=int(os.environ.get("DASKNMF_EXAMPLES", "25")),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dasknmf")

_IN_MEMORY = Path("/dev/shm")
_ROOM = 2**30


def pytest_configure(config):
    """Directories of tests in memory where there is room: every commit waits for its disk some forty times.

    Not for those marked slow, whose files are large, and which keep the real disk among what is tested.
    """
    quick = config.option.markexpr == "not slow"
    if quick and _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))


@pytest.fixture
def small_panels(monkeypatch):
    """Panels of a few rows: every chunk of V becomes one."""
    monkeypatch.setattr(panels, "_PANEL_BYTES", (1, 2))
    monkeypatch.setattr(panels, "_PANELS", 10**6)


@pytest.fixture
def short_trials(monkeypatch):
    """Trials in this process end after some passes, for tests that do not look at how good a start is."""
    monkeypatch.setattr(trial, "_MOST_PASSES", 20)


@pytest.fixture
def small_tiles(small_panels, monkeypatch):
    """Every stored tile of 20 x 20 pixels is one of its own, and a panel; in memory some rows are."""
    monkeypatch.setattr(stacking, "_TILE_BYTES", 6000)


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


@pytest.fixture(scope="session")
def slurm():
    """A SLURM of two nodes on this machine, with a low partition that jobs in the high one preempt."""
    if reason := slurms.absent():
        pytest.skip(reason)
    with slurms.started() as slurm:
        yield slurm
