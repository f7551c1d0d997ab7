"""SciPy sparse matrices as the slabs that blocks walk: CSR, indices sorted, no duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.inputs.base import working_dtype


def canonical(X: Any) -> scipy.sparse.csr_array:
    """X as CSR with sorted indices and no duplicates: sharing X's memory where it is that already.

    Duplicates are summed in V's working dtype, which a small integer would leave.
    """
    X = scipy.sparse.csr_array(X)
    # A new array has no flags of X's own, which may be out of date, and sets none of them.
    slab = scipy.sparse.csr_array((X.data, X.indices, X.indptr), shape=X.shape)
    if slab.has_canonical_format:
        return slab
    slab = scipy.sparse.csr_array(
        (X.data.copy(), X.indices.copy(), X.indptr.copy()),
        shape=X.shape,
    )
    slab.sort_indices()
    if not slab.has_canonical_format:
        slab = slab.astype(working_dtype(X.dtype))
        slab.sum_duplicates()
    return slab


def side_by_side(parts: Sequence[Any]) -> scipy.sparse.csr_array:
    """Chunks of the same rows, from left to right, as one slab."""
    if len(parts) == 1:
        return canonical(parts[0])
    return canonical(scipy.sparse.hstack([scipy.sparse.csr_array(part) for part in parts], format="csr"))


def stacked(parts: Sequence[scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    """Slabs on top of each other, as one."""
    if len(parts) == 1:
        return parts[0]
    return scipy.sparse.csr_array(scipy.sparse.vstack(parts, format="csr"))


def bytes_before(indptr: np.ndarray, cuts: np.ndarray, itemsize: int) -> np.ndarray:
    """Bytes that the rows before each cut take as CSR with indices of 32 bits."""
    return np.asarray(indptr)[cuts].astype(np.int64) * (itemsize + 4) + 4 * cuts
