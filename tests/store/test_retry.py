"""Retries of storage that fails for a moment, and none for permanent failures."""

from __future__ import annotations

import errno
import logging

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from dasknmf import NMF, open_run
from dasknmf.cli.summary import summary
from dasknmf.errors import RunAccessError, SourceError, UnavailableError
from dasknmf.io import retry
from dasknmf.io.counts import counting
from dasknmf.io.metered import SourceStore
from tests.helpers import stored


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 1e-3)
    monkeypatch.setattr(retry, "_LONGEST_WAIT", 2e-3)


class Answered(Exception):
    """As web clients raise it: with the status of the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class OfBotocore(Exception):
    def __init__(self, status: int) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        TimeoutError(),
        ConnectionResetError(),
        Answered(503),
        Answered(429),
        OfBotocore(500),
    ],
    ids=repr,
)
def test_what_may_pass(error):
    assert retry.transient(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        PermissionError(errno.EACCES, "Permission denied"),
        FileNotFoundError(),
        Answered(403),
        OfBotocore(404),
        OSError("a chunk that no codec decodes"),
        ValueError("no storage"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_does_not(error):
    assert not retry.transient(error)


def test_a_cause_may_tell_the_status():
    error = OSError("as a file system translates it")
    error.__cause__ = OfBotocore(403)
    assert not retry.transient(error)


class Failing(WrapperStore):
    """A store whose values cannot be had for some times."""

    error: Exception
    times = asked = 0

    async def get(self, key, prototype, byte_range=None):
        if "c/" in key:
            Failing.asked += 1
            if Failing.asked <= Failing.times:
                raise Failing.error
        return await super().get(key, prototype, byte_range)


def read(error: Exception, times: int) -> tuple[np.ndarray, int]:
    """All values of an array of two chunks, of which `times` reads fail; and the retries."""
    V = zarr.create_array(MemoryStore(), shape=(4, 3), chunks=(2, 3), dtype="f8")
    V[...] = np.arange(12.0).reshape(4, 3)
    Failing.error, Failing.times, Failing.asked = error, times, 0
    patient = zarr.open_array(SourceStore(Failing(V.store)), mode="r")
    with counting() as counts:
        values = patient[...]
    return values, counts.retries


def test_retries_are_counted_across_the_event_loop():
    values, retries = read(OSError(errno.EIO, "Input/output error"), 3)
    np.testing.assert_array_equal(values, np.arange(12.0).reshape(4, 3))
    assert (retries, Failing.asked) == (3, 5)


def test_a_refusal_names_the_chunk_and_is_final():
    with pytest.raises(SourceError, match=r"'c/./0' of .*cannot be read \(.*denied\).*check permissions"):
        read(PermissionError(errno.EACCES, "denied"), 100)


def test_patience_ends(caplog):
    with (
        caplog.at_level(logging.WARNING, "dasknmf"),
        pytest.raises(UnavailableError, match=r"'c/./0' of .* could not be reached in 10 attempts.*repeat"),
    ):
        read(TimeoutError(), 100)
    assert "tried again" in caplog.text
    assert "TimeoutError" in caplog.text  # where an error says nothing, its kind does


def test_interrupts_are_not_retried():
    asked = []

    def interrupted():
        asked.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retry.patiently(interrupted, "a key")
    assert len(asked) == 1


class Trembling(WrapperStore):
    """A store of a run, of which every seventh access fails."""

    count = 0

    def _tremble(self) -> None:
        Trembling.count += 1
        if Trembling.count % 7 == 0:
            raise OSError(errno.EIO, "Input/output error")

    async def get(self, key, prototype, byte_range=None):
        self._tremble()
        return await super().get(key, prototype, byte_range)

    async def set(self, key, value):
        self._tremble()
        await super().set(key, value)


def test_the_history_counts_them(tmp_path, low_rank):
    V = stored(tmp_path / "v.zarr", low_rank, (9, 5))
    quiet = NMF(2, init="random", random_state=0, max_iter=4, tol=0).fit(V, checkpoint=tmp_path / "quiet")
    store = MemoryStore()
    model = NMF(2, init="random", random_state=0, max_iter=4, tol=0).fit(V, checkpoint=Trembling(store))
    np.testing.assert_array_equal(model.components_, quiet.components_)
    assert sum(quiet.history_.columns()["retries"]) == 0
    told = open_run(store).history.columns()["retries"]
    assert len(told) == 6
    assert sum(told) >= 5
    assert f"retries of storage: {sum(told)}" in summary(open_run(store))


class Full(WrapperStore):
    async def set(self, key, value):
        if key.startswith("small/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().set(key, value)


def test_a_full_store_is_told_at_once(low_rank):
    with pytest.raises(RunAccessError, match=r"'small/.* cannot be written .*No space left.*make room"):
        NMF(2, random_state=0).fit(low_rank, checkpoint=Full(MemoryStore()))
