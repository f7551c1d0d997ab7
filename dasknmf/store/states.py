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
from dasknmf.store import arrays, forms, records
from dasknmf.store.schema import Unlike, array_of, size_of
from dasknmf.store.told import Told

_INLINE = 64
"""Entries; longer arrays of a state are part of an array, shorter ones stand in the record."""
_SCALARS = ("squares", "mean", "constant", "eps", "tiny", "pull", "iteration", "residual", "empty rows")
_NDIM = {"H": 2, "usage": 1, "observed": 1, "sums": 1} | dict.fromkeys(_SCALARS, 0)
"""Dimensions of what several phases know by these names."""


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
        arrays.write(store, f"{path}/{name}", np.concatenate(pieces))
    # The record comes last: it vouches for the arrays.
    records.write(store, path, {"models": models})


def read(store: Any, path: str, models: Collection[int]) -> dict[int, State] | None:
    """The states of some of the models that were written there; None where nothing was.

    Raises
    ------
    RunDamagedError
        If what stands there are no such states.
    """
    record = records.read(store, path, forms.STATES)
    if record is None:
        return None
    try:
        return _states_of(store, path, record["models"], models)
    except Unlike as error:
        raise records.damaged(store, path, str(error)) from error


def _states_of(store: Any, path: str, told: list[Any], models: Collection[int]) -> dict[int, State]:
    read: dict[str, np.ndarray] = {}
    states: dict[int, State] = {}
    for model in models:
        if model >= len(told):
            continue  # whoever asked says that it is missing
        state = Told(f"the state {path!r} of the run at {str(store)!r}")
        for key, kept in told[model]["inline"].items():
            state[key] = array_of(kept["values"], kept["dtype"], kept["shape"])
        for key, kept in told[model]["placed"].items():
            name, at, shape = kept["array"], kept["at"], kept["shape"]
            if name not in read:
                read[name] = arrays.read(store, f"{path}/{name}")
            values = read[name][at : at + size_of(shape)]
            if read[name].ndim != 1 or len(values) != size_of(shape):
                raise Unlike(f"of a part of {name!r}, which has {read[name].size} entries", shape, key)
            state[key] = values.reshape(shape).copy()
        for key, ndim in _NDIM.items():
            if key in state and state[key].ndim != ndim:
                raise Unlike(f"of {ndim} dimensions", state[key].shape, key)
        states[model] = state
    return states
