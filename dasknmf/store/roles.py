"""The roles of W and H in V, and the factors of a run in the orientation of X."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, GraphNode, Task, TaskRef

from dasknmf.core.panels import Grid
from dasknmf.core.penalties import Penalties
from dasknmf.core.state import FactorState, State
from dasknmf.store.factors import Factors, MemoryFactors
from dasknmf.store.progress import FactorLocation

T = TypeVar("T")


@dataclass(frozen=True)
class Roles:
    """The roles of W and H: V = X ~ W H or, transposed, V = Xᵀ ~ Hᵀ Wᵀ."""

    transposed: bool

    def swapped(self, first: T, second: T) -> tuple[T, T]:
        """A pair (W and H, or samples and features) in the order of V's rows and columns; self-inverse."""
        return (second, first) if self.transposed else (first, second)

    def penalties(self, penalties: Penalties) -> Penalties:
        """Penalties of the left and the right factor of V."""
        return Penalties(*self.swapped(penalties.W, penalties.H))

    def start(self, W: np.ndarray | da.Array, H: np.ndarray) -> tuple[np.ndarray | da.Array, np.ndarray]:
        """The left and the right factor of V at the start."""
        return (H.T, np.asarray(W).T) if self.transposed else (W, H)

    def factors(self, stored: Factors, location: FactorLocation, grid: Grid) -> tuple[da.Array, np.ndarray]:
        """W, shape (n_samples, k), and H, shape (k, n_features), at a location of the factor store."""
        small = FactorState.checked(stored.read_state(location.state, location.phase_index)).factor
        if not self.transposed:
            return rows_lazily(stored, location, grid, len(small), small.dtype), small
        W = da.from_array(np.ascontiguousarray(small.T), name=False)
        return W, np.ascontiguousarray(rows_in_memory(stored, location, grid).T)

    def unobserved(self, state: State) -> tuple[int, int]:
        """Numbers of samples and of features of X without an observed entry."""
        columns = 0 if state.observed is None else int(np.sum(state.observed == 0))
        return self.swapped(state.empty_rows, columns)


def rows_in_memory(factors: Factors, location: FactorLocation, grid: Grid) -> np.ndarray:
    """The left factor of V at a location, shape (n_rows, k), read by this process."""
    return np.concatenate([_rows_of(factors, location, panel.index, panel.n_rows) for panel in grid])


def rows_lazily(factors: Factors, location: FactorLocation, grid: Grid, k: int, dtype: np.dtype) -> da.Array:
    """The left factor of V at a location as a Dask array of that version, with one chunk per panel."""
    token = uuid.uuid4().hex
    name, shared = f"rows-{token}", f"factors-{token}"
    # One layer for all panels: with a layer for each panel, the selection of one block visits all layers.
    graph: dict[Any, GraphNode] = {}
    for number, panel in enumerate(grid):
        key = (name, number, 0)
        if isinstance(factors, MemoryFactors):
            graph[key] = DataNode(key, _rows_of(factors, location, panel.index, panel.n_rows))
        else:
            graph[key] = Task(key, _rows_of, TaskRef(shared), location, panel.index, panel.n_rows)
    if not isinstance(factors, MemoryFactors):
        graph[shared] = DataNode(shared, factors)
    return da.Array(
        HighLevelGraph.from_collections(name, graph),
        name,
        chunks=(tuple(panel.n_rows for panel in grid), (k,)),
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )


def _rows_of(factors: Factors, location: FactorLocation, panel: int, n_rows: int) -> np.ndarray:
    assert location.rows is not None  # there is a pair
    return location.rows.of_model(factors.read_rows(location.rows, panel, n_rows), location.phase_index)
