"""Faults in other kinds of fits: many models, masks, custom starts, stages and exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from dasknmf import open_run, rank_sweep
from dasknmf.cli import tables
from dasknmf.data.staging import files
from dasknmf.errors import DataChangedError, RunDamagedError, StageError
from dasknmf.singlecell.export import Exported
from tests.faults.bench import Bench, M, N, Result, matrix, quiet, same, small
from tests.faults.cells import Cell
from tests.faults.stores import TRANSIENT, Directory, Fault, Objects, Strike, death, os_error
from tests.helpers import Killed, computing, stored


@dataclass(frozen=True)
class Kind:
    """One way to fit."""

    name: str
    changes: dict[str, Any]
    run: Callable[[], dict[str, Any]] = dict
    masked: bool = False

    def fit(self, bench: Bench) -> Result:
        X = None
        if self.masked:
            path = bench.root / "masked.zarr"
            if not path.exists():
                holes = np.random.default_rng(3).random((N, M)) < 0.2
                stored(path, np.where(holes, np.nan, matrix()), (20, M))
            X = zarr.open_array(Objects(LocalStore(path), bench.weather_of_V), mode="r")
        return bench.fit(X=X, run=self.run(), **self.changes)


def _given() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {"W": rng.random((N, 2)), "H": rng.random((2, M))}


OTHERS = (
    Kind("cd", {"beta_loss": 2.0, "solver": "cd"}),
    Kind("nndsvda", {"beta_loss": 2.0, "init": "nndsvda", "max_iter": 2}),
    Kind("sketch", {"beta_loss": 2.0, "init": "sketch", "max_iter": 2}),
    Kind("sample", {"init": "sample", "max_iter": 2}),
    Kind("a given start", {"init": "custom"}, _given),
    Kind("missing values", {"missing_values": "nan"}, masked=True),
    Kind(
        "hidden and missing entries",
        {"beta_loss": 2.0, "missing_values": "nan", "max_iter": 2},
        lambda: {"holdout": 0.1},
        masked=True,
    ),
    Kind("two starts at once", {"n_init": 2}),
    Kind("halving", {"n_init": 4, "halving": True, "max_iter": 5}),
)


@lru_cache
def _quiet(number: int) -> tuple[Result, int]:
    """What a kind gives, and how often it writes."""
    with TemporaryDirectory() as root:
        bench = Bench(Path(root))
        return OTHERS[number].fit(bench), sum(access == "write" for access, _ in bench.weather.log)


def _dies(number: int, share: float, bench: Bench) -> None:
    expected, writes = _quiet(number)
    bench.strike(death(Strike("write", "", round(share * writes)), "half"))
    with pytest.raises(Killed):
        OTHERS[number].fit(bench)
    bench.bury()
    bench.mended()
    same(OTHERS[number].fit(bench), expected)


def _is_asked_again(number: int, bench: Bench) -> None:
    expected, writes = _quiet(number)
    bench.weather.faults += [
        Fault(Strike("write", "", nth), TRANSIENT["EIO"]) for nth in range(30, writes - 10, 30)
    ]
    bench.weather_of_V.faults += [Fault(Strike("read", "c/", nth), TRANSIENT["timeout"]) for nth in (2, 6)]
    found = OTHERS[number].fit(bench)
    same(found, expected)
    assert found.retries >= 3


# Sweeps


def _swept(bench: Bench) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    with small(), computing("synchronous"):
        sweep = rank_sweep(
            zarr.open_array(bench.V, mode="r"),
            [2, 3],
            n_init=2,
            rule="stability",
            init="random",
            max_iter=2,
            tol=0,
            random_state=0,
            checkpoint=bench.store,
        )
        run = open_run(bench.kept)
        return np.asarray(run.W), run.H, sweep.columns["loss"], sweep.best


def _sweep_dies(share: float, bench: Bench) -> None:
    other = Bench(bench.root / "quiet")
    other.root.mkdir()
    expected = _swept(other)
    writes = sum(access == "write" for access, _ in other.weather.log)
    bench.strike(death(Strike("write", "", round(share * writes)), "half"))
    with pytest.raises(Killed):
        _swept(bench)
    bench.bury()
    bench.mended()
    found = _swept(bench)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


# Stages


def _stage(bench: Bench, kind: str) -> Any:
    return "memory" if kind == "memory" else bench.root / "stage"


def _staged_and_dies(kind: str, bench: Bench) -> None:
    bench.strike(death(Strike("write", "history/3")))
    bench.dies(run={"stage": _stage(bench, kind)})
    bench.mended()
    same(bench.fit(run={"stage": _stage(bench, kind)}), quiet(), fetched=False)
    # Of the passes that were left, the first fetched V, and no other.
    assert set(bench.reads_of_V().values()) == {1}


def _lost(damage: Callable[[Path], None], bench: Bench) -> None:
    panels = []

    def strike(record: Any) -> None:
        if record.iteration == 2:
            (path,) = (bench.root / "stage").glob("dasknmf-stage-*/20-40")
            panels.append(path)
            damage(path)

    found = bench.fit(run={"stage": bench.root / "stage", "callbacks": [strike]})
    assert panels
    same(found, quiet(), fetched=False)
    assert bench.reads_of_V() == {"c/0/0": 1, "c/1/0": 2, "c/2/0": 1}  # that panel alone, once more


def _stage_is_full(bench: Bench) -> None:
    def full(path: Path) -> Any:
        raise files._refused(path.parent, os_error(28))

    with mock.patch.object(files, "_writing", full), pytest.raises(StageError) as raised:
        bench.fit(run={"stage": bench.root / "stage"})
    assert "make room" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list((bench.root / "stage").glob("*"))
    same(bench.again(), quiet())


def _V_changes_behind(bench: Bench) -> None:
    """A panel that is lost of the stage is no longer in V what it was."""

    def strike(record: Any) -> None:
        if record.iteration == 2:
            zarr.open_array(bench.root / "v.zarr")[25, 3] = 7.0
            for path in (bench.root / "stage").glob("dasknmf-stage-*/20-40"):
                path.unlink()

    with pytest.raises(DataChangedError, match="panel 1 "):
        bench.fit(run={"stage": bench.root / "stage", "callbacks": [strike]})
    assert bench.passes() == 4


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


_OF_A_STAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": _flipped,
}


# Exports


def _export(bench: Bench, store: Any) -> dict[str, bytes]:
    directory = bench.root / "tables"
    run = open_run(store)
    with computing("synchronous"):
        tables.write_tables(
            directory,
            Exported(run, None, M),
            cells=None,
            genes=np.array([f"g{i}" for i in range(M)]),
            overwrite=True,
        )
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def _export_meets(name: str, kind: type[BaseException], bench: Bench) -> None:
    bench.fit()
    expected = _export(bench, bench.path)
    errors: dict[str, Callable[[], BaseException]] = {
        "the process dies": lambda: Killed("export"),
        "a timeout for a moment": TRANSIENT["timeout"],
    }
    bench.mended()
    store = Directory(bench.path, bench.weather, read_only=True)
    if name == "a chunk of W is lost":
        (chunk,) = bench.path.glob(f"W/{open_run(bench.path).progress.location.rows.name}/c.1.*")
        kept = chunk.read_bytes()
        chunk.unlink()
    else:
        bench.strike(Fault(Strike("read", "W/4/c.1"), errors[name]))
    if name == "a timeout for a moment":
        with small():
            assert _export(bench, store) == expected
        return
    with pytest.raises(kind):
        _export(bench, store)
    # What was exported before stands, and nothing lies beside it.
    assert {path.name: path.read_bytes() for path in (bench.root / "tables").iterdir()} == expected
    assert sorted(path.name for path in bench.root.iterdir()) == ["run", "tables", "v.zarr"]
    if name == "a chunk of W is lost":
        chunk.write_bytes(kept)
    assert _export(bench, bench.path) == expected


_AGAIN = "again: identical"
KINDS = (
    *(
        Cell(
            "the process dies, other fits",
            f"{kind.name}, {share:.0%} of its writes",
            _AGAIN,
            partial(_dies, number, share),
        )
        for number, kind in enumerate(OTHERS)
        for share in (0.35, 0.65, 0.9)
    ),
    *(
        Cell(
            "errors for a moment, other fits",
            kind.name,
            "identical; retries counted",
            partial(_is_asked_again, number),
        )
        for number, kind in enumerate(OTHERS)
    ),
    *(
        Cell("the process dies, a sweep", f"{share:.0%} of its writes", _AGAIN, partial(_sweep_dies, share))
        for share in (0.3, 0.6, 0.8, 0.95)
    ),
    *(
        Cell(
            "the process dies, with a stage",
            f"between H and commit, stage in {kind}",
            "identical; V fetched once a start",
            partial(_staged_and_dies, kind),
        )
        for kind in ("memory", "files")
    ),
    *(
        Cell(
            "the stage's file is damaged",
            f"between passes: {name}",
            "identical; that panel fetched again",
            partial(_lost, damage),
        )
        for name, damage in _OF_A_STAGE.items()
    ),
    Cell("the stage's disk is full", "survey", "StageError; without: identical", _stage_is_full),
    Cell(
        "the stage is lost and V changed",
        "between passes",
        "DataChangedError, with the panel",
        _V_changes_behind,
    ),
    *(
        Cell(name, "export of tables", "what stood there stands", partial(_export_meets, name, kind))
        for name, kind in {
            "the process dies": Killed,
            "a chunk of W is lost": RunDamagedError,
            "a timeout for a moment": BaseException,
        }.items()
    ),
)
