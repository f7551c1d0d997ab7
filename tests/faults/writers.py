"""Two clients and one run: locks that are held, stale, broken, or no use; and clocks that differ."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest

from dasknmf import open_run
from dasknmf.errors import RunLockedError
from dasknmf.store import keys, lock, records
from dasknmf.store.zarr_factors import ZarrFactors
from tests.faults.bench import Bench, dead_pid, quiet, same, small
from tests.faults.cells import Cell
from tests.faults.damage import _interrupted
from tests.faults.stores import Hesitant, bucket

_HOUR = 3600.0
_ELSEWHERE = {"host": "elsewhere 1234 pid:[5]", "pid": 77}


@contextmanager
def _held(bench: Bench, **changes: Any) -> Iterator[lock.Lock]:
    """Another client's lock, which says so."""
    with small(), mock.patch.object(lock, "_RENEWED", 1e3):
        other = lock.Lock(bench.kept)
        content = json.loads(other._content()) | changes
        keys.put(bench.kept, "lock", json.dumps(content).encode())
        try:
            yield other
        finally:
            other._released.set()
            lock._held.discard(other)


def renewing(bench: Bench, stop: threading.Event, skew: float) -> threading.Thread:
    """The other host at work: its lock changes, by its own clock."""

    def renew() -> None:
        while not stop.wait(0.02):
            bench.edit_lock(time=time.time() + skew)

    thread = threading.Thread(target=renew)
    thread.start()
    return thread


def _refused(bench: Bench) -> None:
    before = bench.passes()
    with pytest.raises(RunLockedError) as raised:
        bench.fit()
    told = str(raised.value)
    assert "\n" not in told
    assert "is being written by process" in told
    assert "dasknmf unlock" in told
    assert bench.passes() == before


def _live_here(bench: Bench) -> None:
    _interrupted(bench)
    bench.mended()
    with _held(bench):
        _refused(bench)
        assert keys.get(bench.kept, "lock", 2**16)
    bench.bury()
    same(bench.again(), quiet())


def _dead_here(bench: Bench) -> None:
    _interrupted(bench)
    bench.mended()
    with _held(bench, pid=dead_pid()):
        same(bench.fit(), quiet())


def _number_given_again(bench: Bench) -> None:
    """A process with the number of the dead one lives, but began later."""
    _interrupted(bench)
    bench.mended()
    with _held(bench, pid=1, started=12.0):
        same(bench.fit(), quiet())


def _renewed_elsewhere(skew: float, bench: Bench) -> None:
    _interrupted(bench)
    bench.mended()
    stop = threading.Event()
    bench.lease = 10.0
    with _held(bench, **_ELSEWHERE, time=time.time() + skew):
        thread = renewing(bench, stop, skew)
        try:
            _refused(bench)
        finally:
            stop.set()
            thread.join()
    # It ends without a word; after the lease the run is free.
    bench.lease = 0.1
    same(bench.again(), quiet())


def _silent_elsewhere(skew: float, bench: Bench) -> None:
    _interrupted(bench)
    bench.mended()
    with _held(bench, **_ELSEWHERE, time=time.time() + skew):
        began = time.monotonic()
        same(bench.fit(), quiet())
        assert time.monotonic() - began >= 0.1  # it was watched for its lease


def _released_meanwhile(bench: Bench) -> None:
    """The other releases its lock while it is watched: the next start has it."""
    _interrupted(bench)
    bench.mended()
    with _held(bench, **_ELSEWHERE):
        timer = threading.Timer(0.03, (bench.path / "lock").unlink)
        timer.start()
        same(bench.fit(), quiet())
        timer.join()


def _damaged_lock(content: bytes, bench: Bench) -> None:
    _interrupted(bench)
    bench.mended()
    keys.put(bench.kept, "lock", content)
    same(bench.fit(), quiet())


def _overtaken(at: int, how: str, bench: Bench) -> None:
    """While a writer sleeps, its lock is broken and another finishes the run; then it wakes up."""
    other = Bench(bench.root)
    done: list[Any] = []

    def sleep(record: Any) -> None:
        if open_run(bench.path).n_passes == at and not done:
            if how == "unlocked":
                with small():
                    assert "process" in str(lock.break_lock(bench.kept))
            else:
                bench.edit_lock(pid=dead_pid())
            done.append(other.fit())

    with pytest.raises(RunLockedError) as raised:
        bench.fit(run={"callbacks": [sleep]})
    assert "taken over by another process" in str(raised.value)
    same(done[0], quiet())
    assert bench.passes() == 6
    same(bench.again(), quiet())


def _overtaken_within(at: int, bench: Bench) -> None:
    """The same in the middle of a pass, whose rows the other has pruned by then."""
    other = Bench(bench.root)
    done: list[Any] = []

    def sleep(*_: Any) -> None:
        if not done:
            done.append(None)
            with small():
                lock.break_lock(bench.kept)
            done.append(other.fit())

    write_rows = ZarrFactors.write_rows

    def slowly(self: Any, generation: Any, panel: int, block: Any) -> None:
        if generation.name.startswith(f"{at}-") and panel == 1:
            sleep()
        write_rows(self, generation, panel, block)

    with mock.patch.object(ZarrFactors, "write_rows", slowly), pytest.raises(RunLockedError) as raised:
        bench.fit()
    assert "taken over by another process" in str(raised.value)
    same(done[1], quiet())
    same(bench.again(), quiet())


def _overtaken_at_commit(at: int, bench: Bench) -> None:
    """The same between a look at the lock and the commit itself: what the other committed stands."""
    other = Bench(bench.root)
    done: list[Any] = []
    write = records.write_record

    def slowly(store: Any, path: str, content: Any, **options: Any) -> None:
        if path.startswith(f"history/{at}-") and not done:
            done.append(None)
            with small():
                lock.break_lock(bench.kept)
            done.append(other.fit())
        write(store, path, content, **options)

    with mock.patch.object(records, "write_record", slowly), pytest.raises(RunLockedError) as raised:
        bench.fit()
    assert "taken over by another process" in str(raised.value)
    same(done[1], quiet())
    same(bench.again(), quiet())


def _at_once(atomic: bool, clients: int, bench: Bench) -> None:
    """All look for a lock at the same moment."""
    bench.objects = bucket()
    bench.dies_at("history/4")
    bench.mended()
    barrier = threading.Barrier(clients)
    won, lost, broken = [], [], []
    lock_threads = threading.Lock()

    def start(_: int) -> None:
        store = bench.store if atomic else Hesitant(bench.objects, bench.weather)
        barrier.wait(10)
        try:
            one = lock.Lock(store)
        except RunLockedError as error:
            with lock_threads:
                lost.append(error)
        except BaseException as error:
            with lock_threads:
                broken.append(error)
        else:
            with lock_threads:
                won.append(one)

    with small(), mock.patch.object(lock, "_SETTLE", 0.15):
        threads = [threading.Thread(target=start, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not broken, broken
        assert len(won) == 1, f"{len(won)} go on"
        assert len(lost) == clients - 1
        won[0].release()
    same(bench.again(), quiet())


def _looking_on(bench: Bench) -> None:
    """Whoever opens a run at work sees a commit as a whole, and changes nothing."""
    seen: list[tuple[int, float]] = []

    def look(record: Any) -> None:
        run = open_run(bench.path)
        if run.progress.location.rows is not None and run.n_iter:
            W = run.W.compute(scheduler="synchronous")
            seen.append((run.n_passes, float(W.sum())))
        assert run.writer

    same(bench.fit(run={"callbacks": [look]}), quiet())
    assert len(seen) == 4


_SKEWS: dict[str, float] = {
    "clocks agree": 0.0,
    "its clock is an hour ahead": _HOUR,
    "its clock is an hour behind": -_HOUR,
}
WRITERS = (
    Cell("a second client", "while the first lives, on this host", "the second is refused", _live_here),
    Cell("a lock was left", "by a dead process of this host", "taken over, identical", _dead_here),
    Cell(
        "a lock was left", "its process number was given again", "taken over, identical", _number_given_again
    ),
    *(
        Cell(
            "a second client",
            f"the first renews elsewhere, {name}",
            "refused; free when it is silent",
            partial(_renewed_elsewhere, skew),
        )
        for name, skew in _SKEWS.items()
    ),
    *(
        Cell(
            "a lock was left",
            f"by another host, {name}",
            "taken over after the lease, identical",
            partial(_silent_elsewhere, skew),
        )
        for name, skew in _SKEWS.items()
    ),
    Cell("a second client", "the first releases meanwhile", "it goes on, identical", _released_meanwhile),
    *(
        Cell(
            "the lock is none",
            f"start: {name}",
            "it holds nobody off, identical",
            partial(_damaged_lock, content),
        )
        for name, content in {
            "empty": b"",
            "half": b'{"token": "abc", "ho',
            "zeros": bytes(40),
            "a list": b"[1, 2]",
            "of another kind": b'{"token": "abc", "host": 3, "pid": "x", "started": null, "time": "y"}',
        }.items()
    ),
    *(
        Cell(
            f"the lock is {how}, the writer wakes up",
            f"after pass {at - 1}",
            "stopped before its next commit",
            partial(_overtaken, at, how),
        )
        for at in (1, 3, 5)
        for how in ("unlocked", "taken over")
    ),
    *(
        Cell(
            "the lock is broken, the writer wakes up",
            f"within pass {at}",
            "stopped before its next commit",
            partial(_overtaken_within, at),
        )
        for at in (1, 3)
    ),
    *(
        Cell(
            "the lock is broken, the writer wakes up",
            f"in the commit of pass {at}",
            "stopped before it commits",
            partial(_overtaken_at_commit, at),
        )
        for at in (0, 2, 5)
    ),
    *(
        Cell(
            "several clients at once",
            f"start: {clients}, {'atomic create' if atomic else 'no atomic create'}",
            "one goes on, the others are told",
            partial(_at_once, atomic, clients),
        )
        for atomic in (True, False)
        for clients in (2, 5)
    ),
    Cell("others look on", "every commit", "they see whole commits; identical", _looking_on),
)
