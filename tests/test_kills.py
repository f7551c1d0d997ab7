"""Processes that really die: the client by SIGKILL at chosen moments, workers killed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

from dasknmf import open_run
from tests.helpers import fitted, stored

pytestmark = pytest.mark.slow

PARAMETERS = {
    "n_components": 3,
    "init": "nndsvda",
    "beta_loss": 1.0,
    "random_state": 0,
    "max_iter": 4,
}

CHILD = """
import os, signal, sys, warnings
import dask
warnings.simplefilter("ignore")
from zarr.storage import LocalStore
from dasknmf import NMF, panels
panels._PANEL_BYTES, panels._PANELS = (1, 2), 10**6

class Store(LocalStore):
    hits = 0
    async def set(self, key, value):
        pattern, wanted, when = {moment!r}
        if key.startswith(pattern):
            Store.hits += 1
            if Store.hits == wanted:
                if when == "half":
                    path = self.root / key
                    path.with_suffix(".killed.partial").write_bytes(value.to_bytes()[: len(value) // 2])
                if when == "after":
                    await super().set(key, value)
                os.kill(os.getpid(), signal.SIGKILL)
        await super().set(key, value)

with dask.config.set(scheduler="threads"):
    NMF(**{parameters!r}).fit({V!r}, checkpoint=Store({run!r}))
"""

MOMENTS = {
    "in the survey": ("small/0-", 1, "before"),
    "after the survey's commit": ("commit/", 1, "after"),
    "in the start": ("W/", 4, "after"),
    "before the start's commit": ("commit/", 4, "before"),
    "after a write of W": ("W/5-", 4, "after"),
    "between H and its commit": ("small/6-", 3, "after"),
    "half way through a commit": ("commit/", 7, "half"),
    "after a commit": ("commit/", 8, "after"),
    "before the closing pass": ("commit/", 9, "after"),
    "in the closing pass": ("small/9-", 1, "before"),
    "before the last commit": ("history/9-", 1, "after"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(7)
    X = rng.random((90, 4)) @ rng.random((4, 14)) + 0.1 * rng.random((90, 14)) + 0.01
    path = tmp_path_factory.mktemp("data") / "v.zarr"
    stored(path, X, (30, 14))
    return str(path)


@pytest.fixture
def quiet(data, small_panels):
    return fitted(data, **PARAMETERS)


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_of_the_whole_process(data, quiet, tmp_path, moment, small_panels):
    run = str(tmp_path / "run")
    code = CHILD.format(moment=MOMENTS[moment], parameters=PARAMETERS, V=data, run=run)
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    model, W = fitted(data, run={"checkpoint": run}, **PARAMETERS)
    expected, W_expected = quiet
    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(model.components_, expected.components_)
    assert model.n_reads_ == expected.n_reads_


class Slow:
    """V whose chunks take a while, so that a signal meets a worker at work."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, block: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return block


def slowly(data: str, seconds: float):
    import dask.array as da

    return da.from_zarr(data).map_blocks(Slow(seconds), dtype=float)


def pids(client) -> list[int]:
    return list(client.run(os.getpid).values())


@pytest.mark.usefixtures("small_panels")
def test_workers_killed_one_after_another(data, quiet, tmp_path):
    expected, W_expected = quiet
    killed = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def kill(record):
            # Some time into the next pass, one worker goes; its nanny starts another.
            if len(killed) < 3:
                # A nanny whose worker dies while it starts gives up: both must be at work.
                client.wait_for_workers(2, timeout=30)
                victim = next(pid for pid in pids(client) if pid not in killed)
                threading.Timer(0.15, os.kill, (victim, signal.SIGKILL)).start()
                killed.append(victim)

        model, W = fitted(
            slowly(data, 0.1),
            client,
            {"checkpoint": tmp_path / "run", "callbacks": [kill]},
            **PARAMETERS,
        )
    assert len(killed) == 3
    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(model.components_, expected.components_)


@pytest.mark.usefixtures("small_panels")
def test_a_stopped_worker_continues_two_passes_later(data, tmp_path):
    """SIGSTOP: the scheduler gives its task to another; then it wakes up and finishes the old one."""
    stopped: list[tuple[int, int]] = []
    woken: list[int] = []
    config = {
        "distributed.scheduler.worker-ttl": "2s",
    }
    with (
        dask.config.set(config),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):

        def interfere(record):
            if record.phase == "exact" and not stopped:
                victim = pids(client)[0]

                def stop():
                    psutil.Process(victim).suspend()
                    stopped.append((record.iteration, victim))

                threading.Timer(0.3, stop).start()
            elif stopped and not woken and record.iteration >= stopped[0][0] + 2:
                if psutil.pid_exists(stopped[0][1]):
                    psutil.Process(stopped[0][1]).resume()
                woken.append(record.iteration)
                time.sleep(1.5)  # time for the late task to write where it may

        model, W = fitted(
            slowly(data, 0.25),
            client,
            {"checkpoint": tmp_path / "run", "callbacks": [interfere]},
            **PARAMETERS | {"max_iter": 6},
        )
    assert stopped
    assert woken
    six, W_six = fitted(data, **PARAMETERS | {"max_iter": 6})
    np.testing.assert_array_equal(W, W_six)
    np.testing.assert_array_equal(model.components_, six.components_)
    np.testing.assert_array_equal(open_run(tmp_path / "run").W.compute(), W_six)


@pytest.mark.usefixtures("small_panels")
def test_workers_may_come_and_go(data, quiet, tmp_path):
    _, W_expected = quiet
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        sizes = iter([3, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1])

        def rescale(record):
            cluster.scale(next(sizes))

        _, W = fitted(
            slowly(data, 0.05),
            client,
            {"checkpoint": tmp_path / "run", "callbacks": [rescale]},
            **PARAMETERS,
        )
    np.testing.assert_array_equal(W, W_expected)


def test_a_full_disk_is_told_and_survived(data, tmp_path, small_panels):
    """A real file system of 400 kB, mounted for the purpose."""
    mount = tmp_path / "small"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o", "size=400k", "tmpfs", str(mount)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(RuntimeError, match=r"No space left on device.*make room"):
            fitted(data, run={"checkpoint": mount / "run"}, **PARAMETERS | {"max_iter": 200, "tol": 0})
        done = open_run(mount / "run").n_iter
        assert done >= 1
        subprocess.run(["mount", "-o", "remount,size=40m", str(mount)], check=True)
        model, W = fitted(
            data, run={"checkpoint": mount / "run"}, **PARAMETERS | {"max_iter": done + 3, "tol": 0}
        )
        whole, W_whole = fitted(data, **PARAMETERS | {"max_iter": done + 3, "tol": 0})
        np.testing.assert_array_equal(W, W_whole)
        np.testing.assert_array_equal(model.components_, whole.components_)
    finally:
        subprocess.run(["umount", str(mount)], check=False)


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
