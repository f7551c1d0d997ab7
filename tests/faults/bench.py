"""Workbench of a fault: a small V in a failing store, a run, and the result of the run without faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from dasknmf import open_run
from dasknmf.core import panels
from dasknmf.core.history import Record
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting import session
from dasknmf.io import retry
from dasknmf.store import keys, lock, records, schema
from tests.faults.stores import Directory, Fault, Objects, Strike, Weather, death
from tests.helpers import Killed, fitted, stored

N, M, PANELS = 60, 8, 3

PLAIN: dict[str, Any] = {
    "n_components": 2,
    "init": "random",
    "beta_loss": 1.0,
    "max_iter": 3,
    "tol": 0,
}
"""Six passes: 0 survey, 1 start, which reads no V, 2 to 4 exact, 5 evaluation."""
_READING = (0, 2, 3, 4, 5)
PASSES = 6


@dataclass(frozen=True)
class Place:
    """Where in a run of `PLAIN` a fault strikes."""

    name: str
    store: str
    """Whose access it is: "run" or "V"."""
    strike: Strike
    committed: int
    """Passes that stand before it."""
    counted: bool = True
    """Whether a pass follows, or goes on, to whose record its retries belong."""
    when: str = "before"
    """Where it belongs to the name: before the access, half way through it, after it."""

    @property
    def what(self) -> str:
        """What a message has to name."""
        return self.strike.key.rstrip("/")


PLACES = (
    Place("survey", "V", Strike("read", "c/1/0"), 0),
    Place("survey's sums", "run", Strike("write", "panels/sums"), 0),
    Place("start", "run", Strike("write", "W/1/c.1"), 1),
    Place("before read", "V", Strike("read", "c/1/0", 3), 3),
    Place("before read of W", "run", Strike("read", "W/2/c.1"), 3),
    Place("after W write", "run", Strike("write", "W/3/c.1"), 3, when="after"),
    Place("H", "run", Strike("write", "small/3/0/values/c.0"), 3),
    Place("between H and commit", "run", Strike("write", "history/3"), 3),
    Place("during commit", "run", Strike("write", "commit", 4), 3, when="half"),
    Place("after commit", "run", Strike("delete", "W/1"), 4, counted=False),
    Place("evaluation", "V", Strike("read", "c/1/0", 5), 5),
    Place("last commit", "run", Strike("write", "commit", 6), 5, counted=False, when="half"),
    Place("export", "run", Strike("read", "W/4/c.1", 2), 6, counted=False),
)


@dataclass(frozen=True)
class Result:
    """What a fit gave."""

    W: np.ndarray
    H: np.ndarray
    records: tuple[Record, ...]

    @property
    def retries(self) -> int:
        return sum(record.retries for record in self.records)


@lru_cache
def quiet(**changes: Any) -> Result:
    """The same fit, to which nothing happens."""
    with TemporaryDirectory() as root:
        return Bench(Path(root)).fit(**changes)


@lru_cache
def dead_pid() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory for a while: every commit waits for its disk, and in memory takes a tenth of the time."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=memory) as root:
        yield Path(root)


@dataclass
class Bench:
    """A directory of one cell, and what is in it."""

    root: Path
    weather: Weather = field(default_factory=Weather)
    """Of the run's store, in this start."""
    weather_of_V: Weather = field(default_factory=Weather)
    objects: Any = None
    """What the run is kept in, where that is no directory."""
    lease: float = 0.1
    """Seconds for which another host's lock is watched."""

    @property
    def path(self) -> Path:
        return self.root / "run"

    @property
    def V(self) -> Any:
        """The store of V, with its weather."""
        if not (self.root / "v.zarr").exists():
            stored(self.root / "v.zarr", matrix(), (N // PANELS, M))
        return Objects(LocalStore(self.root / "v.zarr"), self.weather_of_V)

    @property
    def kept(self) -> Any:
        """What the run is kept in, without weather."""
        return LocalStore(self.path) if self.objects is None else self.objects

    @property
    def store(self) -> Any:
        """The store of the run, with its weather."""
        if self.objects is None:
            return Directory(self.path, self.weather)
        return Objects(self.objects, self.weather)

    def strike(self, *faults: Fault) -> None:
        self.weather.faults += faults

    def meet(self, place: Place, fault: Fault) -> None:
        """Let a fault happen at a place."""
        (self.weather if place.store == "run" else self.weather_of_V).faults.append(fault)

    def fit(
        self, get: Any = None, run: dict[str, Any] | None = None, X: Any = None, **changes: Any
    ) -> Result:
        """One start of the fit, from opening V and the run to reading W back."""
        with ExitStack() as stack:
            stack.enter_context(small(self.lease))
            if get is not None:
                executor = Scheduler("synchronous", get)
                stack.enter_context(mock.patch.object(session, "current_scheduler", return_value=executor))
            X = zarr.open_array(self.V, mode="r") if X is None else X
            model, W = fitted(X, "synchronous", {"checkpoint": self.store, **(run or {})}, **PLAIN | changes)
        return Result(W, model.components_, tuple(model.history_))

    def dies(self, **options: Any) -> None:
        """A start that ends by a death; the lock that it leaves is that of a process that is no more."""
        with pytest.raises(Killed):
            self.fit(**options)
        self.bury()

    def dies_at(self, key: str) -> None:
        """The same, when it writes a key for the first time."""
        self.strike(death(Strike("write", key)))
        self.dies()

    def bury(self) -> None:
        """The process that held the lock is gone, with whatever it knew."""
        held = keys.get(self.kept, "lock", 2**16)
        if held is not None:
            self.edit_lock(pid=dead_pid())

    def edit_lock(self, **changes: Any) -> None:
        """Let the lock say something else, behind the back of whoever holds it."""
        held = json.loads(keys.get(self.kept, "lock", 2**16) or b"{}")
        keys.put(self.kept, "lock", json.dumps(held | changes).encode())

    def mended(self) -> None:
        """Another start finds fair weather, and counts anew."""
        self.weather, self.weather_of_V = Weather(), Weather()

    def again(self, **options: Any) -> Result:
        """The same started again in fair weather."""
        self.mended()
        return self.fit(**options)

    def passes(self) -> int:
        """How many are committed, as whoever looks at the run sees it."""
        return open_run(self.kept).n_passes if records.read_record(self.kept, "run", schema.Problem) else 0

    def reads_of_V(self) -> Counter[str]:
        return Counter({key: n for key, n in self.weather_of_V.reads.items() if key.startswith("c/")})


@contextmanager
def small(lease: float = 0.1) -> Iterator[None]:
    """Panels of a few rows, storage that is asked again soon, locks that are soon free."""
    with (
        mock.patch.multiple(panels, _PANEL_BYTES=(1, 2), _PANELS=10**6),
        mock.patch.multiple(retry, _FIRST_WAIT=1e-4),
        mock.patch.multiple(lock, _SETTLE=0.005, _LEASE=lease, _LOOK=0.01),
    ):
        yield


@lru_cache
def matrix() -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.random((N, 3)) @ rng.random((3, M)) + 0.05 * rng.random((N, M)) + 0.01


def same(found: Result, expected: Result, *, fetched: bool = True) -> None:
    """Bit for bit, with the same history; how long it took and what was asked again aside.

    Not what was fetched of V, where a stage has kept it or a start had to fetch it again.
    """
    np.testing.assert_array_equal(found.W, expected.W)
    np.testing.assert_array_equal(found.H, expected.H)
    lasting = {"seconds": 0.0, "memory": None, "retries": 0} | ({} if fetched else {"bytes_read": 0})
    told, expected_told = (
        [replace(record, **lasting) for record in each.records] for each in (found, expected)
    )
    assert told == expected_told


def reads_left(committed: int) -> int:
    """How often each chunk of V is read by the passes that do not stand."""
    return sum(number >= committed for number in _READING)


def resumed(bench: Bench, committed: int) -> Result:
    """Started again, the result is that of the quiet run, and only what did not stand was read."""
    assert bench.passes() == committed
    found = bench.again()
    same(found, quiet())
    chunks = {f"c/{panel}/0": reads_left(committed) for panel in range(PANELS)}
    assert bench.reads_of_V() == {key: n for key, n in chunks.items() if n}
    return found
