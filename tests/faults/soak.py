"""One long run that meets faults of every kind, drawn from a seed; its result is that of the quiet run."""

from __future__ import annotations

import errno
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dasknmf import open_run
from dasknmf.errors import DataChangedError, RunAccessError, RunDamagedError, RunLockedError, UnavailableError
from dasknmf.io.process_owner import Owner
from dasknmf.store import keys, lock
from tests.faults.bench import Bench, Result, dead_pid, quiet, small
from tests.faults.stores import TRANSIENT, Fault, Strike, death, os_error
from tests.faults.tasks import Doubling, Executor, Haunted, Losing, Repeating, Waking
from tests.faults.writers import renewing
from tests.helpers import Killed

_WITHIN = {"read": 50, "write": 30, "delete": 7, "": 90}
"""Accesses of some two passes."""
_ENDLESS = 10**6
"""Passes that are asked for while there are faults to meet: a run that had ended would meet none."""
_MOST_STARTS = 20
"""For one fault: a fit that does not go on is an error, and no endless soak."""


@dataclass
class Soak:
    """A run under way, and what it has met."""

    bench: Bench
    rng: random.Random
    max_iter: int = _ENDLESS
    met: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    retries: int = 0
    ghosts: list[list[Any]] = field(default_factory=list)
    """Tasks of passes that are over, of clients that are gone: they wake up when another fault is due."""

    def start(self, get: Executor | None = None, **run: Any) -> Result:
        """One start, from wherever the run stands."""
        self.starts += 1
        return self.bench.fit(get or self._keeping(), run=run, max_iter=self.max_iter)

    def _keeping(self) -> Haunted:
        """Keeps the tasks of the last passes, to haunt a later one."""
        self.ghosts = self.ghosts[-4:]
        return Haunted(10**6, self.ghosts)

    def somewhere(self) -> Strike:
        """An access of the run's store within the next passes."""
        access = self.rng.choice(["read", "write", "write", "delete", ""])
        return Strike(access, "", self.rng.randint(1, _WITHIN[access]))

    def passes(self) -> int:
        return self.bench.passes()


def _until(passes: int) -> Callable[[Any], None]:
    """A callback that ends a start after some passes, as a job's wall does."""
    left = [passes]

    def count(record: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed("the wall")

    return count


def _some(soak: Soak) -> dict[str, Any]:
    return {"callbacks": [_until(soak.rng.randint(1, 3))]}


def _dies(soak: Soak) -> bool:
    fault = death(soak.somewhere(), soak.rng.choice(["before", "half", "after"]))
    soak.bench.strike(fault)
    _ended(soak, soak.start)
    return bool(fault.struck)


def _dies_reading(soak: Soak) -> bool:
    fault = death(Strike("read", "c/", soak.rng.randint(1, 9)))
    soak.bench.weather_of_V.faults.append(fault)
    _ended(soak, soak.start)
    return bool(fault.struck)


def _hiccups(soak: Soak) -> bool:
    error = TRANSIENT[soak.rng.choice(list(TRANSIENT))]
    faults = [
        Fault(soak.somewhere(), error, soak.rng.choice(["before", "after"]), soak.rng.randint(1, 3))
        for _ in range(3)
    ]
    of_V = Fault(Strike("read", "c/", soak.rng.randint(1, 3)), error, times=2)
    soak.bench.strike(*faults)
    soak.bench.weather_of_V.faults.append(of_V)
    _ended(soak, lambda: soak.start(**_some(soak)))
    return bool(of_V.struck)


def _out_of_reach(soak: Soak) -> bool:
    fault = Fault(soak.somewhere(), TRANSIENT["timeout"], "before", math.inf, "all")
    soak.bench.strike(fault)
    _ended(soak, soak.start, UnavailableError)
    return bool(fault.struck)


def _full(soak: Soak) -> bool:
    strike = Strike("write", "", soak.rng.randint(1, 60))
    number = soak.rng.choice([errno.ENOSPC, errno.EROFS, errno.EDQUOT])
    fault = Fault(strike, lambda: os_error(number), soak.rng.choice(["before", "half"]), math.inf, "writes")
    soak.bench.strike(fault)
    _ended(soak, soak.start, RunAccessError)
    return bool(fault.struck)


def _slow(soak: Soak) -> bool:
    soak.bench.weather.delay = soak.bench.weather_of_V.delay = 0.0005
    _ended(soak, lambda: soak.start(callbacks=[_until(1)]))
    return True


def _twice(soak: Soak) -> bool:
    get = soak.rng.choice([Losing, Doubling, Repeating])()
    _ended(soak, lambda: soak.start(get, **_some(soak)))
    return get.extra > 0


def _order(soak: Soak) -> bool:
    get = Executor(soak.rng.choice)
    _ended(soak, lambda: soak.start(get, **_some(soak)))
    return get.graphs > 0


def _late(soak: Soak) -> bool:
    """Tasks of earlier passes, and of clients that are dead, wake up in this one."""
    ghosts = [late for each in soak.ghosts for late in each]
    soak.ghosts.clear()
    soak.rng.shuffle(ghosts)
    if not ghosts:
        _ended(soak, lambda: soak.start(**_some(soak)))
        return False
    get = Waking(ghosts)
    _ended(soak, lambda: soak.start(get, **_some(soak)))
    return get.extra > 0


def _stolen(soak: Soak) -> bool:
    """Another breaks the lock while this one works, and goes a little further itself."""
    stolen: list[int] = []
    other = Bench(soak.bench.root)

    def steal(record: Any) -> None:
        if not stolen:
            with small():
                lock.break_lock(soak.bench.kept)
            before = other.passes()
            _ended(
                soak,
                lambda: other.fit(run={"callbacks": [_until(1)]}, max_iter=soak.max_iter),
            )
            stolen.append(other.passes() - before)

    _ended(soak, lambda: soak.start(callbacks=[steal]), RunLockedError)
    return bool(stolen)


def _stale(soak: Soak) -> bool:
    """A lock is left: of a dead process, of a host that is gone, or half of one."""
    kind = soak.rng.choice(["dead", "elsewhere", "half"])
    whole = b'{"token": "0123456789ab", "host": "%s", "pid": %d, "started": 1.0, "time": %d}'
    content = (
        whole
        % {
            "dead": (Owner.this().host.encode(), dead_pid(), 0),
            "elsewhere": (b"elsewhere 1 pid:[1]", 7, int(time.time()) + soak.rng.choice([-3600, 0, 3600])),
            "half": (b"", 0, 0),
        }[kind]
    )
    keys.put(soak.bench.kept, "lock", content[:30] if kind == "half" else content)
    _ended(soak, lambda: soak.start(**_some(soak)))
    return True


def _renewed(soak: Soak) -> bool:
    """One that another host renews: this start is refused, and nothing changes."""
    soak.bench.bury()
    content = b'{"token": "0123456789ab", "host": "elsewhere 1 pid:[1]", "pid": 7, "started": 1.0, "time": 1}'
    keys.put(soak.bench.kept, "lock", content)
    before = soak.passes()
    stop = threading.Event()
    soak.bench.lease = 10.0
    thread = renewing(soak.bench, stop, 0.0)
    refused = False
    try:
        soak.start()
    except RunLockedError:
        refused = True
    finally:
        stop.set()
        thread.join()
        soak.bench.lease = 0.1
    assert refused
    assert soak.passes() == before
    soak.bench.edit_lock(host=Owner.this().host, pid=dead_pid())
    return True


def _stage_lost(soak: Soak) -> bool:
    lost: list[Path] = []
    stage = soak.bench.root / "stage"

    def lose(record: Any) -> None:
        files = sorted(stage.glob("dasknmf-stage-*/*-*"))
        if files:
            path = soak.rng.choice(files)
            if soak.rng.random() < 0.5:
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-5])
            lost.append(path)

    _ended(soak, lambda: soak.start(stage=stage, callbacks=[lose, _until(3)]))
    return bool(lost)


def _damaged(soak: Soak) -> bool:
    """What a live commit names is damaged: told, mended from a copy, and it goes on."""
    kept = sorted(path for path in soak.bench.path.rglob("*") if path.is_file() and path.name != "lock")
    chunks = [path for path in kept if path.name.startswith("c.") and "W/" in str(path)]
    if not chunks:
        return False
    path = soak.rng.choice(chunks)
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    content[soak.rng.randrange(len(content))] ^= 1 << soak.rng.randrange(8)
    path.write_bytes(bytes(content))
    told = _ended(soak, lambda: soak.start(**_some(soak)), RunDamagedError)
    if path.parent.exists():
        path.write_bytes(whole)
    return told


def _V_changed(soak: Soak) -> bool:
    path = soak.bench.root / "v.zarr" / "c" / "1" / "0"
    whole = path.read_bytes()
    path.unlink()
    told = _ended(soak, lambda: soak.start(**_some(soak)), DataChangedError)
    path.write_bytes(whole)
    return told


def _ended(soak: Soak, call: Callable[[], Any], kind: type[Exception] | None = None) -> bool:
    """Whether a start ended as it may: with an error of that kind. Or by a death, or it came to the end."""
    try:
        found = call()
    except Killed:
        soak.bench.bury()
    except Exception as error:
        if kind is None or not isinstance(error, kind):
            raise
        return True
    else:
        if isinstance(found, Result):
            soak.retries += found.retries
    return False


KINDS: dict[str, Callable[[Soak], bool]] = {
    "the process dies": _dies,
    "the process dies as it reads V": _dies_reading,
    "errors for a moment": _hiccups,
    "the store is out of reach": _out_of_reach,
    "the disk is full for a while": _full,
    "the stores are slow": _slow,
    "tasks run twice": _twice,
    "tasks run in random order": _order,
    "late tasks wake up": _late,
    "the lock is broken by another": _stolen,
    "a stale lock": _stale,
    "another host holds the lock": _renewed,
    "panels of the stage are lost": _stage_lost,
    "a chunk of W is damaged": _damaged,
    "a chunk of V is missing": _V_changed,
}


@dataclass(frozen=True)
class Outcome:
    """What a soak came to."""

    met: Counter[str]
    starts: int
    passes: int
    difference: float
    """The largest of |W − W₀|, |H − H₀| and of the objectives, to the quiet run: 0."""


def soak(faults: int, seed: int, root: Path) -> Outcome:
    """Run the whole of it.

    Parameters
    ----------
    faults : int
        How many; at least as many as there are kinds, each of which is met.
    seed : int
    root : Path
        An empty directory.
    """
    assert faults >= len(KINDS)
    rng = random.Random(seed)
    drawn = list(KINDS) + [rng.choice(list(KINDS)) for _ in range(faults - len(KINDS))]
    rng.shuffle(drawn)
    one = Soak(Bench(root), rng)
    _ended(one, lambda: one.start(callbacks=[_until(4)]))  # there are passes whose tasks may wake up
    for name in drawn:
        for _ in range(_MOST_STARTS):
            one.bench.mended()
            if KINDS[name](one):
                break
        else:
            raise AssertionError(
                f"{name!r} was not met in {_MOST_STARTS} starts, after {one.passes()} passes"
            )
        one.met[name] += 1
    assert one.met == Counter(drawn)
    one.bench.mended()
    one.max_iter = open_run(one.bench.kept).n_iter + 2
    found = one.start()
    expected = quiet(max_iter=one.max_iter)
    assert len(found.records) == len(expected.records)
    difference = max(
        float(np.abs(found.W - expected.W).max()),
        float(np.abs(found.H - expected.H).max()),
        *(
            abs((a.objective or 0.0) - (b.objective or 0.0))
            for a, b in zip(found.records, expected.records, strict=True)
        ),
    )
    return Outcome(one.met, one.starts, len(found.records), difference)
