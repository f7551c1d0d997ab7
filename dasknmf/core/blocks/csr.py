"""Panels of sparse slabs: products at the speed of their nonzeros, never densified for β = 1 and β = 2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from dasknmf.core.blocks import sums
from dasknmf.core.blocks.base import SlabBlock
from dasknmf.core.blocks.csr_tile import CsrTile
from dasknmf.core.blocks.csr_walk import CsrRows, CsrWalk
from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.core.blocks.scratch import tile_rows
from dasknmf.errors import SourceError


class CsrBlock(SlabBlock):
    """A panel of `scipy.sparse.csr_array` slabs with sorted indices and no duplicates.

    Tiles begin at whole multiples of their height after the panel's first row, wherever slabs end.
    Parameters as for `SlabBlock`.
    """

    def tiles(self) -> Iterator[CsrTile]:
        self.total, self.nbytes, row = 0.0, 0, 0
        spec = self._spec
        height = tile_rows(spec.n_features, spec.dtype.itemsize, sparse=True)
        walk = CsrWalk(height, spec.n_features, spec.dtype)
        for pieces in self._in_heights(height):
            tile = self._tile(pieces, row, walk)
            row = tile.rows.stop
            if row > self.n_rows:  # a kernel would read beyond the rows of W
                self._refuse(row)
            yield tile
            walk.rows_done(row)
        walk.end()
        if row != self.n_rows:
            self._refuse(row)

    def _in_heights(self, height: int) -> Iterator[list[CsrRows]]:
        """Pieces of slabs that make one tile each."""
        waiting: list[CsrRows] = []
        missing, left = height, self.n_rows
        for slab in self._slabs:
            V, weights = (slab.values, slab.rows) if isinstance(slab, WeightedSlab) else (slab, None)
            assert isinstance(V, csr_array)
            start, n_rows = 0, V.shape[0]
            while n_rows - start >= missing:
                waiting.append(CsrRows.of(V, start, start + missing, weights))
                yield waiting
                start, waiting, missing = start + missing, [], height
            left -= n_rows
            if start < n_rows:
                rest = CsrRows.of(V, start, n_rows, weights)
                # A copy, as a view would keep the whole slab in memory during the next read.
                waiting.append(rest.copy() if left else rest)
                missing -= n_rows - start
            self.nbytes += V.data.nbytes + V.indices.nbytes + V.indptr.nbytes
        if waiting:
            yield waiting

    def _tile(self, pieces: list[CsrRows], row: int, walk: CsrWalk) -> CsrTile:
        joined = pieces[0] if len(pieces) == 1 else CsrRows.joined(pieces)
        columns = np.ascontiguousarray(joined.columns, np.int32)
        at = self._at(row, joined.pointers.size - 1)
        # Kernels do not check bounds: a damaged index would be written outside of the array.
        if columns.size and int(columns.view(np.uint32).max()) >= walk.n_features:
            raise SourceError(
                f"rows {at.first} to {at.first + at.n_rows - 1} of V have column indices outside of "
                f"its {walk.n_features} columns: V is damaged, write it again."
            )
        values = np.ascontiguousarray(joined.values, walk.dtype)
        if self._spec.checked:  # the sum of V itself, hidden entries included
            self.total += sums.total(values)
        rows = joined._replace(values=values, columns=columns)
        return CsrTile(rows, at, walk, self._entries)
