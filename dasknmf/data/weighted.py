"""A source with weights of entries and of rows beside its values, and with what is told of its entries."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Reader, Slab, Source, grid_of, nbytes_of, slab_bytes_of
from dasknmf.errors import SourceError


class WeightedSource(Source):
    """V with what says how much its entries count.

    Parameters
    ----------
    source : Source
        Of V.
    entries : EntryWeights
    rows : ndarray of shape (n_rows,), float64, or None
        Weights of V's rows.
    weights : Source or None
        Of the weights of entries, of V's shape; its chunks are cut where V's are.
    """

    def __init__(
        self, source: Source, entries: EntryWeights, *, rows: np.ndarray | None, weights: Source | None
    ) -> None:
        self._source = source
        self._weights = weights
        self._rows = rows
        self.entries = entries
        self.negatives_advice = source.negatives_advice
        self.shape = source.shape
        self.dtype = source.dtype
        self.in_process = source.in_process
        self.sparse = source.sparse
        self.cuts, self.cut_bytes = source.cuts, source.cut_bytes
        self.slab_copies = source.slab_copies
        self.staged_bytes = source.staged_bytes
        self.kept_bytes = nbytes_of(source)
        self.slab_bytes = source.slab_bytes
        if weights is not None and not weights.in_process:
            # A slab of their own, and the rows of it that belong to one of V's: in memory V's is a panel.
            grid = grid_of(source)
            of_V = slab_bytes_of(source, grid)
            n_rows = of_V // (source.shape[1] * source.dtype.itemsize) or grid.rows_max
            of_weights = n_rows * source.shape[1] * weights.dtype.itemsize
            self.slab_bytes = of_V + of_weights + (weights.slab_bytes or of_weights)
        self.reader = WeightedReader(source.reader, rows, None if weights is None else weights.reader)

    def told(self, entries: EntryWeights) -> WeightedSource:
        """The same with other things told of its entries."""
        return WeightedSource(self._source, entries, rows=self._rows, weights=self._weights)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        of_V = self._source.chunk_keys(panel, lost=lost)
        if self._weights is None:
            return of_V
        # An empty row of chunks, which V never has, stands between the two.
        return [*of_V, [], *self._weights.chunk_keys(panel)]

    def upstream(self) -> dict[Hashable, GraphNode]:
        graph = self._source.upstream()
        return graph if self._weights is None else graph | self._weights.upstream()


@dataclass
class WeightedReader(Reader):
    """Puts weights beside the rows that they belong to."""

    reader: Reader
    rows: np.ndarray | None
    weights: Reader | None

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        again = copy.copy(self)
        again.reader = self.reader.anew(of_a_fit=of_a_fit)
        if self.weights is not None:
            again.weights = self.weights.anew(of_a_fit=of_a_fit)
        return again

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Any]:
        of_V, of_weights = chunks, chunks[:0]
        if self.weights is not None and len(chunks):
            between = next(place for place, row in enumerate(chunks) if not len(row))
            of_V, of_weights = chunks[:between], chunks[between + 1 :]
        weights = None if self.weights is None else _Pieces(self.weights.slabs(start, stop, of_weights))
        first = start
        for slab in self.reader.slabs(start, stop, of_V):
            values, known = (slab.values, slab.weights) if isinstance(slab, WeightedSlab) else (slab, None)
            last = first + values.shape[0]
            told = known if weights is None else weights.take(last - first)
            if known is not None and weights is not None:
                told = told * known
            yield WeightedSlab(values, told, None if self.rows is None else self.rows[first:last])
            first = last


class _Pieces:
    """Rows of slabs of any height, so many at a time."""

    def __init__(self, slabs: Iterator[Slab]) -> None:
        self._slabs = slabs
        self._waiting: list[np.ndarray] = []

    def take(self, n_rows: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        while n_rows:
            piece = self._waiting.pop() if self._waiting else next(self._slabs, None)
            if piece is None:
                raise SourceError(
                    f"weights end {n_rows} rows before X does; they changed their shape after they were "
                    "opened: open them again."
                )
            parts.append(np.asarray(piece[:n_rows]))
            if len(piece) > n_rows:
                self._waiting.append(piece[n_rows:])
            n_rows -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
