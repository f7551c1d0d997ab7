"""NumPy and SciPy matrices in this process's memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import scipy.sparse

from dasknmf.core.blocks.canonical import bytes_before, canonical
from dasknmf.core.blocks.scratch import tile_rows
from dasknmf.data.source import Chunks, Facts, InMemory, Slab, Source, check_shape, slab_cuts

_SPARSE_STEP = 64
"""Number of rows of a sparse matrix between two cuts: panels then have about equal numbers of nonzeros."""


class MemorySource(Source):
    """A matrix in memory. Panels are views of it."""

    in_process = True
    is_chunked = False

    def __init__(self, X: InMemory) -> None:
        check_shape(X.shape)
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.sparse = scipy.sparse.issparse(X)
        self._X = X

    @cached_property
    def _rows(self) -> np.ndarray | scipy.sparse.csr_array:
        return canonical(self._X) if self.sparse else self._X

    def find_facts(self) -> Facts:
        # Finer than tiles, so that panels can be balanced between threads.
        height = tile_rows(self.shape[1], max(4, self.dtype.itemsize))
        if isinstance(self._rows, np.ndarray):
            return Facts(slab_cuts(self.shape[0], max(16, height // 8)))
        cuts = slab_cuts(self.shape[0], _SPARSE_STEP)
        return Facts(cuts, bytes_before(self._rows.indptr, cuts, self.dtype.itemsize))

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Slab]:
        X = self._rows
        if isinstance(X, np.ndarray):
            yield X[start:stop]
            return
        low, high = int(X.indptr[start]), int(X.indptr[stop])
        parts = (X.data[low:high], X.indices[low:high], X.indptr[start : stop + 1] - low)
        yield scipy.sparse.csr_array(parts, shape=(stop - start, X.shape[1]))

    def rather_transposed(self, *, parity: bool) -> bool:
        return not parity and self.shape[1] > self.shape[0]

    def transposed(self) -> MemorySource:
        return MemorySource(self._X.T)
