"""Ctrl-C on a terminal; other deaths of processes are rows of the table in tests/faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dasknmf import open_run
from tests.helpers import stored

pytestmark = pytest.mark.slow


def test_ctrl_c_on_a_terminal(tmp_path):
    """A terminal sends it to every process, also to workers of this machine, which may log what they lose."""
    V = np.random.default_rng(0).poisson(2.0, (100_000, 200)).astype(np.float32)
    stored(tmp_path / "v.zarr", V, (5_000, 200))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dasknmf.cli", "fit", tmp_path / "v.zarr", run, "-k", "10", "--tol", "0"]
    command += ["--beta-loss", "kullback-leibler", "--scheduler", "local", "--max-iter", "100000"]
    fit = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 60
    while not (run / "commit").exists() or len(open_run(run).history) < 5:
        assert time.monotonic() < end
        time.sleep(0.2)
    os.killpg(fit.pid, signal.SIGINT)
    _, told = fit.communicate(timeout=60)
    assert fit.returncode == 75
    assert told.splitlines()[-1].startswith("stopped by SIGINT after pass ")
    assert "Traceback" not in told
