"""The command line in a batch system: limits of time, objects on stderr, schedulers and their workers."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import KilledWorker

from dasknmf import NMF, open_run
from dasknmf.cli import output
from dasknmf.cli.commands import main
from dasknmf.cli.heartbeat import Heartbeat
from dasknmf.cli.scheduling import SchedulerOptions, address_in
from dasknmf.engine.scheduler import connected, current_scheduler
from dasknmf.errors import UnavailableError
from dasknmf.store.keys import opened
from dasknmf.store.lock import Lock
from tests.helpers import computing, stored


@pytest.fixture
def V(tmp_path, low_rank):
    stored(tmp_path / "v.zarr", low_rank, (30, 14))
    return str(tmp_path / "v.zarr")


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def objects(text):
    def strict(name):
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=strict) for line in text.splitlines()]


PATHS = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
MODEL = ("-k", 3, "--random-state", 0, "--tol", 0, "--scheduler", "sync")


def test_a_limit_stops_before_a_pass_and_the_same_command_goes_on(V, tmp_path, monkeypatch):
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    assert call("fit", V, quiet, *MODEL, "--max-iter", 4).exit_code == 0
    # The record says that the pass took an hour: the next one would not end in time.
    monkeypatch.setattr("dasknmf.fitting.passes.time.perf_counter", iter(range(0, 10**9, 3600)).__next__)
    limited = call("fit", V, run, *MODEL, "--max-iter", 4, "--max-seconds", 600)
    monkeypatch.undo()
    assert limited.exit_code == 75
    last = limited.stderr.splitlines()[-1]
    assert last.startswith("stopped by --max-seconds 600 after the ")
    assert last.endswith(f"the same command resumes {run} (exit code 75)")
    assert len(open_run(run).history) == 1
    assert open_run(run).writer is None
    assert call("fit", V, run, *MODEL, "--max-iter", 4, "--max-seconds", 600).exit_code == 0
    np.testing.assert_array_equal(open_run(run).W.compute(), open_run(quiet).W.compute())


def test_a_fit_that_ends_in_time_has_ended(V, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert call("fit", V, run, *MODEL, "--max-iter", 2).exit_code == 0
    monkeypatch.setattr("dasknmf.fitting.passes.time.perf_counter", iter(range(0, 10**9, 3600)).__next__)
    # One more pass, longer than the limit; it is the last, so the command is not stopped.
    assert call("fit", V, run, *MODEL, "--max-iter", 3, "--max-seconds", 600).exit_code == 0
    assert open_run(run).status == "max_iter"


def test_what_overwrites_is_not_told_to_go_on_so(V, tmp_path, monkeypatch):
    monkeypatch.setattr("dasknmf.fitting.passes.time.perf_counter", iter(range(0, 10**9, 3600)).__next__)
    told = call("fit", V, tmp_path / "run", *MODEL, "--overwrite", "--max-seconds", 600)
    assert told.exit_code == 75
    assert "the same command without --overwrite resumes" in told.stderr


def test_a_file_does_not_overwrite(V, tmp_path):
    """A file with overwrite = true would discard the run at each start."""
    config = tmp_path / "run.toml"
    config.write_text("overwrite = true\n")
    told = call("fit", V, tmp_path / "run", *MODEL, "--config", config)
    assert told.exit_code == 2
    assert "give --overwrite once, on the command line" in told.stderr


@pytest.mark.parametrize("seconds", ["0", "-3", "soon"])
def test_no_time_at_all_is_refused(V, tmp_path, seconds):
    assert call("fit", V, tmp_path / "run", *MODEL, "--max-seconds", seconds).exit_code == 2
    assert not (tmp_path / "run").exists()


def test_json_is_one_object_a_line(V, tmp_path):
    run = tmp_path / "run"
    told = call("fit", V, run, *MODEL, "--max-iter", 2, "--log-format", "json")
    assert told.exit_code == 0
    events = objects(told.stderr)
    passes = [each for each in events if each["event"] == "pass"]
    assert [each["event"] for each in events if each["event"] != "warning"] == [
        "start",
        *["pass"] * len(passes),
        "done",
    ]
    assert [each["loss"] for each in passes] == [record.loss for record in open_run(run).history]
    assert passes[-1].keys() >= {
        *("phase", "iteration", "objective", "change", "seconds", "bytes_read", "bytes_written", "reads"),
        *("memory", "workers", "retries"),
    }
    assert passes[-1]["workers"] == 1
    assert told.stdout == ""  # stdout and stderr may be one stream
    assert "status: max_iter" in events[-1]["summary"]
    assert f"W and H: dasknmf.open_run({str(run)!r})" in events[-1]["summary"]
    assert events[-1]["exit_code"] == 0


def test_notes_are_objects(V, tmp_path):
    told = call("fit", V, tmp_path / "run", *MODEL, "--max-iter", 1, "--scale", "--log-format", "json")
    notes = [each["message"] for each in objects(told.stderr) if each["event"] == "note"]
    assert notes == ["reading SOURCE once to compute standard deviations (--scale)"]


@pytest.mark.slow
def test_what_a_worker_says_is_an_object(capfd, monkeypatch):
    monkeypatch.setattr(output._output, "format", "json")
    nothing = dict.fromkeys(("scheduler_file", "tls_ca", "tls_cert", "tls_key"))
    with SchedulerOptions(scheduler="local", workers=1, wait=5.0, **nothing).computing() as client:
        client.run(logging.getLogger("dasknmf").warning, "asked for again")
        client.run(warnings.warn, "too many", UserWarning)
    told = objects(capfd.readouterr().err)
    assert [each["message"] for each in told] == ["asked for again", "too many"]


def test_warnings_and_records_are_objects(capsys, caplog):
    caplog.set_level(logging.WARNING, "distributed")
    with warnings.catch_warnings(), output.json_records():
        warnings.simplefilter("always")
        logging.getLogger("dasknmf").warning("asked for again in %.1f s", 0.1)
        logging.getLogger("distributed.nanny").warning("Restarting worker")
        warnings.warn("too many\nlines", UserWarning, stacklevel=1)
    told = objects(capsys.readouterr().err)
    assert [each["message"] for each in told] == ["asked for again in 0.1 s", "Restarting worker", "too many"]
    assert {each["event"] for each in told} == {"warning"}


def test_errors_are_objects_too(V, tmp_path):
    told = call("fit", tmp_path / "nowhere", tmp_path / "run", *MODEL, "--log-format", "json")
    assert told.exit_code == 3
    assert objects(told.stderr)[-1]["event"] == "error"
    assert objects(told.stderr)[-1]["exit_code"] == 3
    told = call("fit", V, tmp_path / "run", *MODEL, "--log-format", "json", "--layer", "counts")
    assert objects(told.stderr)[-1]["exit_code"] == told.exit_code == 2


def test_a_defect_is_an_object_with_its_traceback(V, tmp_path, monkeypatch):
    monkeypatch.setattr(NMF, "fit", lambda *_, **__: 1 // 0)
    told = call("fit", V, tmp_path / "run", *MODEL, "--log-format", "json")
    assert told.exit_code == 1
    assert "ZeroDivisionError" in objects(told.stderr)[-1]["traceback"]


def test_what_is_no_number_is_null():
    line = output.encoded("pass", loss=float("nan"), change=float("inf"), models=[float("-inf"), 1.5])
    assert objects(line)[0] | {"time": ""} == {
        "time": "",
        "event": "pass",
        "loss": None,
        "change": None,
        "models": [None, 1.5],
    }


def test_a_sign_of_life(V, tmp_path):
    alive = tmp_path / "alive"
    told = call("fit", V, tmp_path / "run", *MODEL, "--max-iter", 1, "--heartbeat", alive)
    assert told.exit_code == 0
    assert alive.exists()
    told = call("fit", V, tmp_path / "run", *MODEL, "--heartbeat", tmp_path / "nowhere" / "alive")
    assert told.exit_code == 2
    assert "does not exist" in told.stderr


def test_a_long_pass_is_told_about(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(output._output, "format", "json")
    beating = Heartbeat(tmp_path / "alive", touch_every=0.01, event_every=0.0)
    with beating.beating():
        end = time.monotonic() + 20
        while not (told := capsys.readouterr().err):
            assert time.monotonic() < end
            time.sleep(0.01)
    first = objects(told)[0]
    assert first["event"] == "heartbeat"
    assert first["workers"] == 1
    assert first["seconds_since_commit"] >= 0


class Silent:
    """A client whose scheduler does not answer."""

    status = "connecting"


def test_no_sign_of_life_without_a_scheduler(tmp_path):
    beating = Heartbeat(tmp_path / "alive", touch_every=0.01)
    beating.client = Silent()
    with beating.beating():
        time.sleep(0.1)
    assert beating.workers() is None
    assert not (tmp_path / "alive").exists()


def test_unlock_tells_who_had_it(V, tmp_path):
    run = tmp_path / "run"
    assert call("fit", V, run, *MODEL, "--max-iter", 1).exit_code == 0
    assert "was not locked" in call("unlock", run).stdout
    lock = Lock(opened(run))
    assert "is being written by process" in call("fit", V, run, *MODEL, "--max-iter", 2).stderr
    unlocked = call("unlock", run)
    assert "was locked by process" in unlocked.stdout
    assert "was writing the run; it stops before its next commit" in unlocked.stderr
    assert not lock.is_held()
    assert call("fit", V, run, *MODEL, "--max-iter", 2).exit_code == 0
    lock.release()
    early = Lock(opened(tmp_path / "early"))  # of a process without a commit
    assert "was locked by process" in call("unlock", tmp_path / "early").stdout
    assert not early.is_held()
    early.release()
    assert call("unlock", tmp_path / "early").exit_code == 4
    assert call("unlock", tmp_path / "nowhere").exit_code == 4
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--workers", 2], 2, "--workers and --tls-* need a cluster"),
        (["--scheduler", "local", "--tls-ca", __file__], 2, "--tls-cert and --tls-key are missing"),
        (["--scheduler", "slurm"], 6, "the scheduler 'slurm' is unknown"),
        (["--scheduler", "tcp://"], 6, "cannot connect to the scheduler"),
        (["--scheduler-file", "nowhere.json", "--wait", 0], 75, "did not appear within 0 s"),
        (["--scheduler-file", __file__, "--wait", 0], 6, "cannot be read"),
        (["--scheduler-file", __file__, "--scheduler", "local"], 2, "give one of them"),
        (["--scheduler-file", __file__, "--scheduler", "tcp://127.0.0.1:1"], 2, "give one of them"),
    ],
)
def test_schedulers_that_are_none(V, tmp_path, options, code, message):
    told = call("fit", V, tmp_path / "run", "-k", 3, *options)
    assert told.exit_code == code, told.output
    assert message in told.stderr
    assert not (tmp_path / "run").exists()


def test_a_scheduler_file_that_comes_later(tmp_path):
    file = tmp_path / "scheduler.json"
    later = threading.Timer(0.1, file.write_text, ['{"address": "tcp://127.0.0.1:1"}'])
    later.start()
    assert address_in(file, 20) == "tcp://127.0.0.1:1"
    later.join()


def test_fewer_workers_than_asked_for(V, tmp_path, cluster):
    address = cluster.scheduler.address
    told = call(
        *("fit", V, tmp_path / "run", "-k", 3, "--max-iter", 1, "--scheduler", address),
        *("--workers", 3, "--wait", 0.1),
    )
    assert told.exit_code == 0, told.output
    assert "2 of 3 workers connected within 0.1 s: starting with these" in told.stderr
    config = tmp_path / "run.toml"
    config.write_text(f'scheduler = "{address}"\nworkers = 2\nwait = 5\nlog-format = "json"\n')
    told = call("fit", V, tmp_path / "run", "-k", 3, "--max-iter", 2, "--config", config)
    assert told.exit_code == 0
    assert [each["workers"] for each in objects(told.stderr) if each["event"] == "pass"][-1] == 2


class Died:
    """A client that lost its scheduler, with one of the errors that tell so."""

    status = "connecting"

    class scheduler:
        address = "tcp://127.0.0.1:8786"


@pytest.mark.parametrize("error", [OSError("Timed out"), RuntimeError("IOLoop is closed"), ValueError()])
def test_what_a_client_without_a_scheduler_says(error):
    with (
        pytest.raises(UnavailableError, match=r"is gone .*repeat the same call"),
        connected(Died()),
    ):
        raise error


def test_other_errors_stay_what_they_are(cluster):
    with pytest.raises(ZeroDivisionError), connected(cluster):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), computing(cluster):
        current_scheduler(in_process=False).get({"x": (divmod, 1, 0)}, ["x"])


def test_a_worker_that_ends_again_and_again(V, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KilledWorker("visit", SimpleNamespace(address="tcp://127.0.0.1:1"), 3)

    monkeypatch.setattr(NMF, "fit", killed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = call("fit", V, tmp_path / "run", *MODEL)
    assert told.exit_code == 6
    assert "give each worker more memory" in told.stderr
    assert len(told.stderr.splitlines()) == 1
