"""Disks and files that fill, vanish and change under real commands and real processes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pytest
from zarr.storage import LocalStore

from dasknmf import open_run
from dasknmf.errors import RunAccessError
from dasknmf.store import keys, lock, records
from dasknmf.store.progress import Commit
from tests.faults.begun import Begun, begun
from tests.faults.bench import Bench
from tests.faults.cells import Cell
from tests.faults.machines import Cluster, V_in, fit, passes, same, sound, until
from tests.helpers import stored

_REFUSED = 4


@contextmanager
def _mounted(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of that size; what is given changes how it is mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield lambda how: _run("mount", "-o", f"remount,{how}", str(place))
    finally:
        _run("umount", "--lazy", str(place))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _disk_full(bench: Bench) -> None:
    """Said once; with room made the same start goes on."""
    V, run = str(V_in(bench.root)), bench.root / "disk" / "run"
    with _mounted(bench.root / "disk", "400k") as remount:
        with pytest.raises(RunAccessError, match=r"No space left on device.*make room"):
            fit(V, run={"checkpoint": run}, max_iter=200)
        done = open_run(run).n_iter
        assert done >= 1
        remount("size=40m")
        same(fit(V, run={"checkpoint": run}, max_iter=done + 3), max_iter=done + 3)
        sound(run, max_iter=done + 3)


def _read_only(bench: Bench) -> None:
    """The file system refuses from one moment on, as after an error of its disk."""
    V, run = str(V_in(bench.root)), bench.root / "disk" / "run"
    with _mounted(bench.root / "disk", "40m") as remount:

        def refuse(record: Any) -> None:
            if record.iteration == 2:
                remount("ro")

        with pytest.raises(RunAccessError, match="Read-only file system"):
            fit(V, run={"checkpoint": run, "callbacks": [refuse]})
        assert open_run(run).n_iter == 2  # what is committed can be looked at
        remount("rw")
        same(fit(V, run={"checkpoint": run}))
        sound(run)


class SlowStore(LocalStore):
    """A directory that takes its time, sometimes a long one."""

    calls = 0

    async def _wait(self) -> None:
        SlowStore.calls += 1
        await asyncio.sleep(1.0 if SlowStore.calls % 50 == 0 else 0.01)

    async def get(self, *arguments: Any, **options: Any) -> Any:
        await self._wait()
        return await super().get(*arguments, **options)

    async def set(self, *arguments: Any, **options: Any) -> None:
        await self._wait()
        await super().set(*arguments, **options)


def _slow(bench: Bench) -> None:
    """Slower than the lock is renewed: it stays ours."""
    run = bench.root / "run"
    with (
        mock.patch.multiple(lock, _RENEWED=0.1, _LEASE=2.0),
        Cluster(bench.root, 2) as cluster,
        cluster.client() as client,
    ):
        same(fit(str(V_in(bench.root)), client, {"checkpoint": SlowStore(run)}))
    assert SlowStore.calls > 100
    sound(run)


_ROWS, _COLUMNS, _CHUNK = 8192, 1024, 1024
"""32 MiB: eight panels, as the command cuts them."""


def _command(root: Path, max_iter: int) -> Begun:
    options = ["-k", 3, "--beta-loss", "kullback-leibler", "--init", "random", "--random-state", 0]
    options += ["--tol", 0, "--max-iter", max_iter, "--scheduler", "threads"]
    return begun(["dasknmf.cli", "fit", root / "v.zarr", root / "run", *options], root / "told")


@lru_cache
def _large() -> tuple[TemporaryDirectory[str], Path]:
    """V, and a run of four iterations on it."""
    directory = TemporaryDirectory()
    root = Path(directory.name)
    rng = np.random.default_rng(0)
    X = rng.gamma(1.0, size=(_ROWS, 4)) @ rng.gamma(1.0, size=(4, _COLUMNS)) + 0.1
    stored(root / "v.zarr", X.astype(np.float32), (_CHUNK, _COLUMNS))
    _command(root, 4).ends(0)
    return directory, root


@lru_cache
def _answer(max_iter: int) -> tuple[np.ndarray, np.ndarray]:
    """What the command leaves to which nothing happens."""
    with TemporaryDirectory() as root:
        _copied(Path(root), run=False)
        _command(Path(root), max_iter).ends(0)
        return _held(Path(root) / "run")


def _held(run: Path) -> tuple[np.ndarray, np.ndarray]:
    opened = open_run(run)
    return opened.W.compute(), opened.H


def _copied(root: Path, *, run: bool = True) -> None:
    for name in ("v.zarr", "run") if run else ("v.zarr",):
        shutil.copytree(_large()[1] / name, root / name)


def _goes_on(root: Path, max_iter: int) -> None:
    """The same command once more ends as if nothing had been."""
    _command(root, max_iter).ends(0)
    for found, expected in zip(_held(root / "run"), _answer(max_iter), strict=True):
        np.testing.assert_array_equal(found, expected)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _factors(damage: Callable[[Path], None], bench: Bench) -> None:
    """The next start refuses with the panel's name and changes nothing; with the file back it goes on."""
    _copied(bench.root)
    rows = sorted((bench.root / "run" / "W").glob("*/c.3.*"))
    kept = {path: path.read_bytes() for path in rows}
    for path in rows:
        damage(path)
    before = passes(bench.root / "run")
    _command(bench.root, 7).ends(_REFUSED, "rows of panel 3", "restore the store from a copy")
    assert passes(bench.root / "run") == before
    for path, data in kept.items():
        path.write_bytes(data)
    _goes_on(bench.root, 7)


def _H(damage: Callable[[Path], None], bench: Bench) -> None:
    """The same of H."""
    _copied(bench.root)
    commit = records.read_record(keys.opened(bench.root / "run"), "commit", Commit)
    assert commit is not None
    state = commit.progress.state
    kept = {path: path.read_bytes() for path in (bench.root / "run" / "small" / state).rglob("c.*")}
    assert kept
    for path in kept:
        damage(path)
    _command(bench.root, 7).ends(_REFUSED, "Error: ", "restore the store from a copy")
    for path, data in kept.items():
        path.write_bytes(data)
    _goes_on(bench.root, 7)


def _V_between(damage: Callable[[Path], None], bench: Bench) -> None:
    """The first pass of the next start finds the panel; with V back it goes on."""
    _copied(bench.root)
    chunk = bench.root / "v.zarr" / "c" / "3" / "0"
    kept = chunk.read_bytes()
    damage(chunk)
    _command(bench.root, 7).ends(_REFUSED, "panel 3", "V changed or is damaged")
    chunk.write_bytes(kept)
    _goes_on(bench.root, 7)


def _other_values(path: Path) -> None:
    path.write_bytes((path.parents[1] / "4" / "0").read_bytes())


def _V_while(bench: Bench) -> None:
    """A chunk goes while the command runs, after its first passes."""
    _copied(bench.root, run=False)
    chunk = bench.root / "v.zarr" / "c" / "3" / "0"
    fit = _command(bench.root, 30)
    until(lambda: passes(bench.root / "run") >= 3)
    chunk.rename(bench.root / "kept")
    fit.ends(_REFUSED, "panel 3", "V changed or is damaged")
    assert 3 <= passes(bench.root / "run") < 32
    (bench.root / "kept").rename(chunk)
    _goes_on(bench.root, 30)


_BACK = "exit code 4, what is damaged is named, nothing is committed; restored, the same command goes on"
_DAMAGES = {"truncated": _truncate, "flipped": _flip, "missing": Path.unlink}

OF_STORAGE = (
    Cell("the disk is full", "during commit", "said; with room made the same start goes on", _disk_full),
    Cell("the run's disk is read-only", "before W write", "said; writable, the same goes on", _read_only),
    Cell("the run's store is slow", "every access", "the lock stays ours; same result", _slow),
    *(
        Cell(f"factors are {how}", "between two starts", _BACK, partial(_factors, damage))
        for how, damage in _DAMAGES.items()
    ),
    Cell("H is flipped", "between two starts", _BACK, partial(_H, _flip)),
    Cell("V has other values", "between two starts", _BACK, partial(_V_between, _other_values)),
    Cell("a chunk of V is missing", "between two starts", _BACK, partial(_V_between, Path.unlink)),
    Cell("a chunk of V goes", "before read", _BACK, _V_while),
)
