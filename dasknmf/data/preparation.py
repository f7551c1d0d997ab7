"""Preprocessing of rows of X as they are read: normalization, log1p, selection of columns, scaling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.kernel import kernel
from dasknmf.data.dask_array import Rows
from dasknmf.data.source import InMemory
from dasknmf.errors import DataError


@dataclass(frozen=True)
class Preparation:
    """The preprocessing that turns rows of X into rows of V; sent to every worker.

    Parameters
    ----------
    dtype : numpy.dtype
        Dtype of V.
    n_columns : int
        Number of columns of X.
    columns : ndarray of int64 or None
        Indices of the columns of X that are V's columns, in V's order; None: all.
    target_sum : float or None
        The sum that each row of X is scaled to, over all columns of X; rows of zeros stay.
    log1p : bool
        Whether v becomes log(1 + v).
    scale : ndarray of float64 or None
        Divisors of the columns of V, the last step.
    """

    dtype: np.dtype
    n_columns: int
    columns: np.ndarray | None = None
    target_sum: float | None = None
    log1p: bool = False
    scale: np.ndarray | None = None

    @property
    def changes_values(self) -> bool:
        """Whether a step other than the selection of columns changes values."""
        return self.target_sum is not None or self.log1p or self.scale is not None

    @property
    def width(self) -> int:
        """Number of columns of V."""
        return self.n_columns if self.columns is None else len(self.columns)

    def described(self) -> dict[str, Any]:
        """The steps as JSON values, with digests of columns and scale, to compare preparations."""
        return {
            "target_sum": self.target_sum,
            "log1p": self.log1p,
            "columns": _digest(self.columns),
            "scale": _digest(self.scale),
        }

    def __call__(self, rows: InMemory) -> Rows:
        """Rows of V from rows of X.

        Parameters
        ----------
        rows : ndarray or SciPy sparse matrix of shape (n_rows, n_columns)

        Returns
        -------
        prepared : ndarray or csr_array of shape (n_rows, width)
            Sparse if `rows` is, with sorted indices; `rows` itself is never modified.
        """
        with np.errstate(all="ignore"):  # the survey of V refuses NaN and infinities
            rows = _canonical(rows) if scipy.sparse.issparse(rows) else np.asarray(rows)
            factors = None if self.target_sum is None else self._row_factors(rows)
            scale = None if self.scale is None else self.scale.astype(self.dtype)
            if not scipy.sparse.issparse(rows):
                chosen = rows if self.columns is None else np.take(rows, self.columns, axis=1)
                values = self._owned(chosen, shared=self.columns is None)
                return self._changed(values, None if factors is None else factors[:, None], scale)
            csr: scipy.sparse.csr_array = rows if self.columns is None else rows[:, self.columns]
            data = self._owned(csr.data, shared=self.columns is None)
            factors = None if factors is None else np.repeat(factors, np.diff(csr.indptr))
            self._changed(data, factors, None if scale is None else scale[csr.indices])
        prepared = _csr(data, csr.indices, csr.indptr, csr.shape)
        if self.columns is not None and np.any(np.diff(self.columns) < 0):
            prepared.has_sorted_indices = False
            prepared.sort_indices()
        return prepared

    def across(self, columns: InMemory, where: np.ndarray) -> Rows:
        """Rows of Vᵀ from rows of Xᵀ, for preparations without `target_sum`.

        Parameters
        ----------
        columns : ndarray or SciPy sparse matrix of shape (n_rows, n_samples)
            Selected columns of X, as rows.
        where : ndarray of int of shape (n_rows,)
            Their indices as columns of V.
        """
        scale = None if self.scale is None else self.scale[where].astype(self.dtype)
        with np.errstate(all="ignore"):
            if not scipy.sparse.issparse(columns):
                values = self._owned(np.asarray(columns), shared=True)
                return self._changed(values, None, None if scale is None else scale[:, None])
            rows = _canonical(columns)
            scale = None if scale is None else np.repeat(scale, np.diff(rows.indptr))
            data = self._changed(self._owned(rows.data, shared=True), None, scale)
            return _csr(data, rows.indices, rows.indptr, rows.shape)

    def _owned(self, values: np.ndarray, *, shared: bool) -> np.ndarray:
        """The values in the dtype of V, copied if later steps would modify X."""
        return values.astype(self.dtype, copy=shared and self.changes_values)

    def _changed(
        self, values: np.ndarray, factors: np.ndarray | None, divisors: np.ndarray | None
    ) -> np.ndarray:
        """Values after multiplication by factors, log(1 + v) and division by divisors, computed in place."""
        if factors is not None:
            values *= factors
        if self.log1p:
            # Negative values are kept, so that the survey refuses them as negative, not as NaN.
            where = ~(values < 0) if np.fmin.reduce(values, axis=None, initial=0) < 0 else True
            np.log1p(values, out=values, where=where)
        if divisors is not None:
            values /= divisors
        return values

    def _row_factors(self, rows: Rows) -> np.ndarray:
        assert self.target_sum is not None
        if isinstance(rows, np.ndarray):
            totals = rows.sum(axis=1, dtype=np.float64)
        else:
            totals = np.empty(rows.shape[0])
            _row_totals(rows.data, rows.indptr, totals)
        self._check_unchosen(rows, totals)
        # Absolute totals keep the signs of negative entries, which the survey then refuses.
        totals = np.abs(totals)
        factors = np.divide(self.target_sum, totals, out=np.ones_like(totals), where=totals != 0)
        return factors.astype(self.dtype)

    def _check_unchosen(self, rows: Rows, totals: np.ndarray) -> None:
        """Raise an error for negative values and NaN in columns that are not selected but add to totals."""
        if self.columns is None:
            return
        if float(np.min(_values(rows), initial=0)) >= 0 and np.isfinite(totals).all():
            return
        left = _values(rows[:, np.setdiff1d(np.arange(self.n_columns), self.columns)])
        n_negative, n_missing = np.count_nonzero(left < 0), np.count_nonzero(~np.isfinite(left))
        if n_negative or n_missing:
            what = "Negative values in data" if n_negative else "Input X contains NaN or infinity"
            raise DataError(
                f"{what}: {n_negative or n_missing} entries of some rows, in columns that are not chosen but "
                "count in the total of a row, which target_sum divides by: mend them, give the counts, or "
                "leave out target_sum."
            )


def _values(rows: Rows) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else np.asarray(rows.data)


def _canonical(rows: InMemory) -> scipy.sparse.csr_array:
    """Rows with sorted indices without duplicates, in a dtype that kernels support."""
    if not (isinstance(rows, scipy.sparse.csr_array) and rows.has_canonical_format):
        rows = canonical(rows)
    # SciPy takes native dtypes only; of these, kernels do not take the longest floats.
    return rows.astype(np.float64) if rows.dtype == np.longdouble else rows


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]
) -> scipy.sparse.csr_array:
    matrix = scipy.sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.has_canonical_format = True  # known, and expensive to check
    return matrix


def _digest(values: np.ndarray | None) -> str | None:
    if values is None:
        return None
    return f"{len(values)} values, {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


@kernel
def _row_totals(data: np.ndarray, indptr: np.ndarray, totals: np.ndarray) -> None:
    for row in range(totals.size):
        total = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            total += np.float64(data[at])
        totals[row] = total
