"""Two writers of one run: a writer that lost the lock changes nothing, however late it wakes up."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import LocalStore

from dasknmf import NMF, open_run
from dasknmf.errors import DataError, RunLockedError
from dasknmf.io import atomic, retry
from dasknmf.store import keys
from dasknmf.store.lock import Lock
from tests.helpers import stored

PARAMETERS = {"n_components": 2, "init": "random", "random_state": 0, "max_iter": 6, "tol": 0}


@pytest.fixture
def V(tmp_path, low_rank):
    return stored(tmp_path / "v.zarr", low_rank, (9, 5))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 1e-3)


class WhenAsked(logging.Handler):
    """Does something, once, while storage is waited for."""

    def __init__(self, does) -> None:
        super().__init__()
        self.does = does
        self.done = False

    def emit(self, record):
        if "is tried again" in record.getMessage() and not self.done:
            self.done = True
            self.does()


@pytest.fixture
def when_asked():
    handlers = []

    def install(does):
        handlers.append(WhenAsked(does))
        logging.getLogger("dasknmf").addHandler(handlers[-1])
        return handlers[-1]

    yield install
    for handler in handlers:
        logging.getLogger("dasknmf").removeHandler(handler)


def unlocked(run: Path) -> None:
    (run / "lock").unlink()


def test_a_commit_is_not_asked_again_behind_anothers_back(V, tmp_path, monkeypatch, when_asked):
    """Its first attempt is lost; until the second, another has finished the run."""
    run = tmp_path / "run"
    other = {}

    def take_over():
        unlocked(run)
        other["model"] = NMF(**PARAMETERS).fit(V, checkpoint=run)

    handler = when_asked(take_over)
    replace = atomic.write_file
    commits = []

    def failing(path, value, **options):
        if path.parent.name == "commit" and not handler.done:
            commits.append(path)
            if len(commits) == 4:
                raise OSError(errno.EIO, "Input/output error")
        replace(path, value, **options)

    monkeypatch.setattr(atomic, "write_file", failing)
    with pytest.raises(RunLockedError, match="taken over"):
        NMF(**PARAMETERS).fit(V, checkpoint=run)
    assert handler.done
    kept = open_run(run)
    assert kept.status == "max_iter"
    np.testing.assert_array_equal(kept.H, other["model"].components_)
    assert np.isfinite(kept.W.compute()).all()


def test_a_lock_is_not_renewed_behind_anothers_back(tmp_path, monkeypatch):
    store = keys.opened(tmp_path / "run")
    monkeypatch.setattr("dasknmf.store.lock._RENEWED", 0.01)
    replace = atomic.write_file
    tried = []

    def failing(path, value, **options):
        if path.name == "lock" and threading.current_thread().name == "dasknmf-lock":
            tried.append(path)
            raise OSError(errno.EIO, "Input/output error")
        replace(path, value, **options)

    monkeypatch.setattr(atomic, "write_file", failing)
    lock = Lock(store)
    while len(tried) < 3:
        assert lock.is_held()
    keys.put(store, "lock", b"{}")
    monkeypatch.setattr(atomic, "write_file", replace)
    assert not lock.is_held()
    lock.release()
    assert (tmp_path / "run" / "lock").read_bytes() == b"{}"


def test_what_is_refused_is_not_deleted_once_it_is_anothers(V, tmp_path, low_rank, monkeypatch):
    run = tmp_path / "run"
    bad = low_rank.copy()
    bad[5, 3] = -1

    def take_over_and_refuse(*arguments, **options):
        monkeypatch.undo()
        unlocked(run)
        NMF(**PARAMETERS).fit(V, checkpoint=run, overwrite=True)
        raise DataError("Negative values in data")

    monkeypatch.setattr("dasknmf.fitting.execution.survey.check", take_over_and_refuse)
    with pytest.raises(DataError):
        NMF(**PARAMETERS).fit(stored(tmp_path / "bad.zarr", bad, (9, 5)), checkpoint=run)
    assert open_run(run).status == "max_iter"


def test_what_is_no_longer_needed_is_deleted_while_the_next_pass_is_committed(V, tmp_path, monkeypatch):
    """Names of a directory that goes meanwhile are nobody's concern."""
    slow = LocalStore.delete_dir

    async def later(self, prefix):
        await asyncio.sleep(0.02)
        await slow(self, prefix)

    quiet = NMF(**PARAMETERS).fit(V, checkpoint=tmp_path / "quiet")
    monkeypatch.setattr(LocalStore, "delete_dir", later)
    model = NMF(**PARAMETERS).fit(V, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(model.components_, quiet.components_)
    assert len(list((tmp_path / "run" / "W").glob("*-*"))) <= 2


def test_a_commit_flushes_no_more_the_longer_a_run_is(V, tmp_path, monkeypatch):
    flushed = []
    flush = atomic._fsync

    def counting(path, flags):
        flushed[-1] += 1
        flush(path, flags)

    monkeypatch.setattr(atomic, "_fsync", counting)
    flushed.append(0)
    NMF(**PARAMETERS | {"max_iter": 12}).fit(
        V, checkpoint=tmp_path / "run", callbacks=[lambda _: flushed.append(0)]
    )
    assert len(set(flushed[4:12])) == 1


def test_a_new_directory_is_on_disk_with_its_name(tmp_path, monkeypatch):
    flushed = []
    flush = atomic._fsync

    def counting(path, flags):
        flushed.append(path)
        flush(path, flags)

    monkeypatch.setattr(atomic, "_fsync", counting)
    atomic.write_file(tmp_path / "a/b/c", b"value")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    assert (tmp_path / "a/b/c").read_bytes() == b"value"
