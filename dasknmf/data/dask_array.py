"""Dask arrays: any chunks, any upstream graph. Chunks are merged into panels, never shuffled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from dask.task_spec import GraphNode

from dasknmf.core.blocks import csr, dense
from dasknmf.core.blocks.canonical import side_by_side as csr_side_by_side
from dasknmf.core.blocks.canonical import stacked as csr_stacked
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Reader, Slab, Source, check_shape

_DENSITY = 0.1
"""Of sparse chunks, which nobody has counted before they are made: that of counts of genes."""


class DaskSource(Source):
    """A Dask array whose chunks become tasks of the same graph as the visits."""

    # All chunks of a panel wait in memory before its visit begins: the panel is the slab.
    slab_bytes = 0

    def __init__(self, X: da.Array) -> None:
        check_shape(X.shape)
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.sparse = scipy.sparse.issparse(X._meta)
        self._rows = np.append(0, np.cumsum(X.chunks[0])).astype(np.int64)
        self.cuts = np.unique(self._rows)
        if self.sparse:
            self.cut_bytes = self.cuts * max(1, round(_DENSITY * self.shape[1] * (self.dtype.itemsize + 4)))
        self.reader = ChunkReader(self.shape[1], max(4, self.dtype.itemsize))
        self._persisted = X  # keeps persisted chunks alive, which the optimized graph leaves out
        (optimized,) = dask.optimize(X)
        self._keys: list[list[Hashable]] = optimized.__dask_keys__()
        self._graph = dict(optimized.__dask_graph__())

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        # Empty chunks share an edge with their neighbours and belong to no panel.
        first = np.searchsorted(self._rows, panel.start, side="right") - 1
        last = np.searchsorted(self._rows, panel.stop, side="left")
        return self._keys[first:last]

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._graph


class ChunkReader(Reader):
    """Puts chunks that arrive from the scheduler side by side and on top of each other."""

    def __init__(self, n_features: int, itemsize: int) -> None:
        self._dense_rows = dense.tile_rows(n_features, itemsize)
        self._sparse_rows = csr.tile_rows(n_features, itemsize)

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        # What chunks are is known for certain only here: a graph may not say, or say it wrongly.
        is_sparse = all(scipy.sparse.issparse(chunk) for row in chunks for chunk in row)
        stacked = csr_stacked if is_sparse else _stacked
        least = self._sparse_rows if is_sparse else self._dense_rows
        waiting: list[Any] = []
        n_waiting = 0
        for row in chunks:
            waiting.append(side_by_side(row) if is_sparse else _dense(row))
            n_waiting += waiting[-1].shape[0]
            # Rows wait until they fill a tile, so that chunks of single rows are not single tiles.
            if n_waiting >= least:
                yield stacked(waiting)
                waiting, n_waiting = [], 0
        if waiting:
            yield stacked(waiting)


def side_by_side(row: Any) -> Slab:
    """Chunks of the same rows, from left to right: sparse if all of them are."""
    if all(map(scipy.sparse.issparse, row)):
        return csr_side_by_side(row)
    return _dense(row)


def _dense(row: Any) -> np.ndarray:
    parts = [chunk.toarray() if scipy.sparse.issparse(chunk) else np.asarray(chunk) for chunk in row]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
