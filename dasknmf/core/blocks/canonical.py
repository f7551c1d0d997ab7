"""SciPy sparse matrices as the slabs that blocks walk: CSR, indices sorted, no duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse
from scipy.sparse import csr_array

from dasknmf.core.dtypes import working_dtype
from dasknmf.core.kernel import kernel
from dasknmf.errors import SourceError

SparseLike: TypeAlias = np.ndarray | scipy.sparse.sparray | scipy.sparse.spmatrix


def canonical(X: SparseLike) -> csr_array:
    """X as CSR with sorted indices and no duplicates; shares memory with such an X.

    Duplicates are summed in V's working dtype: their sum may not fit into a small integer.
    """
    X = csr_array(X)
    # A new array does not copy X's flags, which may be wrong, and does not modify them.
    slab = csr_array((X.data, X.indices, X.indptr), shape=X.shape)
    if slab.has_canonical_format:
        return slab
    slab = csr_array((X.data.copy(), X.indices.copy(), X.indptr.copy()), shape=X.shape)
    slab.sort_indices()
    if not slab.has_canonical_format:
        slab = slab.astype(working_dtype(X.dtype))
        slab.sum_duplicates()
    return slab


def side_by_side(parts: Sequence[SparseLike]) -> csr_array:
    """The horizontal concatenation of chunks of the same rows."""
    if len(parts) == 1:
        return canonical(parts[0])
    return canonical(scipy.sparse.hstack([csr_array(part) for part in parts], format="csr"))


def bytes_before(indptr: np.ndarray, cuts: np.ndarray, itemsize: int) -> np.ndarray:
    """Bytes of the rows before each cut, as CSR with indices of 32 bits."""
    return np.asarray(indptr)[cuts].astype(np.int64) * (itemsize + 4) + 4 * cuts


_INT32_MAX = 2**31 - 1


@kernel
def _disorder(offsets: np.ndarray, indices: np.ndarray, n_columns: int) -> int:
    """The number of columns that are not above the one before them in their row, or not below `n_columns`."""
    found = 0
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        if start == stop:
            continue
        found += indices[start] < 0
        for i in range(start + 1, stop):
            found += indices[i] <= indices[i - 1]
        found += indices[stop - 1] >= n_columns
    return found


def rows_of(data: np.ndarray, indices: np.ndarray, offsets: np.ndarray, n_columns: int) -> csr_array:
    """A canonical array from the parts of a CSR matrix, which are not changed.

    Parameters
    ----------
    data, indices : ndarray of shape (n_nonzeros,)
        In native byte order.
    offsets : ndarray of int64 of shape (n_rows + 1,)
        Nondecreasing, from 0 to n_nonzeros.

    Raises
    ------
    SourceError
        If a column is not one of `n_columns`.
    """
    if indices.dtype not in (np.int32, np.int64):
        indices = indices.astype(np.int64)
    disorder = _disorder(offsets, indices, n_columns)
    if disorder:
        for column in (indices.min(), indices.max()):
            if not 0 <= column < n_columns:
                raise SourceError(
                    f"the indices of the sparse V contain column {column}, and V has columns 0 to "
                    f"{n_columns - 1}: the store is damaged, write it again."
                )
    small = n_columns <= _INT32_MAX and len(indices) <= _INT32_MAX
    index = np.int32 if small else np.int64
    rows = csr_array(
        (data, indices.astype(index, copy=False), offsets.astype(index)),
        shape=(len(offsets) - 1, n_columns),
    )
    if disorder:
        return canonical(rows)
    rows.has_canonical_format = True
    return rows
