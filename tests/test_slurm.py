"""The batch scripts on a real SLURM: preempted, at the wall, cancelled, without its workers; and the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from dasknmf import open_run
from tests.helpers import stored
from tests.slurm import SCRIPTS, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PASSES = 150
FIT = ["-k", "8", "--beta-loss", "kullback-leibler", "--init", "random", "--random-state", "0", "--tol", "0"]
SMALL = ["--mem-per-cpu=900M", "--time=5"]


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def data(directory):
    """26 MB in eight chunks: a pass of the slower loss takes some tenths of a second."""
    rng = np.random.default_rng(0)
    V = rng.poisson(rng.gamma(0.5, size=(80_000, 4)) @ rng.gamma(0.5, size=(4, 80))).astype(np.float32)
    stored(directory / "v.zarr", V, (10_000, 80))
    return directory / "v.zarr"


@pytest.fixture(scope="session")
def quiet(data, directory):
    """The same fit that nothing happens to."""
    run = directory / "quiet.zarr"
    command = [sys.executable, "-m", "dasknmf.cli", "fit", data, run, *FIT, "--max-iter", str(PASSES)]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    return open_run(run)


def passes(run: Path) -> int:
    return len(open_run(run).history) if (run / "commit").exists() else 0


def ended_as(quiet, run: Path) -> None:
    found = open_run(run)
    assert found.n_iter == quiet.n_iter == PASSES
    np.testing.assert_array_equal(found.W.compute(), quiet.W.compute())
    np.testing.assert_array_equal(found.H, quiet.H)


def preempted(slurm, job: str, directory: Path) -> None:
    """A job that wants both nodes takes them from `job`, and ends."""
    before = int(slurm.job(job)["Restarts"])
    urgent = slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=true", cwd=directory)
    slurm.until(urgent, "COMPLETED")
    wait_for(lambda: int(slurm.job(job)["Restarts"]) == before + 1, 30)


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir()))
def test_slurm_accepts(slurm, script, tmp_path):
    told = slurm.run("sbatch", "--test-only", SCRIPTS / script, "fit", "v.zarr", "run.zarr", "-k", "3")
    assert told.returncode == 0, told.stderr
    assert "to start at" in told.stderr
    broken = tmp_path / script
    broken.write_text((SCRIPTS / script).read_text().replace("#SBATCH --nodes", "#SBATCH --nods"))
    told = slurm.run("sbatch", "--test-only", broken)
    assert told.returncode != 0
    assert "nods" in told.stderr


def test_preempted_twice_it_ends_with_the_same_numbers(slurm, data, quiet, directory):
    run = directory / "preempted.zarr"
    job = slurm.submit(
        *SMALL, SCRIPTS / "threads.sbatch", "fit", data, run, *FIT, "--max-iter", PASSES, cwd=directory
    )
    for _ in range(2):
        slurm.until(job, "RUNNING")
        before = passes(run)
        wait_for(lambda before=before: passes(run) >= before + 3, 60)
        preempted(slurm, job, directory)
        assert 3 <= passes(run) < PASSES
    ended = slurm.until(job, "COMPLETED", seconds=120)
    assert int(ended["Restarts"]) == 2
    ended_as(quiet, run)
