"""Factors in a Zarr store, which workers of any process or machine read and write.

The rows of a panel are one chunk with a CRC32C. Chunks of zeros are written too, so a missing chunk is
damage; other readers of Zarr see NaN in its place.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from math import prod

import numpy as np
from zarr.abc.store import Store

from dasknmf.core.panels import Grid
from dasknmf.core.state import FactorState, Named, State, from_named
from dasknmf.errors import RunDamagedError
from dasknmf.store import arrays, keys, records, schema
from dasknmf.store.factors import FactorVersion, pass_of


class ZarrFactors:
    """Versions and states in a Zarr group. Picklable: workers open the store themselves.

    Parameters
    ----------
    store : zarr store
    grid : Grid
    n_columns : int
        Number of columns of V, and so of H.
    dtype : numpy.dtype
        Dtype of the rows.
    """

    def __init__(self, store: Store, grid: Grid, n_columns: int, dtype: np.dtype) -> None:
        self.store = store
        self._n_panels = len(grid)
        self._rows_max = grid.rows_max
        self._n_columns = n_columns
        self._dtype = dtype

    def begin(self, version: FactorVersion) -> None:
        shape = (self._n_panels, self._rows_max, version.width)
        arrays.create(self.store, f"W/{version.name}", shape, (1, *shape[1:]), self._dtype)

    def read_rows(self, version: FactorVersion, panel: int, n_rows: int) -> np.ndarray:
        shape = (1, self._rows_max, version.width)
        try:
            return arrays.get_chunk(self.store, _chunk(version, panel), self._dtype, shape)[0, :n_rows]
        except ValueError as error:
            raise RunDamagedError(
                f"rows of panel {panel} of W ({version.name!r}) of the run at {str(self.store)!r} cannot be "
                f"read ({error}); a later pass has replaced them, or the store is damaged: open the run "
                "again, or else restore the store from a copy or start over with overwrite=True."
            ) from error

    def write_rows(self, version: FactorVersion, panel: int, block: np.ndarray) -> None:
        shape = (1, self._rows_max, version.width)
        arrays.put_chunk(self.store, _chunk(version, panel), self._dtype, shape, block[np.newaxis])

    def read_state(self, name: str, model: int) -> State:
        return self.read_states(name, [model])[0]

    def read_states(self, name: str, models: Sequence[int]) -> list[State]:
        if not name:
            return [State() for _ in models]
        path = f"small/{name}"
        firsts = [0]
        if any(models):  # each read of a pass writes one part, with the states of its models
            firsts = sorted(int(each) for each in keys.children(self.store, path) if each.isdecimal())
        parts: dict[int, list[int]] = {}
        for model in sorted(set(models)):
            parts.setdefault(max((first for first in firsts if first <= model), default=0), []).append(model)
        found: dict[int, State] = {}
        for first, own in parts.items():
            states = read_part(self.store, f"{path}/{first}", [model - first for model in own])
            found |= {first + model: self._checked(name, state) for model, state in (states or {}).items()}
        if missing := sorted(set(models) - found.keys()):
            raise RunDamagedError(
                f"the state {name!r} of model {missing[0]} of the run at {str(self.store)!r} is missing; a "
                "later pass has replaced it, or the store is damaged: open the run again, or else restore "
                "the store from a copy or start over with overwrite=True."
            )
        return [found[model] for model in models]

    def _checked(self, name: str, state: State) -> State:
        """The state, after a check that its H has the columns of V."""
        H = state.H if isinstance(state, FactorState) else None
        if H is not None and (H.shape[1] != self._n_columns or H.dtype != self._dtype):
            expected = f"(k, {self._n_columns}) of {self._dtype}"
            reason = f"H has the shape {H.shape} of {H.dtype}, and must have {expected}"
            raise records.damaged(self.store, f"small/{name}", reason)
        return state

    def write_states(self, name: str, first: int, states: Sequence[State]) -> None:
        write_part(self.store, f"small/{name}/{first}", states)

    def forget_states(self, live: Mapping[str, Collection[int]]) -> None:
        """Delete the states of passes before the newest live one, if no state of the pass is live."""
        newest = max((pass_of(name) for name in live if name), default=-1)
        for name in keys.children(self.store, "small"):
            if name not in live and pass_of(name) <= newest:
                keys.delete(self.store, f"small/{name}")

    def drop(self, version: str) -> None:
        keys.delete(self.store, f"W/{version}")


def _chunk(version: FactorVersion, panel: int) -> str:
    return f"W/{version.name}/c.{panel}.0.0"


def write_part(store: Store, path: str, states: Sequence[State]) -> None:
    """Write the states of some models: numbers in a record, and the bytes of all arrays in one array.

    A task that runs twice, because its worker was taken for dead, writes the array under a new name, and so
    never changes an array that a record refers to.
    """
    name = f"values-{uuid.uuid4().hex[:8]}"
    content = bytearray()
    models = []
    for state in states:
        numbers: dict[str, float] = {}
        placed: dict[str, schema.Placed] = {}
        for key, value in state.named().items():
            if isinstance(value, np.ndarray):
                placed[key] = schema.Placed(value.dtype.str, value.shape, len(content))
                content += value.tobytes()
            else:
                numbers[key] = value
        models.append(schema.ModelState(state.kind, numbers, placed))
    arrays.write_array(store, f"{path}/{name}", np.frombuffer(content, np.uint8))
    # The record is written last: its presence means that the array is complete.
    records.write_record(store, path, schema.States(name, tuple(models)))


def read_part(store: Store, path: str, models: Collection[int]) -> dict[int, State] | None:
    """The states of some of the models of a part; None if there is no such part.

    Raises
    ------
    RunDamagedError
        If the part is altered.
    """
    record = records.read_record(store, path, schema.States)
    if record is None:
        return None
    content = arrays.read_array(store, f"{path}/{record.array}")
    states: dict[int, State] = {}
    try:
        for model in models:
            if model < len(record.models):  # else the caller reports it as missing
                states[model] = _state_of(model, record.models[model], content)
    except ValueError as error:
        raise records.damaged(store, path, str(error)) from error
    return states


def _state_of(model: int, stored: schema.ModelState, content: np.ndarray) -> State:
    found: dict[str, Named] = dict(stored.numbers)
    for key, kept in stored.placed.items():
        dtype = np.dtype(kept.dtype)
        size = prod(kept.shape) * dtype.itemsize
        values = content[kept.at : kept.at + size]
        if content.ndim != 1 or content.dtype != np.uint8 or len(values) != size:
            raise ValueError(f"{key} has {size} bytes at {kept.at} of an array of {content.nbytes}")
        found[key] = values.copy().view(dtype).reshape(kept.shape)
    try:
        return from_named(stored.kind, found)
    except ValueError as error:
        raise ValueError(f"the state of model {model} {error}") from error
