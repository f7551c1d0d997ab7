"""NumPy and SciPy matrices in this process's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.core.blocks.canonical import bytes_before, canonical
from dasknmf.core.blocks.dense import tile_rows
from dasknmf.data.source import Chunks, Reader, Slab, Source

_SPARSE_STEP = 64
"""Rows of a sparse matrix between two cuts: panels then hold the same nonzeros."""


class MemorySource(Source):
    """A matrix that is already here. Panels are views of it."""

    in_process = True

    def __init__(self, X: Any) -> None:
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.sparse = scipy.sparse.issparse(X)
        self._X = canonical(X) if self.sparse else X
        self.reader = MemoryReader(self._X)
        # Finer than tiles, so that a few panels take a few threads the same time.
        height = tile_rows(self.shape[1], max(4, self.dtype.itemsize))
        step = _SPARSE_STEP if self.sparse else max(16, height // 8)
        self.cuts = np.append(np.arange(0, self.shape[0], step), self.shape[0])
        if self.sparse:
            self.cut_bytes = bytes_before(self._X.indptr, self.cuts, self.dtype.itemsize)


class MemoryReader(Reader):
    """Rows of an array as they are."""

    def __init__(self, X: np.ndarray | scipy.sparse.csr_array) -> None:
        self._X = X

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        X: Any = self._X
        if not scipy.sparse.issparse(X):
            yield X[start:stop]
            return
        low, high = int(X.indptr[start]), int(X.indptr[stop])
        parts = (X.data[low:high], X.indices[low:high], X.indptr[start : stop + 1] - low)
        yield scipy.sparse.csr_array(parts, shape=(stop - start, X.shape[1]))
