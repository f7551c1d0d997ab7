"""V with weights of entries and rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.panels import Panel
from dasknmf.data.source import (
    Chunks,
    Facts,
    Slab,
    Source,
    Wrapper,
    grid_of,
    nbytes_of,
    row_size,
    slab_bytes_of,
)
from dasknmf.errors import SourceError


class WeightedSource(Wrapper):
    """A source of V with weights.

    Parameters
    ----------
    source : Source
        The source of V.
    entries : EntryWeights
    rows : ndarray of shape (n_rows,), float64, or None
        Weights of V's rows; None: all 1.
    weights : Source or None
        The source of weights of entries, of V's shape; its chunks are cut where V's are.
    """

    def __init__(
        self, source: Source, entries: EntryWeights, *, rows: np.ndarray | None, weights: Source | None
    ) -> None:
        super().__init__(source)
        self.entries = entries
        self._rows = rows
        self._weights = weights

    def find_facts(self) -> Facts:
        V, weights = self.source, self._weights
        slab_bytes = V.facts.slab_bytes
        if weights is not None and not weights.in_process:
            # A slab of weights, and its rows that belong to a slab of V (a panel, if V is in memory).
            grid = grid_of(V)
            of_V = slab_bytes_of(V, grid)
            n_rows = of_V // row_size(V) or grid.rows_max
            of_weights = n_rows * row_size(weights)
            slab_bytes = of_V + of_weights + (weights.facts.slab_bytes or of_weights)
        return replace(V.facts, slab_bytes=slab_bytes, total_bytes=nbytes_of(V))

    def for_tasks(self) -> Self:
        weights = None if self._weights is None else self._weights.for_tasks()
        return self.changed(source=self.source.for_tasks(), _weights=weights)

    @property
    def ahead_bytes(self) -> int:
        return self.source.ahead_bytes + (0 if self._weights is None else self._weights.ahead_bytes)

    def visiting(self, rows: Sequence[slice]) -> Self:
        weights = None if self._weights is None else self._weights.visiting(rows)
        return self.changed(source=self.source.visiting(rows), _weights=weights)

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        weights = None if self._weights is None else self._weights.renewed(of_a_fit=of_a_fit)
        return self.changed(source=self.source.renewed(of_a_fit=of_a_fit), _weights=weights)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        of_V = self.source.chunk_keys(panel, lost=lost)
        if self._weights is None:
            return of_V
        # An empty row of chunks, which V never has, stands between the two.
        return [*of_V, [], *self._weights.chunk_keys(panel)]

    def upstream(self) -> dict[Hashable, GraphNode]:
        graph = self.source.upstream()
        return graph if self._weights is None else graph | self._weights.upstream()

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[WeightedSlab]:
        of_V, of_weights = chunks, chunks[:0]
        if self._weights is not None and len(chunks):
            between = next(place for place, row in enumerate(chunks) if not len(row))
            of_V, of_weights = chunks[:between], chunks[between + 1 :]
        weights = None if self._weights is None else _Pieces(self._weights.slabs(start, stop, of_weights))
        first = start
        for slab in self.source.slabs(start, stop, of_V):
            values, own = (slab.values, slab.weights) if isinstance(slab, WeightedSlab) else (slab, None)
            last = first + values.shape[0]
            both = own if weights is None else weights.take(last - first)
            if own is not None and weights is not None:
                both = both * own
            yield WeightedSlab(values, both, None if self._rows is None else self._rows[first:last])
            first = last


class _Pieces:
    """Rows from slabs of any height, taken in pieces of a given height."""

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
            assert isinstance(piece, np.ndarray)
            parts.append(np.asarray(piece[:n_rows]))
            if len(piece) > n_rows:
                self._waiting.append(piece[n_rows:])
            n_rows -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
