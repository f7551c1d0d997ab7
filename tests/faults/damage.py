"""Altered content of a store: factors, states, records, and V."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zarr

from dasknmf import open_run
from dasknmf.errors import (
    DaskNMFError,
    DataChangedError,
    RunDamagedError,
    RunMismatchError,
    SourceError,
)
from tests.faults.bench import Bench, matrix, quiet, same, small
from tests.faults.cells import Cell
from tests.helpers import stored

T = TypeVar("T")

STANDING = 4
"""Passes that stand: survey, start and two exact ones."""


def _interrupted(bench: Bench) -> None:
    bench.dies_at(f"history/{STANDING}")


def _flip(share: float, content: bytes) -> bytes:
    changed = bytearray(content)
    at = min(int(share * len(content)), len(content) - 1)
    changed[at] ^= 1 << (at % 8)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a bit flipped at the start": partial(_flip, 0.0),
    "a bit flipped at a third": partial(_flip, 1 / 3),
    "a bit flipped in the middle": partial(_flip, 0.5),
    "a bit flipped at the end": partial(_flip, 1.0),
    "missing": lambda content: None,
}

PARTS = {
    # What it is, where it lies, and what an error has to name.
    "a chunk of W": ("W/*/c.1.0.0", "panel 1 "),
    "W's metadata": ("W/*/zarr.json", "panel "),
    "H": ("small/{state}/0/values-*/c.0", "small/"),
    "H's metadata": ("small/{state}/0/values-*/zarr.json", "small/"),
    "the state's record": ("small/{state}/0/zarr.json", ""),
    "the commit": ("commit/zarr.json", "commit"),
    "the run's record": ("run/zarr.json", "run"),
    "the panels": ("panels/edges/c.0", "panels/edges"),
    "the panels' metadata": ("panels/edges/zarr.json", "panels/edges"),
    "the panels' sums": ("panels/sums/c.0", "panels/sums"),
    "a pass's history": ("history/2-*/zarr.json", "history"),
    "the plan": ("plan/zarr.json", "plan"),
    "the root": ("zarr.json", ""),
}
_REGENERATED = {"the plan"}
"""Nothing of it has to match: the next start writes it anew."""
_FOR_OTHERS = {"W's metadata"}
"""For other readers of Zarr: what W's chunks are is told by the run, and nothing here depends on them."""


def damage(path: Path, change: Callable[[bytes], bytes | None]) -> None:
    changed = change(path.read_bytes())
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)


def _part(bench: Bench, pattern: str) -> Path:
    run = open_run(bench.path)
    answer = run.progress.location
    assert answer.rows is not None
    pattern = pattern.replace("W/*", f"W/{answer.rows.name}").replace("{state}", run.progress.state)
    (path,) = bench.path.glob(pattern)
    return path


def _of_the_run(part: str, kind: str, bench: Bench) -> None:
    pattern, named = PARTS[part]
    _interrupted(bench)
    path = _part(bench, pattern)
    kept = path.read_bytes()
    damage(path, DAMAGES[kind])
    told, found = _asked(bench.again)
    if told is None:
        # Nothing depended on it.
        assert found is not None
        same(found, quiet())
        return
    assert named in told
    assert str(bench.path) in told
    assert part not in _REGENERATED
    path.write_bytes(kept)  # from a copy
    same(bench.again(), quiet())


def _asked(call: Callable[[], T]) -> tuple[str | None, T | None]:
    """What is said of damage, in one line, or what came without."""
    try:
        return None, call()
    except RunDamagedError as error:
        told = str(error)
    if "\n" in told:
        raise AssertionError(told)
    return told, None


def _read_back(part: str, flips: int, bench: Bench) -> None:
    """Whoever looks at a run, without a fit, gets what is right or an error, wherever a bit is flipped."""
    expected = bench.fit()
    path = _part(bench, PARTS[part][0])
    content = path.read_bytes()
    told = 0
    for number in range(flips):
        path.write_bytes(_flip(number / flips, content))
        error, found = _asked(lambda: _looked_at(bench))
        told += error is not None
        if found is not None:
            np.testing.assert_array_equal(found[0], expected.W)
            np.testing.assert_array_equal(found[1], expected.H)
    assert told > flips / 3 or part in _FOR_OTHERS, f"{told} of {flips} flips were seen"


def _looked_at(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    run = open_run(bench.path)
    with small():
        return run.W.compute(scheduler="synchronous"), run.H


# V


def _chunk(bench: Bench) -> Path:
    return bench.root / "v.zarr" / "c" / "1" / "0"


def _changed_value(bench: Bench) -> None:
    V = zarr.open_array(bench.root / "v.zarr")
    V[25, 3] = float(V[25, 3]) * (1 + 1e-9)


def _another_panel(bench: Bench) -> None:
    _chunk(bench).write_bytes((bench.root / "v.zarr" / "c" / "0" / "0").read_bytes())


def _negative(bench: Bench) -> None:
    V = zarr.open_array(bench.root / "v.zarr")
    V[25, 3] = -1.0


def _not_a_number(bench: Bench) -> None:
    V = zarr.open_array(bench.root / "v.zarr")
    V[25, 3] = np.nan


CHANGES: dict[str, Callable[[Bench], None]] = {
    "one value, by 1e-9 of itself": _changed_value,
    "one value is negative": _negative,
    "one value is NaN": _not_a_number,
    "a chunk is another's": _another_panel,
    "a chunk is missing": lambda bench: _chunk(bench).unlink(),
    "a chunk is truncated": lambda bench: damage(_chunk(bench), DAMAGES["truncated"]),
    "a chunk is empty": lambda bench: damage(_chunk(bench), DAMAGES["empty"]),
    "a chunk is of zeros": lambda bench: damage(_chunk(bench), DAMAGES["zeros"]),
    "a chunk with a flipped bit": lambda bench: damage(_chunk(bench), DAMAGES["a bit flipped in the middle"]),
}


def _of_V(change: Callable[[Bench], None], when: str, bench: Bench) -> None:
    def strike(record: Any) -> None:
        if when == "between passes" and record.iteration == 2:
            change(bench)

    if when == "between starts":
        _interrupted(bench)
        change(bench)
    bench.mended()
    with pytest.raises(DaskNMFError) as raised:
        bench.fit(run={"callbacks": [strike]})
    told = str(raised.value)
    assert isinstance(raised.value, (DataChangedError, SourceError)), f"{type(raised.value).__name__}: {told}"
    assert "\n" not in told
    assert "panel 1 " in told or "c/1/0" in told or "rows 20 to 39" in told
    assert bench.passes() == STANDING
    V = bench.root / "v.zarr"
    zarr.open_array(V)[...] = matrix()  # brought back
    same(bench.again(), quiet())


def _another_V(change: str, named: str, bench: Bench) -> None:
    _interrupted(bench)
    X = matrix()
    others = {
        "shape": lambda: stored(bench.root / "other.zarr", X[:40], (20, 8)),
        "columns": lambda: stored(bench.root / "other.zarr", X[:, :7], (20, 7)),
        "dtype": lambda: stored(bench.root / "other.zarr", X.astype("f4"), (20, 8)),
        "chunks": lambda: stored(bench.root / "other.zarr", X, (30, 8)),
    }
    with pytest.raises(RunMismatchError) as raised:
        bench.again(X=others[change]())
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    same(bench.again(), quiet())


_HONEST = "RunDamagedError that names it, or identical"
DAMAGE = (
    *(
        Cell(f"{part} is damaged", f"between starts: {kind}", _HONEST, partial(_of_the_run, part, kind))
        for part in PARTS
        for kind in DAMAGES
    ),
    *(
        Cell(
            f"{part} is damaged",
            "after the end: a bit flipped, 40 places",
            "RunDamagedError, or what was written",
            partial(_read_back, part, 40),
        )
        for part in PARTS
        if part not in ("the plan", "the root")  # of which no number depends
    ),
    *(
        Cell(
            "V changes",
            f"{when}: {name}",
            "told, with the place; brought back: identical",
            partial(_of_V, change, when),
        )
        for name, change in CHANGES.items()
        for when in ("between passes", "between starts")
    ),
    *(
        Cell(
            "V is another",
            f"between starts: another {change}",
            f"RunMismatchError: {named}",
            partial(_another_V, change, named),
        )
        for change, named in {
            "shape": "shape: [60, 8] in the run, [40, 8] now",
            "columns": "shape: [60, 8] in the run, [60, 7] now",
            "dtype": "dtype",
            "chunks": "panels",
        }.items()
    ),
)
