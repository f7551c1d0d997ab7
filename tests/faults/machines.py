"""Schedulers, workers and clients as processes of this machine, with logs of their work."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import dask.array as da
import numpy as np
from distributed import Client, get_worker

from dasknmf import open_run
from dasknmf.core import panels
from dasknmf.store import keys, records
from dasknmf.store.progress import Commit, Progress
from tests.faults.begun import Begun, begun
from tests.helpers import fitted, stored

PARAMETERS: dict[str, Any] = {
    "n_components": 3,
    "init": "random",
    "beta_loss": 1.0,
    "random_state": 0,
    "max_iter": 4,
    "tol": 0,
}
"""Six passes: survey, start (which reads no V), four exact and the evaluation."""
N, M, PANELS = 90, 14, 6


@contextmanager
def small() -> Iterator[None]:
    """Panels of a few rows: every chunk of V becomes one."""
    with mock.patch.multiple(panels, _PANEL_BYTES=(1, 2), _PANELS=10**6):
        yield


def matrix() -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.random((N, 4)) @ rng.random((4, M)) + 0.1 * rng.random((N, M)) + 0.01


def V_in(root: Path) -> Path:
    """Where V is stored below a directory."""
    path = root / "v.zarr"
    if not path.exists():
        stored(path, matrix(), (N // PANELS, M))
    return path


@lru_cache
def quiet(**changes: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """W and H of the same fit to which nothing happens, and how often it reads V."""
    with TemporaryDirectory() as root, small():
        model, W = fitted(str(V_in(Path(root))), **PARAMETERS | changes)
        return W, model.components_, model.n_reads_


def fit(V: Any, client: Any = None, run: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The fit, as a client in this process makes it: a model, and its W as NumPy."""
    with small():
        return fitted(V, client, run, **PARAMETERS | changes)


def same(found: Any, **changes: Any) -> None:
    """What `fit` gave is what the quiet run gave, bit for bit."""
    model, W = found
    expected, H, reads = quiet(**changes)
    np.testing.assert_array_equal(W, expected)
    np.testing.assert_array_equal(model.components_, H)
    assert model.n_reads_ == reads


def sound(run: Path, **changes: Any) -> None:
    """A run at rest holds what the quiet run gave, bit for bit, and nothing that nobody needs."""
    W, H, _ = quiet(**changes)
    opened = open_run(run)
    np.testing.assert_array_equal(opened.W.compute(), W)
    np.testing.assert_array_equal(opened.H, H)
    assert not (run / "lock").exists()
    assert len(list((run / "W").iterdir())) <= 2


def passes(run: Path) -> int:
    """How many passes are committed."""
    return (
        getattr(records.read_record(keys.opened(run), "commit", Commit), "progress", Progress()).passes
        if run.exists()
        else 0
    )


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait, and return what became true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.01)
    return found


class Log:
    """What several processes write down, one line each: an append is one write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, **entry: Any) -> None:
        with open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps({"pid": os.getpid(), **entry}).encode() + b"\n")

    def entries(self, what: str = "") -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        every = [{"at": at, **json.loads(line)} for at, line in enumerate(lines)]
        return [entry for entry in every if what in ("", entry["what"])]

    def visits(self) -> dict[tuple[str, int], list[int]]:
        """Which processes began each visit, by pass and panel."""
        found: dict[tuple[str, int], list[int]] = {}
        for entry in self.entries("begin"):
            found.setdefault((entry["pass"], entry["panel"]), []).append(entry["pid"])
        return found

    def at_work(self) -> list[dict[str, Any]]:
        """Visits that have begun, and not ended."""
        ended = {each["visit"] for each in self.entries("end")}
        return [each for each in self.entries("begin") if each["visit"] not in ended]


class Watched:
    """V whose chunks take a while to read, in the task that visits them, which is written down."""

    def __init__(self, log: Path, seconds: float) -> None:
        self._log, self._seconds = Log(log), seconds

    def __call__(self, block: np.ndarray) -> np.ndarray:
        try:
            name, panel = get_worker().get_current_task()
        except ValueError:
            name, panel = "", 0  # a thread of the client
        visit = {"visit": uuid.uuid4().hex, "pass": name, "panel": panel}
        self._log.add(what="begin", **visit)
        time.sleep(self._seconds)
        self._log.add(what="end", **visit)
        return block


def watched(root: Path, seconds: float = 0.1) -> da.Array:
    """V below a directory, slowly, and the log beside it."""
    V = da.from_zarr(str(V_in(root)))
    return V.map_blocks(Watched(root / "log", seconds), dtype=V.dtype, meta=np.empty((0, 0)))


def client(root: Path, *, within: Sequence[str] = (), **options: Any) -> Begun:
    """Another process that makes the same fit, of `root`'s V into `root`'s run; see `client.py`."""
    given = {"root": str(root), **options}
    says = root / f"client-{uuid.uuid4().hex[:8]}.log"
    return begun(["tests.faults.client", json.dumps(given)], says, within=within)


class Cluster:
    """A scheduler and workers, each a process.

    Parameters
    ----------
    root : Path
    n_workers : int
        That have come when the cluster is entered.
    config : dict of str
        Of Dask, for all of them.
    host : str
        The address at which the scheduler listens.
    """

    def __init__(
        self, root: Path, n_workers: int = 2, config: dict[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._root, self._n_workers, self._host = root, n_workers, host
        self._environment = {
            "DASK_" + name.upper().replace(".", "__").replace("-", "_"): value
            for name, value in (config or {}).items()
        }
        self._processes: list[Begun] = []

    def __enter__(self) -> Cluster:
        file = self._root / "scheduler.json"
        file.unlink(missing_ok=True)
        options = ["--host", self._host, "--port", "0", "--no-dashboard", "--scheduler-file", file]
        self.scheduler = self._begun("dask_scheduler", options)
        self.address = until(lambda: _address(file))
        self.join(self._n_workers)
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def join(self, n: int, *options: Any, within: Sequence[str] = (), nanny: bool = False) -> list[Begun]:
        """So many workers more, each of one thread."""
        common = ["--nthreads", "1", "--no-dashboard", "--local-directory", self._root / "workers"]
        common += ["--nanny" if nanny else "--no-nanny", "--death-timeout", "60", *options]
        return [self._begun("dask_worker", [self.address, *common], within) for _ in range(n)]

    def _begun(self, module: str, options: Sequence[Any], within: Sequence[str] = ()) -> Begun:
        command = [f"distributed.cli.{module}", *options]
        process = begun(command, self._root / "cluster.log", within=within, **self._environment)
        self._processes.append(process)
        return process

    @contextmanager
    def client(self, n_workers: int | None = None) -> Iterator[Client]:
        """A client in this process, when so many workers have come."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(self._n_workers if n_workers is None else n_workers, timeout=60)
            yield client


def _address(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError):
        return None
