"""Rows of a sparse matrix as it was stored, made canonical: columns in order, each once, none outside."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from dasknmf.errors import SourceError
from dasknmf.inputs.sparse import canonical
from dasknmf.kernel import kernel

_INT32_MAX = 2**31 - 1


@kernel
def _disorder(offsets: np.ndarray, indices: np.ndarray, n_columns: int) -> int:
    """How often a column is not after the one before, or not one of `n_columns`."""
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
    """A canonical array from the parts of one, which are left as they are.

    Parameters
    ----------
    data, indices : ndarray of shape (n_nonzeros,)
        Native byte order.
    offsets : ndarray of int64 of shape (n_rows + 1,)
        From 0 to n_nonzeros, never falling.

    Raises
    ------
    SourceError
        If a column is outside.
    """
    if indices.dtype not in (np.int32, np.int64):
        indices = indices.astype(np.int64)
    disorder = _disorder(offsets, indices, n_columns)
    if disorder:
        for column in (indices.min(), indices.max()):
            if not 0 <= column < n_columns:
                raise SourceError(
                    f"indices of the sparse V hold column {column}, V has columns 0 to {n_columns - 1}: the "
                    "store is damaged, write it again."
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
