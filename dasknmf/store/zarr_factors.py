"""Factors in a Zarr store: what workers of any process or machine read and write.

Every panel's rows are one chunk with a CRC32C. Chunks of zeros are written like any other and the
fill value is NaN, so a chunk that is missing is seen, which Zarr itself reads without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import zarr

from dasknmf.errors import DaskNMFError, RunDamagedError
from dasknmf.passes import State
from dasknmf.patience import brief
from dasknmf.store import records
from dasknmf.store import states as states_at
from dasknmf.store.factors import Generation, pass_of


class ZarrFactors:
    """Generations and states in a Zarr group. Picklable: workers open the store themselves.

    Parameters
    ----------
    store : zarr store
    n_panels, rows_max : int
        Panels of the grid, and rows of the largest.
    dtype : numpy.dtype
        Of the rows.
    """

    def __init__(self, store: Any, n_panels: int, rows_max: int, dtype: np.dtype) -> None:
        self.store = store
        self._n_panels = n_panels
        self._rows_max = rows_max
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
                self.store, key, "read", lambda: np.asarray(self._array(generation.name)[panel])
            )[:n_rows]
        except Exception as error:  # what is damaged raises whatever comes of it
            if isinstance(error, DaskNMFError):
                raise
            raise self._damaged(generation, panel, brief(error)) from error
        if block.shape != (n_rows, generation.width):
            raise self._damaged(generation, panel, f"its shape is {block.shape}")
        # One missing chunk is NaN throughout: the sum is NaN, and far cheaper than a search.
        if np.isnan(block.sum()):
            raise self._damaged(generation, panel, "its chunk is missing")
        return block

    def write_rows(self, generation: Generation, panel: int, block: np.ndarray) -> None:
        padded = np.zeros((1, self._rows_max, generation.width), self._dtype)
        padded[0, : len(block)] = block

        def write() -> None:
            self._array(generation.name)[panel : panel + 1] = padded
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
            firsts = sorted(map(int, records.children(self.store, path)))
        found: dict[int, State] = {}
        for first, own in self._parted(firsts, set(models)):
            states = states_at.read(self.store, f"{path}/{first}", [model - first for model in own])
            found |= {first + model: state for model, state in (states or {}).items()}
        if missing := sorted(set(models) - found.keys()):
            raise RunDamagedError(
                f"the state {name!r} of model {missing[0]} of the run at {str(self.store)!r} is missing; "
                "every pass starts from the state of the last: open the run again if it has moved on, else "
                "restore the store from a copy or start over with overwrite=True."
            )
        return [found[model] for model in models]

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

    def _array(self, name: str) -> zarr.Array:
        array = self._open.get(name)
        if array is None:
            mode: Literal["r", "r+"] = "r" if self.store.read_only else "r+"
            array = zarr.open_array(self.store, path=f"W/{name}", mode=mode)
            self._open = {name: array, **dict(list(self._open.items())[:1])}
        return array

    def _damaged(self, generation: Generation, panel: int, reason: str) -> RunDamagedError:
        return RunDamagedError(
            f"rows of panel {panel} in generation {generation.name!r} of the run at "
            f"{str(self.store)!r} cannot be read ({reason}); every chunk of a live generation must be "
            "as it was written: open the run again if it has moved on, else restore the store from a "
            "copy or start over with overwrite=True."
        )
