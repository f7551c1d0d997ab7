"""The small states of the models of one read, in a few keys for all of them.

A key costs milliseconds, whatever it holds, and a sweep has hundreds of models: long arrays of one dtype are
one array for all models, one behind the other; what is short stands in the record that tells where they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from dasknmf.passes import State
from dasknmf.store import records

_INLINE = 64
"""Entries; longer arrays of a state are part of an array, shorter ones stand in the record."""


def write(store: Any, path: str, states: Sequence[State]) -> None:
    """Write the states of some models.

    A task that runs twice, because its worker was taken for dead, writes arrays of its own: it never touches
    those that the record names already.
    """
    token = uuid.uuid4().hex[:8]
    parts: dict[str, list[np.ndarray]] = {}
    ends: dict[str, int] = {}
    models = []
    for state in states:
        inline: dict[str, Any] = {}
        placed: dict[str, Any] = {}
        for key, value in state.items():
            if value.size <= _INLINE and value.ndim < 2:
                values = value.reshape(-1).tolist()
                inline[key] = {"dtype": value.dtype.str, "shape": value.shape, "values": values}
                continue
            name = f"{value.dtype.name}-{token}"
            at = ends.get(name, 0)
            parts.setdefault(name, []).append(value.reshape(-1))
            ends[name] = at + value.size
            placed[key] = {"array": name, "shape": value.shape, "at": at}
        models.append({"inline": inline, "placed": placed})
    for name, pieces in parts.items():
        records.write_array(store, f"{path}/{name}", np.concatenate(pieces))
    # The record comes last: it vouches for the arrays.
    records.write(store, path, {"models": models})


def read(store: Any, path: str, models: Collection[int]) -> dict[int, State] | None:
    """The states of some of the models that were written there; None where nothing was."""
    record = records.read(store, path)
    if record is None:
        return None
    arrays: dict[str, np.ndarray] = {}
    states: dict[int, State] = {}
    for model in models:
        content = record["models"][model]
        state = {
            key: np.array(told["values"], told["dtype"]).reshape(told["shape"])
            for key, told in content["inline"].items()
        }
        for key, told in content["placed"].items():
            name, at, shape = told["array"], told["at"], told["shape"]
            if name not in arrays:
                arrays[name] = records.read_array(store, f"{path}/{name}")
            size = int(np.prod(shape, dtype=np.int64))
            state[key] = arrays[name][at : at + size].reshape(shape).copy()
        states[model] = state
    return states
