"""What was found out about the models of a run when they had ended: kept beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.store import records
from dasknmf.store.position import Position

_PATH = "selection"
_RECORD = f"{_PATH}/record"


def write(store: Any, content: dict[str, Any], arrays: dict[str, np.ndarray], passes: int) -> None:
    """Keep JSON values, and arrays by name, of the run after so many passes."""
    records.delete(store, _RECORD)  # first: it vouches for arrays that go now
    records.delete(store, _PATH)
    dtypes = {}
    for name, array in arrays.items():
        # A chunk of floats that is missing reads as NaN: arrays that hold NaN are written as their bits.
        bits = array.dtype.kind == "f" and bool(np.isnan(array).any())
        dtypes[name] = str(array.dtype)
        kept = np.ascontiguousarray(array).view(f"i{array.itemsize}") if bits else array
        records.write_array(store, f"{_PATH}/{name}", kept)
    # The record comes last: it vouches for the arrays.
    records.write(store, _RECORD, {"content": content, "arrays": dtypes, "passes": passes})


def concluded(store: Any, position: Position) -> bool:
    """Whether the conclusion of the run is what followed from it, and not from an earlier one."""
    record = records.read(store, _RECORD)
    return record is not None and _concludes(position, record["passes"])


def _concludes(position: Position, passes: int) -> bool:
    return position.conclusion is not None and int(position.conclusion.state.split("-")[0]) == passes


def read(store: Any, position: Position) -> dict[str, Any] | None:
    """Both, by name; None where there is nothing, or models have moved since.

    Raises
    ------
    RunDamagedError
        If it is not as it was written.
    """
    record = records.read(store, _RECORD)
    if record is None or position.outcome is None:
        return None
    # A conclusion is a pass of its own, which moves no model.
    if record["passes"] != position.passes and not _concludes(position, record["passes"]):
        return None
    return record["content"] | {
        name: records.read_array(store, f"{_PATH}/{name}").view(dtype)
        for name, dtype in record["arrays"].items()
    }
