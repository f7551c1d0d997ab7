"""The steps on rows of X as they are read: normalised, log1p, chosen columns, scaled."""

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
    """The steps that turn rows of X into rows of V; small, and sent to every worker.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the result.
    n_columns : int
        Columns of X.
    columns : ndarray of int64 or None
        The columns of X that V has, in V's order; None: all.
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
        """Whether entries change, beside columns being chosen."""
        return self.target_sum is not None or self.log1p or self.scale is not None

    @property
    def width(self) -> int:
        """Number of columns of V."""
        return self.n_columns if self.columns is None else len(self.columns)

    def described(self) -> dict[str, Any]:
        """The steps as JSON values, columns and scale as digests: equal where V is."""
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
            Sparse where the rows are, with sorted indices; never the memory of `rows` where values
            change.
        """
        with np.errstate(all="ignore"):  # NaN and infinities stay, and are refused where V is surveyed
            rows = _canonical(rows) if scipy.sparse.issparse(rows) else np.asarray(rows)
            factors = None if self.target_sum is None else self._row_factors(rows)
            scale = None if self.scale is None else self.scale.astype(self.dtype)
            if not scipy.sparse.issparse(rows):
                chosen = rows if self.columns is None else np.take(rows, self.columns, axis=1)
                values = self._owned(chosen, shared=self.columns is None)
                return self._changed(values, None if factors is None else factors[:, None], scale)
            data, indices, indptr = self._chosen(rows)
            factors = None if factors is None else np.repeat(factors, np.diff(indptr))
            self._changed(data, factors, None if scale is None else scale[indices])
        prepared = _csr(data, indices, indptr, (rows.shape[0], self.width))
        if self.columns is not None and np.any(np.diff(self.columns) < 0):
            prepared.has_sorted_indices = False
            prepared.sort_indices()
        return prepared

    def across(self, columns: InMemory, where: np.ndarray) -> Rows:
        """Rows of Vᵀ from rows of Xᵀ, for steps that need no totals.

        Parameters
        ----------
        columns : ndarray or SciPy sparse matrix of shape (n_rows, n_samples)
            Columns of X that V has, as rows.
        where : ndarray of int of shape (n_rows,)
            The columns of V that they are.
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

    def _chosen(self, rows: scipy.sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parts of the chosen columns, values in the dtype of V."""
        data, indices, indptr = rows.data, rows.indices, rows.indptr
        if self.columns is None:
            return self._owned(data, shared=True), indices, indptr
        places = np.full(self.n_columns, -1, indices.dtype)
        places[self.columns] = np.arange(self.width, dtype=indices.dtype)
        kept, into = np.empty(len(data), self.dtype), np.empty_like(indices)
        starts = _keep(data, indices, indptr, places, kept, into)
        return kept[: starts[-1]].copy(), into[: starts[-1]].copy(), starts

    def _owned(self, values: np.ndarray, *, shared: bool) -> np.ndarray:
        """The values in the dtype of V, copied where they would be changed in the memory of X."""
        return values.astype(self.dtype, copy=shared and self.changes_values)

    def _changed(
        self, values: np.ndarray, factors: np.ndarray | None, divisors: np.ndarray | None
    ) -> np.ndarray:
        """Values times factors, their log(1 + v), over divisors: in place."""
        if factors is not None:
            values *= factors
        if self.log1p:
            # Negative values stay, to be refused as negative and not as the NaN of their logarithm.
            where = ~(values < 0) if values.min(initial=0) < 0 else True
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
        # Rows with negative entries keep their signs, so that they are still refused for them.
        totals = np.abs(totals)
        factors = np.divide(self.target_sum, totals, out=np.ones_like(totals), where=totals != 0)
        return factors.astype(self.dtype)

    def _check_unchosen(self, rows: Rows, totals: np.ndarray) -> None:
        """Refuse values that spoil totals in columns that V does not have, where no survey sees them."""
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
    """Rows whose indices are sorted and without duplicates, in a dtype that kernels take."""
    if not (isinstance(rows, scipy.sparse.csr_array) and rows.has_canonical_format):
        rows = canonical(rows)
    # SciPy takes native dtypes only; of these, kernels do not take the longest floats.
    return rows.astype(np.float64) if rows.dtype == np.longdouble else rows


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]
) -> scipy.sparse.csr_array:
    matrix = scipy.sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.has_canonical_format = True  # known, and dear to find out
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


@kernel
def _keep(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    kept: np.ndarray,
    into: np.ndarray,
) -> np.ndarray:
    """Move the entries whose column has a place to the front, in their order; the indptr of the result."""
    starts = np.empty_like(indptr)
    to = 0
    starts[0] = 0
    for row in range(indptr.size - 1):
        for at in range(indptr[row], indptr[row + 1]):
            # Written in any case and overwritten by the next: a branch would be guessed wrong too often.
            place = places[indices[at]]
            kept[to] = data[at]
            into[to] = place
            to += int(place >= 0)
        starts[row + 1] = to
    return starts
