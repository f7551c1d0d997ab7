"""Dask arrays: any chunks, any upstream graph. Chunks are merged into panels, never shuffled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.task_spec import GraphNode

from dasknmf.blocks.dense import tile_rows
from dasknmf.inputs.base import Chunks, check_shape
from dasknmf.panels import Panel


class DaskSource:
    """A Dask array whose chunks become tasks of the same graph as the visits."""

    in_process = False
    staged_bytes = 0
    before: np.ndarray | None = None

    def __init__(self, X: da.Array) -> None:
        check_shape(X.shape)
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.nbytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self._rows = np.append(0, np.cumsum(X.chunks[0])).astype(np.int64)
        self.reader = ChunkReader(tile_rows(self.shape[1], max(4, self.dtype.itemsize)))
        # All chunks of a panel wait in memory before its visit begins: the panel is the slab.
        self.slab_bytes = 0
        self._persisted = X  # keeps persisted chunks alive, which the optimized graph leaves out
        (optimized,) = dask.optimize(X)
        self._keys: list[list[Hashable]] = optimized.__dask_keys__()
        self._graph = dict(optimized.__dask_graph__())

    @property
    def cuts(self) -> np.ndarray:
        return np.unique(self._rows)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        # Empty chunks share an edge with their neighbours and belong to no panel.
        first = np.searchsorted(self._rows, panel.start, side="right") - 1
        last = np.searchsorted(self._rows, panel.stop, side="left")
        return self._keys[first:last]

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._graph


class ChunkReader:
    """Puts chunks that arrive from the scheduler side by side and on top of each other."""

    def __init__(self, least_rows: int) -> None:
        self._least_rows = least_rows

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for row in chunks:
            waiting.append(_side_by_side(row))
            # Rows wait until they fill a tile, so that chunks of single rows are not single tiles.
            if sum(map(len, waiting)) >= self._least_rows:
                yield _stacked(waiting)
                waiting = []
        if waiting:
            yield _stacked(waiting)


def _side_by_side(row: Any) -> np.ndarray:
    parts = [chunk.toarray() if hasattr(chunk, "toarray") else np.asarray(chunk) for chunk in row]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
