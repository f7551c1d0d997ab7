"""Factors in a Zarr store: what workers of any process or machine read and write.

Every panel's rows are one chunk with a CRC32C. Chunks of zeros are written like any other and the
fill value is NaN, so a chunk that is missing is seen, which Zarr itself reads without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from dasknmf.errors import RunDamagedError
from dasknmf.panels import Grid
from dasknmf.passes import State
from dasknmf.patience import brief
from dasknmf.store import bounded, records
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
        self._open: dict[str, zarr.Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def begin(self, generation: Generation) -> None:
        shape = (self._n_panels, self._rows_max, generation.width)
        records.create_array(self.store, f"W/{generation.name}", shape, (1, *shape[1:]), self._dtype)

    def read_rows(self, generation: Generation, panel: int, n_rows: int) -> np.ndarray:
        key = f"W/{generation.name}/c.{panel}"
        try:
            block = records.reached(
                self.store, key, "read", lambda: np.asarray(self._array(generation)[panel])
            )[:n_rows]
        except (ValueError, FileNotFoundError) as error:
            raise self._damaged(generation, panel, brief(error)) from error
        # A sum is far cheaper than a search.
        with np.errstate(all="ignore"):
            if np.isnan(block.sum()):
                raise self._damaged(generation, panel, "it holds NaN")
        return block

    def write_rows(self, generation: Generation, panel: int, block: np.ndarray) -> None:
        padded = np.zeros((1, self._rows_max, generation.width), self._dtype)
        padded[0, : len(block)] = block

        def write() -> None:
            self._array(generation)[panel : panel + 1] = padded
            records.make_durable(self.store, f"W/{generation.name}/c.{panel}.0.0")

        records.reached(self.store, f"W/{generation.name}/c.{panel}", "written", write)

    def read_state(self, name: str, model: int) -> State:
        return self.read_states(name, [model])[0]

    def read_states(self, name: str, models: Sequence[int]) -> list[State]:
        if not name:
            return [{} for _ in models]
        path = f"small/{name}"
        firsts = [0]
        if any(models):  # models that took turns left their states in parts
            firsts = sorted(int(each) for each in records.children(self.store, path) if each.isdecimal())
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
        for name in records.children(self.store, "small"):
            if name not in live and pass_of(name) <= newest:
                records.delete(self.store, f"small/{name}")

    def drop(self, generation: str) -> None:
        self._open.pop(generation, None)
        records.delete(self.store, f"W/{generation}")

    def _array(self, generation: Generation) -> zarr.Array:
        name = generation.name
        array = self._open.get(name)
        if array is None:
            rows = (1, self._rows_max, generation.width)

            def is_ours(shape: bounded.Shape, chunks: bounded.Shape, dtype: np.dtype) -> bool:
                return (shape, chunks, dtype) == ((self._n_panels, *rows[1:]), rows, self._dtype)

            array = bounded.array(self.store, f"W/{name}", is_ours)
            self._open = {name: array, **dict(list(self._open.items())[:1])}
        return array

    def _damaged(self, generation: Generation, panel: int, reason: str) -> RunDamagedError:
        return RunDamagedError(
            f"rows of panel {panel} in generation {generation.name!r} of the run at "
            f"{str(self.store)!r} cannot be read ({reason}); every chunk of a live generation must be "
            "as it was written: open the run again if it has moved on, else restore the store from a "
            "copy or start over with overwrite=True."
        )
