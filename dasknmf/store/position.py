"""Where a run stands: what its commit record says, and the history that it names."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import zarr

from dasknmf.errors import RunDamagedError
from dasknmf.history import History, from_json
from dasknmf.panels import Grid
from dasknmf.store import records
from dasknmf.store.factors import Generation

FORMAT = 2


@dataclass(frozen=True)
class Position:
    """Where a run stands after its last commit."""

    passes: int = 0
    """Passes committed, of every phase."""
    start: int = 0
    """Start phases done."""
    iteration: int = 0
    """Exact passes done."""
    state: str = ""
    """Name of the pass that left the state."""
    rows: Generation | None = None
    """The live generation."""
    standing: tuple[int, ...] = (0,)
    """Models of that state and generation which go on."""
    leader: int = 0
    """The one of them with the lowest objective: what the fit would return."""
    outcome: str | None = None
    """How the fit ended; None while it runs."""


def committed(
    store: Any,
) -> tuple[Position, History, tuple[float, ...] | None, list[tuple[int, str]]]:
    content = records.read(store, "commit")
    if content is None:
        return Position(), History(), None, []
    if content["format"] != FORMAT:
        raise RunDamagedError(
            f"the run at {str(store)!r} has format {content['format']}; this version reads {FORMAT}: use "
            "the version that wrote it, or start over with overwrite=True."
        )
    segments = [(int(first), str(epoch)) for first, epoch in content["segments"]]
    rows = content["rows"]
    if rows is not None:
        widths = tuple((int(m), str(n), int(c)) for m, n, c in rows["widths"])
        rows = Generation(rows["name"], widths)
    position = Position(
        content["passes"],
        content["start"],
        content["iteration"],
        content["state"],
        rows,
        tuple(content["standing"]),
        content["leader"],
        content["outcome"],
    )
    history = []
    for index in range(position.passes):
        epoch = [epoch for first, epoch in segments if first <= index][-1]
        record = records.read(store, f"history/{index}-{epoch}")
        if record is None:
            raise RunDamagedError(
                f"the history of pass {index} of the run at {str(store)!r} is missing; the commit names "
                "it: restore the store from a copy, or start over with overwrite=True."
            )
        history.append(from_json(record))
    sums = read_sums(store) if content["has_sums"] else None
    return position, History(history), sums, segments


def format_of(store: Any) -> int | None:
    raw = records.get(store, "zarr.json")
    if raw is None:
        return None
    try:
        return int(records.decoded(raw)["attributes"]["dasknmf"]["format"])
    except (ValueError, KeyError, TypeError):
        return None


def write_sums(store: Any, sums: tuple[float, ...]) -> None:
    records.write_array(store, "panels/sums", np.asarray(sums))


def read_sums(store: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in records.read_array(store, "panels/sums"))


def read_grid(store: Any) -> Grid:
    """The panels that a run was begun with."""
    return Grid(tuple(int(edge) for edge in records.read_array(store, "panels/edges")))


def environment() -> dict[str, str]:
    """What made the numbers, for the log line on resume: nothing here has to match."""
    import numba
    import scipy
    import sklearn

    versions = {module.__name__: module.__version__ for module in (np, scipy, sklearn, numba, zarr, dask)}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}
