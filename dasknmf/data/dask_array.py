"""Dask arrays: any chunks, any upstream graph. Chunks are merged into panels, never shuffled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from dask.task_spec import GraphNode

from dasknmf.core.blocks.canonical import side_by_side as csr_side_by_side
from dasknmf.core.blocks.matrix import stacked
from dasknmf.core.blocks.scratch import tile_rows
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Facts, InMemory, Source, check_shape

_DENSITY = 0.1
"""Density assumed for sparse chunks, whose nonzeros are unknown until computed: typical for gene counts."""
_LARGE = 128 * 2**20

Rows: TypeAlias = np.ndarray | scipy.sparse.csr_array


class DaskSource(Source):
    """A Dask array, whose chunks are computed in the same graph as the visits."""

    def __init__(self, X: da.Array) -> None:
        check_shape(X.shape)
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.sparse = scipy.sparse.issparse(X._meta)
        self._array: da.Array | None = X  # keeps persisted chunks alive, which the optimized graph leaves out

    @cached_property
    def _edges(self) -> np.ndarray:
        assert self._array is not None
        return np.append(0, np.cumsum(self._array.chunks[0])).astype(np.int64)

    @cached_property
    def _optimized(self) -> tuple[list[list[Hashable]], dict[Hashable, GraphNode]]:
        (optimized,) = dask.optimize(self._array)
        return optimized.__dask_keys__(), dict(optimized.__dask_graph__())

    def find_facts(self) -> Facts:
        # All chunks of a panel wait in memory before its visit begins: the panel is the slab.
        cuts = np.unique(self._edges)
        row_bytes = max(1, round(_DENSITY * self.shape[1] * (self.dtype.itemsize + 4)))
        return Facts(cuts, cuts * row_bytes if self.sparse else None)

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Rows]:
        # The metadata of a Dask array may be wrong: only computed chunks show whether they are sparse.
        is_sparse = all(scipy.sparse.issparse(chunk) for row in chunks for chunk in row)
        itemsize = max(4, self.dtype.itemsize)
        least = tile_rows(self.shape[1], itemsize, sparse=is_sparse)
        waiting: list[Any] = []
        n_waiting = 0
        for row in chunks:
            waiting.append(side_by_side(row) if is_sparse else _dense(row))
            n_waiting += waiting[-1].shape[0]
            # Rows are collected until they fill a tile, so that chunks of one row do not become tiles of one.
            if n_waiting >= least:
                yield stacked(waiting)
                waiting, n_waiting = [], 0
        if waiting:
            yield stacked(waiting)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        # Empty chunks share an edge with their neighbours and belong to no panel.
        first = np.searchsorted(self._edges, panel.start, side="right") - 1
        last = np.searchsorted(self._edges, panel.stop, side="left")
        return self._optimized[0][first:last]

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._optimized[1]

    def for_tasks(self) -> DaskSource:
        sent = self.changed(_array=None)
        for name in ("_edges", "_optimized"):
            vars(sent).pop(name, None)
        return sent

    def rather_transposed(self, *, parity: bool) -> bool:
        assert self._array is not None
        return rather_by_columns(self, self._array.numblocks, parity=parity)

    def transposed(self) -> DaskSource:
        assert self._array is not None
        return DaskSource(self._array.T)


def rather_by_columns(source: Source, n_chunks: tuple[int, ...], *, parity: bool) -> bool:
    """Whether a chunked matrix is better read by columns, as each chunk holds all rows."""
    rows, columns = n_chunks
    n, m = source.shape
    if parity:
        return rows == 1 and columns > 1 and n * m * source.dtype.itemsize > _LARGE
    return rows == 1 and (columns > 1 or m > n)


def side_by_side(row: Sequence[InMemory]) -> Rows:
    """The concatenation of chunks of the same rows, from left to right: sparse if all chunks are."""
    if all(map(scipy.sparse.issparse, row)):
        return csr_side_by_side(row)
    return _dense(row)


def _dense(row: Sequence[InMemory]) -> np.ndarray:
    parts = [np.asarray(chunk if isinstance(chunk, np.ndarray) else chunk.toarray()) for chunk in row]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def row_blocks(W: np.ndarray | da.Array, at_once: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of rows of an array from top to bottom, each with the number of its first row.

    Parameters
    ----------
    W : ndarray or dask.array.Array of shape (n_rows, n_columns)
        A Dask array in chunks of whole rows.
    at_once : int
        Number of chunks that are computed together, and are in memory together.
    """
    if not isinstance(W, da.Array):
        yield 0, W
        return
    first = 0
    for begin in range(0, W.numblocks[0], at_once):
        for rows in dask.compute(*W.blocks[begin : begin + at_once].blocks):
            yield first, np.asarray(rows)
            first += len(rows)
