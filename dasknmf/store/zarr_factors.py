"""Factors in a Zarr store: what workers of any process or machine read and write.

Every panel's rows are one chunk with a CRC32C. Chunks of zeros are written like any other, and one that
is missing is damage; other readers of Zarr see NaN there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dasknmf.errors import RunDamagedError
from dasknmf.panels import Grid
from dasknmf.passes import State
from dasknmf.store import arrays, keys, records
from dasknmf.store import states as states_at
from dasknmf.store.factors import Generation, pass_of


class ZarrFactors:
    """Generations and states in a Zarr group. Picklable: workers open the store themselves.

    Parameters
    ----------
    store : zarr store
    grid : Grid
    n_columns : int
        Of V as it is read, and so of H.
    dtype : numpy.dtype
        Of the rows.
    """

    def __init__(self, store: Any, grid: Grid, n_columns: int, dtype: np.dtype) -> None:
        self.store = store
        self._n_panels = len(grid)
        self._rows_max = grid.rows_max
        self._n_columns = n_columns
        self._dtype = dtype

    def begin(self, generation: Generation) -> None:
        shape = (self._n_panels, self._rows_max, generation.width)
        arrays.create(self.store, f"W/{generation.name}", shape, (1, *shape[1:]), self._dtype)

    def read_rows(self, generation: Generation, panel: int, n_rows: int) -> np.ndarray:
        shape = (1, self._rows_max, generation.width)
        try:
            return arrays.get_chunk(self.store, _chunk(generation, panel), self._dtype, shape)[0, :n_rows]
        except ValueError as error:
            raise RunDamagedError(
                f"rows of panel {panel} in generation {generation.name!r} of the run at "
                f"{str(self.store)!r} cannot be read ({error}); every chunk of a live generation must be "
                "as it was written: open the run again if it has moved on, else restore the store from a "
                "copy or start over with overwrite=True."
            ) from error

    def write_rows(self, generation: Generation, panel: int, block: np.ndarray) -> None:
        shape = (1, self._rows_max, generation.width)
        arrays.put_chunk(self.store, _chunk(generation, panel), self._dtype, shape, block[np.newaxis])

    def read_state(self, name: str, model: int) -> State:
        return self.read_states(name, [model])[0]

    def read_states(self, name: str, models: Sequence[int]) -> list[State]:
        if not name:
            return [{} for _ in models]
        path = f"small/{name}"
        firsts = [0]
        if any(models):  # models that took turns left their states in parts
            firsts = sorted(int(each) for each in keys.children(self.store, path) if each.isdecimal())
        found: dict[int, State] = {}
        for first, own in self._parted(firsts, set(models)):
            states = states_at.read(self.store, f"{path}/{first}", [model - first for model in own])
            found |= {first + model: self._fitting(name, state) for model, state in (states or {}).items()}
        if missing := sorted(set(models) - found.keys()):
            raise RunDamagedError(
                f"the state {name!r} of model {missing[0]} of the run at {str(self.store)!r} is missing; "
                "every pass starts from the state of the last: open the run again if it has moved on, else "
                "restore the store from a copy or start over with overwrite=True."
            )
        return [found[model] for model in models]

    def _fitting(self, name: str, state: State) -> State:
        """A state, if its H has the columns of V."""
        H = state.get("H")
        if H is not None and (H.shape[1] != self._n_columns or H.dtype != self._dtype):
            expected = f"(k, {self._n_columns}) of {self._dtype}"
            reason = f"H has the shape {H.shape} of {H.dtype}, and must have {expected}"
            raise records.damaged(self.store, f"small/{name}", reason)
        return state

    @staticmethod
    def _parted(firsts: list[int], models: set[int]) -> Iterator[tuple[int, list[int]]]:
        """Models by the part that holds them."""
        for at, first in enumerate(firsts):
            beyond = firsts[at + 1] if at + 1 < len(firsts) else max(models) + 1
            if own := [model for model in models if first <= model < beyond]:
                yield first, own

    def write_states(self, name: str, first: int, states: Sequence[State]) -> None:
        states_at.write(self.store, f"small/{name}/{first}", states)

    def forget_states(self, live: Mapping[str, Collection[int]]) -> None:
        """Delete those of whole passes, up to the newest of these."""
        newest = max((pass_of(name) for name in live if name), default=-1)
        for name in keys.children(self.store, "small"):
            if name not in live and pass_of(name) <= newest:
                keys.delete(self.store, f"small/{name}")

    def drop(self, generation: str) -> None:
        keys.delete(self.store, f"W/{generation}")


def _chunk(generation: Generation, panel: int) -> str:
    return f"W/{generation.name}/c.{panel}.0.0"
