"""Commands that end by a signal, a limit or a lost scheduler: real processes and their runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from dasknmf import open_run
from dasknmf.engine.scheduler import current_scheduler
from tests.helpers import computing, stored

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "dasknmf.cli"]
MODEL = ["-k", "30", "--beta-loss", "1.5", "--init", "random", "--random-state", "0", "--tol", "0"]
PASSES = ["--max-iter", "2"]
LONG = ["--max-iter", "400"]
BOUND = 15.0
"""Seconds from a signal to the end, on a busy machine."""


@pytest.fixture(scope="module")
def V(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "v.zarr"
    V = np.random.default_rng(0).poisson(2.0, (20_000, 400)).astype(np.float32)
    stored(path, V, (5_000, 400))
    return str(path)


@pytest.fixture(scope="module")
def quiet(V, tmp_path_factory):
    """W after some number of iterations of the same fit without interruption."""

    @cache
    def of(max_iter):
        run = tmp_path_factory.mktemp("quiet") / "run"
        fit = [*COMMAND, "fit", V, run, *MODEL, "--max-iter", str(max_iter)]
        subprocess.run(fit, check=True, timeout=120, capture_output=True)
        return open_run(run).W.compute()

    return of


def goes_on(started, run, command, quiet):
    """Started again, the command ends one iteration later with the W of an uninterrupted fit."""
    more = open_run(run).n_iter + 1
    again = started(*command, "--max-iter", more)
    ended(again, 120)
    assert again.returncode == 0
    np.testing.assert_array_equal(open_run(run).W.compute(), quiet(more))


@pytest.fixture
def started():
    """Starts commands, and ends them with the test."""
    begun = []

    def start(*arguments):
        begun.append(
            subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def until(what, seconds=90.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(process, seconds=60.0):
    """The stderr of a command, once all its processes have ended."""
    _, told = process.communicate(timeout=seconds)
    assert "Traceback" not in told, told
    return told


@pytest.mark.parametrize(
    ("scheduler", "number"),
    [("sync", signal.SIGTERM), ("local", signal.SIGTERM), ("local", signal.SIGINT)],
)
def test_a_fit_that_is_stopped_goes_on_as_if_it_had_not_been(started, V, quiet, tmp_path, scheduler, number):
    """The signal goes to every process of a command, as from batch systems, and from terminals for Ctrl-C."""
    run = tmp_path / "run"
    command = ["fit", V, run, *MODEL, "--scheduler", scheduler]
    fit = started(*command, *LONG)
    until((run / "commit").exists)
    time.sleep(0.5)  # into the next pass
    family = [*psutil.Process(fit.pid).children(recursive=True), psutil.Process(fit.pid)]
    began = time.monotonic()
    os.killpg(fit.pid, number)
    _, told = fit.communicate(timeout=60)
    assert time.monotonic() - began < BOUND
    assert fit.returncode == 75
    assert f"\nstopped by {number.name} after " in told
    # Workers receive the signal, too, and may write how they ended, as may their replacements.
    assert scheduler == "local" or "Traceback" not in told
    assert open_run(run).writer is None
    assert not (run / "lock").exists()
    until(lambda: not any(each.is_running() for each in family), 5)
    goes_on(started, run, command, quiet)


def test_killed_it_goes_on(started, V, quiet, tmp_path):
    run = tmp_path / "run"
    command = ["fit", V, run, *MODEL]
    fit = started(*command, *LONG)
    until((run / "commit").exists)
    time.sleep(0.5)
    fit.kill()
    ended(fit)
    assert fit.returncode == -signal.SIGKILL
    goes_on(started, run, command, quiet)


def test_before_the_first_commit(started, V, tmp_path):
    fit = started("fit", V, tmp_path / "run", *MODEL, *PASSES, "--log-format", "json")
    until((tmp_path / "run" / "lock").exists)
    for _ in range(3):  # repeated signals change nothing
        with suppress(ProcessLookupError):
            fit.send_signal(signal.SIGTERM)
    stopped = json.loads(ended(fit).splitlines()[-1])
    assert "starts again from the beginning" in stopped["message"]
    assert (stopped["event"], stopped["exit_code"], fit.returncode) == ("stopped", 75, 75)


def test_the_limit_of_time_ends_a_pass_that_has_begun(started, V, quiet, tmp_path):
    run = tmp_path / "run"
    command = ["fit", V, run, *MODEL]
    fit = started(*command, *LONG, "--max-seconds", "8")
    assert "\nstopped by --max-seconds 8 " in ended(fit)
    assert fit.returncode == 75
    assert not (run / "lock").exists()
    goes_on(started, run, command, quiet)


def test_commands_without_commits_end_in_order(V, tmp_path):
    """Handlers are set as soon as Python runs, as process 1 of a container needs."""
    process = subprocess.Popen([*COMMAND, "info", V], stderr=subprocess.PIPE, text=True)
    until(lambda: handles(process, signal.SIGUSR1))
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ""
    assert process.returncode == 128 + signal.SIGTERM


def handles(process, number):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1)


def test_process_1_hears_signals(V, quiet, tmp_path):
    """The command is process 1 of a namespace, whose kernel drops signals without handlers."""
    run = tmp_path / "run"
    alone = ["unshare", "--pid", "--fork", "--mount-proc", *COMMAND]
    if subprocess.run([*alone[:-3], "true"], check=False, capture_output=True).returncode:
        pytest.skip("process namespaces cannot be made here")
    fit = subprocess.Popen(
        [*alone, "fit", V, run, *MODEL, *LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until((run / "commit").exists)
        (first,) = psutil.Process(fit.pid).children()
        first.send_signal(signal.SIGTERM)
        told = ended(fit)
        assert fit.returncode == 75
        assert "stopped by SIGTERM after " in told
    finally:
        fit.kill()


@contextmanager
def a_cluster(directory, *, n_workers=1, tls=()):
    """A scheduler in a process of its own, its workers, and its file."""
    file = directory / "scheduler.json"
    file.unlink(missing_ok=True)
    address = ["--protocol", "tls"] if tls else []
    scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, *address]
    worker = ["dask_worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard"]
    processes = []

    def start(module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments), *tls]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))

    try:
        start(*scheduler, "--no-dashboard")
        until(file.exists)
        for _ in range(n_workers):
            start(*worker)
        yield file, processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def test_a_scheduler_that_is_killed_in_a_pass(started, V, quiet, tmp_path):
    run = tmp_path / "run"
    command = ["fit", V, run, *MODEL, "--scheduler-file", tmp_path / "scheduler.json"]
    with a_cluster(tmp_path) as (_, (scheduler, _)):
        fit = started(*command, *LONG)
        until((run / "commit").exists)
        time.sleep(0.5)
        scheduler.kill()
        told = ended(fit, 90)
        assert fit.returncode == 75
        assert told.splitlines()[-1].startswith("Error: the scheduler at tcp://127.0.0.1:")
        assert "is gone" in told.splitlines()[-1]
        assert not (run / "lock").exists()
    with a_cluster(tmp_path):
        goes_on(started, run, command, quiet)


def test_no_worker_comes(started, V, tmp_path):
    with a_cluster(tmp_path, n_workers=0) as (file, _):
        fit = started("fit", V, tmp_path / "run", *MODEL, "--scheduler-file", file, "--wait", "1")
        told = ended(fit)
    assert fit.returncode == 75
    assert "no worker has connected to the scheduler at tcp://127.0.0.1:" in told


def test_an_encrypted_cluster(started, V, quiet, tmp_path):
    certificates = Security.temporary()
    files = {"ca": certificates.tls_ca_file, "cert": certificates.tls_client_cert}
    tls = []
    for name, content in (files | {"key": certificates.tls_client_key}).items():
        (tmp_path / f"{name}.pem").write_text(content)
        tls += [f"--tls-{name}", str(tmp_path / f"{name}.pem")]
    with a_cluster(tmp_path, tls=[each.replace("--tls-ca", "--tls-ca-file") for each in tls]) as (file, _):
        command = ["fit", V, tmp_path / "run", *MODEL, *PASSES, "--scheduler-file", file]
        fit = started(*command, *tls)
        told = ended(fit, 120)
        assert fit.returncode == 0, told
        bare = started(*command)
        ended(bare)
        assert bare.returncode == 6
    np.testing.assert_array_equal(open_run(tmp_path / "run").W.compute(), quiet(2))


def test_a_cluster_without_workers_has_sizes_too():
    """All workers may be away for a moment."""
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        computing(client),
    ):
        scheduler = current_scheduler(in_process=False)
        with scheduler.tuned():
            assert scheduler.processes == 1
            assert scheduler.memory_limit > 0
