"""Operations on a matrix in memory, dense or CSR: the rows of V that a start has sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse

Matrix: TypeAlias = np.ndarray | scipy.sparse.csr_array


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """The vertical stack of one or more matrices, sparse if any of them is."""
    if len(parts) == 1:
        return parts[0]
    if any(map(scipy.sparse.issparse, parts)):
        return scipy.sparse.csr_array(scipy.sparse.vstack(list(map(scipy.sparse.csr_array, parts)), "csr"))
    return np.concatenate(parts)


def every(V: Matrix, step: int) -> Matrix:
    """Every `step`-th row: V itself for step 1, else a copy."""
    if step == 1:
        return V
    return np.ascontiguousarray(V[::step]) if isinstance(V, np.ndarray) else V[::step]


def nbytes(V: Matrix) -> int:
    if isinstance(V, np.ndarray):
        return V.nbytes
    return int(V.data.nbytes + V.indices.nbytes + V.indptr.nbytes)


def mean(V: Matrix) -> float:
    """Mean of all entries that are not NaN, with zeros that are not stored."""
    if isinstance(V, np.ndarray):
        return float(_means(V, None))
    return float(V.data.sum(dtype=np.float64) / (V.shape[0] * V.shape[1]))


def column_means(V: Matrix) -> np.ndarray:
    """Means of the columns, shape (n_features,), float64."""
    if isinstance(V, np.ndarray):
        return _means(V, 0)
    return np.bincount(V.indices, V.data, minlength=V.shape[1]) / V.shape[0]


def row_means(V: Matrix) -> np.ndarray:
    """Means of the rows, shape (n_rows,), float64."""
    if isinstance(V, np.ndarray):
        return _means(V, 1)
    return np.bincount(_row_of(V), V.data, minlength=V.shape[0]) / V.shape[1]


def squares(V: Matrix) -> float:
    """‖V‖² in float64."""
    values = V if isinstance(V, np.ndarray) else V.data
    values = values.reshape(-1)
    if np.isnan(values).any():
        values = values[~np.isnan(values)]
    return float(np.einsum("i,i->", values, values, dtype=np.float64))


def scaled(V: Matrix, by_rows: np.ndarray, by_columns: np.ndarray) -> Matrix:
    """diag(by_rows) V diag(by_columns) in V's dtype."""
    if isinstance(V, np.ndarray):
        X = V * by_rows[:, None].astype(V.dtype)
        X *= by_columns.astype(V.dtype)
        return X
    values = V.data * by_rows.astype(V.dtype)[_row_of(V)]
    values *= by_columns.astype(V.dtype)[V.indices]
    return scipy.sparse.csr_array((values, V.indices, V.indptr), shape=V.shape)


def _means(V: np.ndarray, axis: int | None) -> np.ndarray:
    """Means along an axis of the values that are not NaN; 0 if there are none."""
    means = np.asarray(V.mean(axis=axis, dtype=np.float64))
    if not np.isnan(means).any():
        return means
    known = ~np.isnan(V)
    sums = np.sum(V, axis=axis, where=known, dtype=np.float64)
    return np.asarray(sums / np.maximum(known.sum(axis=axis), 1))


def dense(V: Matrix) -> np.ndarray:
    return V if isinstance(V, np.ndarray) else np.asarray(V.toarray())


def _row_of(V: scipy.sparse.csr_array) -> np.ndarray:
    """The row of each nonzero."""
    return np.repeat(np.arange(V.shape[0]), np.diff(V.indptr))
