"""Rows of V, prepared in the tasks that read them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from dask.task_spec import GraphNode

from dasknmf.inputs.base import Chunks, Reader, Source, grid_of, nbytes_of
from dasknmf.inputs.preparation import Preparation
from dasknmf.panels import Panel


class PreparedSource(Source):
    """A source whose slabs are prepared as they come.

    Parameters
    ----------
    source : Source
        Of X, or of Xᵀ.
    preparation : Preparation
    transposed : bool
        Whether rows of the source are columns of X.
    """

    def __init__(self, source: Source, preparation: Preparation, *, transposed: bool) -> None:
        self._source = source
        n_rows = preparation.width if transposed else source.shape[0]
        n_columns = source.shape[1] if transposed else preparation.width
        self.shape = (n_rows, n_columns)
        self.dtype = preparation.dtype
        self.in_process = source.in_process
        self.sparse = source.sparse
        self.entries = source.entries
        self.negatives_advice = source.negatives_advice
        row_bytes = source.shape[1] * source.dtype.itemsize
        before = source.cuts * row_bytes if source.cut_bytes is None else source.cut_bytes
        self._rows = _ChosenRows(source.cuts, before, preparation.columns if transposed else None)
        # Panels are cut by what is read for them, whatever is left of it.
        self.cuts, self.cut_bytes = self._rows.cuts, self._rows.before
        self.reader = PreparedReader(source.reader, preparation, self._rows if transposed else None)
        grid = grid_of(self)
        panel = int(np.diff(np.interp(grid.edges, self.cuts, self._rows.before)).max())
        read = source.slab_bytes or (0 if source.in_process else panel)
        if source.sparse:
            # Each value beside its column: all of them may be in chosen ones.
            wider = max(1.0, (self.dtype.itemsize + 4) / (source.dtype.itemsize + 4))
            self.kept_bytes = int(nbytes_of(source) * wider)
            made = int((read or panel) * wider)
        else:
            made_row = n_columns * self.dtype.itemsize
            self.kept_bytes = n_rows * made_row
            made = (-(-read // row_bytes) if read else grid.rows_max) * made_row
        self.slab_bytes = read + made

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        start, stop = self._rows.read_for(panel.start, panel.stop)
        return self._source.chunk_keys(Panel(panel.index, start, stop), lost=lost)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._source.upstream()


class PreparedReader(Reader):
    """Prepares slabs inside the task that reads them."""

    def __init__(self, reader: Reader, preparation: Preparation, rows: _ChosenRows | None) -> None:
        self._reader = reader
        self._prepare = preparation
        self._rows = rows

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        again = copy.copy(self)
        again._reader = self._reader.anew(of_a_fit=of_a_fit)
        return again

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Any]:
        if self._rows is None:
            for slab in self._reader.slabs(start, stop, chunks):
                yield self._prepare(slab)
            return
        first, last = self._rows.read_for(start, stop)
        for slab in self._reader.slabs(first, last, chunks):
            height = slab.shape[0]
            rows, where = self._rows.among(first, first + height)
            first += height
            if len(where):
                # All rows as they are, or a copy of some.
                yield self._prepare.across(slab if len(rows) == height else slab[rows], where)


class _ChosenRows:
    """Rows of Xᵀ that Vᵀ has, and where X is cut for them."""

    def __init__(self, cuts: np.ndarray, before: np.ndarray, chosen: np.ndarray | None) -> None:
        self._read_cuts = cuts
        self._chosen = chosen
        self.cuts, self.before = cuts, before
        if chosen is not None:
            counts = np.searchsorted(chosen, cuts)
            self.cuts, first = np.unique(counts, return_index=True)
            # Stretches between two cuts with nothing that is chosen are read inside a panel and not at its
            # ends, which nobody knows yet: all of them count, but for the first and the last of X.
            first[0] = np.searchsorted(counts, 0, side="right") - 1
            self.before = before[first] - before[first[0]]

    def read_for(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of Xᵀ that are read for rows [start, stop) of Vᵀ: from cut to cut."""
        if self._chosen is None:
            return start, stop
        first = np.searchsorted(self._read_cuts, self._chosen[start], side="right") - 1
        last = np.searchsorted(self._read_cuts, self._chosen[stop - 1], side="right")
        return int(self._read_cuts[first]), int(self._read_cuts[last])

    def among(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Of rows [first, last) of Xᵀ: those that are chosen, counted from `first`, and as rows of Vᵀ."""
        if self._chosen is None:
            return np.arange(last - first), np.arange(first, last)
        where = np.arange(*np.searchsorted(self._chosen, (first, last)))
        return self._chosen[where] - first, where
