"""Rows of sparse slabs, and the buffers that tiles of one walk share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from dasknmf.core.blocks import nonzeros
from dasknmf.core.blocks.scratch import Scratch
from dasknmf.core.blocks.simd import padded

_FLUSH_ROWS = 2048
"""Number of rows whose products are summed in V's dtype before the sum is added in float64."""


class CsrRows(NamedTuple):
    """Rows of a CSR slab, as views: a SciPy array would take as long to create as a product with it."""

    values: np.ndarray
    columns: np.ndarray
    pointers: np.ndarray
    """Offsets of the rows in `values`, from 0 on, shape (n_rows + 1,), int64."""
    weights: np.ndarray | None = None
    """Weights of the rows, shape (n_rows,), float64; None: 1."""

    @classmethod
    def of(cls, slab: csr_array, start: int, stop: int, weights: np.ndarray | None = None) -> CsrRows:
        pointers = slab.indptr[start : stop + 1].astype(np.int64)
        low, high = int(pointers[0]), int(pointers[-1])
        rows = None if weights is None else weights[start:stop]
        return cls(slab.data[low:high], slab.indices[low:high], pointers - low, rows)

    @classmethod
    def joined(cls, pieces: list[CsrRows]) -> CsrRows:
        values, columns, pointers, weights = zip(*pieces, strict=True)
        lengths = np.concatenate([np.diff(each) for each in pointers])
        return cls(
            np.concatenate(values),
            np.concatenate(columns),
            np.append(0, np.cumsum(lengths)),
            None if weights[0] is None else np.concatenate(weights),
        )

    def copy(self) -> CsrRows:
        weights = None if self.weights is None else self.weights.copy()
        return CsrRows(self.values.copy(), self.columns.copy(), self.pointers.copy(), weights)

    def select(self, indices: np.ndarray) -> CsrRows:
        """Rows at ascending places, without weights."""
        lengths = np.diff(self.pointers)
        kept = np.zeros(lengths.size, bool)
        kept[indices] = True
        values = np.repeat(kept, lengths)
        pointers = np.append(0, np.cumsum(lengths[kept]))
        return CsrRows(self.values[values], self.columns[values], pointers)


class CsrWalk:
    """Arrays that all tiles of one walk share, and sums that are not yet added to A."""

    def __init__(self, height: int, n_features: int, dtype: np.dtype) -> None:
        self.n_features = n_features
        self.dtype = dtype
        self.dense = Scratch(height, n_features, dtype)
        self._buffer = np.empty(0, dtype)
        self._made: dict[tuple[str, int], tuple[object, np.ndarray]] = {}
        self._sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._flushed = 0
        self._ended = False

    def buffer(self, size: int) -> np.ndarray:
        """A buffer for a value of each nonzero."""
        if self._buffer.size < size:
            self._buffer = np.empty(size + size // 4, self.dtype)
        return self._buffer[:size]

    def once(self, name: str, source: object, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The result of `make`, computed once for each `source` object of the walk."""
        key = name, id(source)
        if key not in self._made:
            self._made[key] = source, make()  # the source is kept alive, so that its id is not reused
        return self._made[key][1]

    def transposed_sums(self, A: np.ndarray) -> np.ndarray:
        """The array, of Aᵀ's shape with padded rows, that the next flush adds to Aᵀ."""
        if id(A) not in self._sums:
            self._sums[id(A)] = (A, np.zeros((A.shape[1], padded(A.shape[0])), self.dtype))
        return self._sums[id(A)][1]

    def added(self) -> None:
        """Flush if the walk has ended, as a tile may be used after that."""
        if self._ended:
            self._flush()

    def rows_done(self, row: int) -> None:
        if row - self._flushed >= _FLUSH_ROWS:
            self._flushed = row
            self._flush()

    def end(self) -> None:
        self._ended = True
        self._flush()

    def _flush(self) -> None:
        for A, At in self._sums.values():
            nonzeros.add_transposed(A, At)
