"""What is done to rows of X as they are read: normalised, log1p, chosen columns, scaled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.kernel import kernel
from dasknmf.errors import DataError


@dataclass(frozen=True)
class Preparation:
    """The steps that turn rows of X into rows of V; small, and sent to every worker.

    Parameters
    ----------
    dtype : numpy.dtype
        Of what comes out.
    n_columns : int
        Columns of X.
    columns : ndarray of int64 or None
        The columns of X that V has, in V's order; None: all.
    target_sum : float or None
        What each row of X is made to add up to, over all columns of X; rows of zeros stay.
    log1p : bool
        Whether v becomes log(1 + v).
    scale : ndarray of float64 or None
        What each column of V is divided by at last.
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
        """Columns of V."""
        return self.n_columns if self.columns is None else len(self.columns)

    def described(self) -> dict[str, Any]:
        """The steps as JSON values, columns and scale as digests: equal where V is."""
        return {
            "target_sum": self.target_sum,
            "log1p": self.log1p,
            "columns": _digest(self.columns),
            "scale": _digest(self.scale),
        }

    def __call__(self, rows: Any) -> Any:
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
            if scipy.sparse.issparse(rows):
                return self._sparse(_canonical(rows))
            return self._dense(np.asarray(rows))

    def across(self, columns: Any, where: np.ndarray) -> Any:
        """Rows of Vᵀ from rows of Xᵀ, for steps that need no totals.

        Parameters
        ----------
        columns : ndarray or SciPy sparse matrix of shape (n_rows, n_samples)
            Columns of X that V has, as rows.
        where : ndarray of int of shape (n_rows,)
            Which columns of V they are.
        """
        scale = None if self.scale is None else self.scale[where].astype(self.dtype)
        with np.errstate(all="ignore"):
            if not scipy.sparse.issparse(columns):
                values = self._own(np.asarray(columns), shared=True)
                self._log(values)
                if scale is not None:
                    values /= scale[:, None]
                return values
            rows = _canonical(columns)
            data = self._own(rows.data, shared=True)
            self._log(data)
            if scale is not None:
                data /= np.repeat(scale, np.diff(rows.indptr))
            return _csr(data, rows.indices, rows.indptr, rows.shape)

    def _dense(self, rows: np.ndarray) -> np.ndarray:
        factors = None
        if self.target_sum is not None:
            totals = rows.sum(axis=1, dtype=np.float64)
            self._check_unchosen(rows, totals)
            factors = self._row_factors(totals)
        values = rows if self.columns is None else np.take(rows, self.columns, axis=1)
        values = self._own(values, shared=self.columns is None)
        if factors is not None:
            values *= factors[:, None]
        self._log(values)
        if self.scale is not None:
            values /= self.scale.astype(self.dtype)
        return values

    def _sparse(self, rows: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
        data, indices, indptr = rows.data, rows.indices, rows.indptr
        factors = None
        if self.target_sum is not None:
            totals = np.empty(rows.shape[0])
            _row_totals(data, indptr, totals)
            self._check_unchosen(rows, totals)
            factors = self._row_factors(totals)
        if self.columns is None:
            data = self._own(data, shared=True)
        else:
            places = np.full(self.n_columns, -1, indices.dtype)
            places[self.columns] = np.arange(self.width, dtype=indices.dtype)
            starts = np.empty_like(indptr)
            kept, into = np.empty(len(data), self.dtype), np.empty_like(indices)
            count = _keep(data, indices, indptr, places, starts, kept, into)
            data, indices, indptr = kept[:count].copy(), into[:count].copy(), starts
        if factors is not None:
            _scale_rows(data, indptr, factors)
        self._log(data)
        if self.scale is not None:
            _scale_columns(data, indices, self.scale.astype(self.dtype))
        prepared = _csr(data, indices, indptr, (rows.shape[0], self.width))
        if self.columns is not None and np.any(np.diff(self.columns) < 0):
            prepared.has_sorted_indices = False
            prepared.sort_indices()
        return prepared

    def _own(self, values: np.ndarray, *, shared: bool) -> np.ndarray:
        """The values in V's dtype, in memory that may be written where it will be."""
        return values.astype(self.dtype, copy=shared and self.changes_values)

    def _check_unchosen(self, rows: Any, totals: np.ndarray) -> None:
        """Refuse what spoils totals and no survey sees, as it is in columns that V does not have."""
        if self.columns is None:
            return
        values = rows.data if scipy.sparse.issparse(rows) else rows
        smallest = float(np.min(values, initial=0))
        if smallest >= 0 and np.isfinite(totals).all():
            return
        unchosen = np.setdiff1d(np.arange(self.n_columns), self.columns)
        left = rows[:, unchosen]
        left = left.data if scipy.sparse.issparse(left) else left
        n_negative, n_missing = np.count_nonzero(left < 0), np.count_nonzero(~np.isfinite(left))
        if n_negative or n_missing:
            what = "Negative values in data" if n_negative else "Input X contains NaN or infinity"
            raise DataError(
                f"{what}: {n_negative or n_missing} entries of some rows, in columns that are not chosen but "
                "count in the total of a row, which target_sum divides by: mend them, give the counts, or "
                "leave out target_sum."
            )

    def _row_factors(self, totals: np.ndarray) -> np.ndarray:
        # Rows with negative entries keep their signs, so that they are still refused for them.
        assert self.target_sum is not None
        totals = np.abs(totals)
        factors = np.divide(self.target_sum, totals, out=np.ones_like(totals), where=totals != 0)
        return factors.astype(self.dtype)

    def _log(self, values: np.ndarray) -> None:
        if not self.log1p:
            return
        # Negative values stay what they are, to be refused as such and not as the NaN of their logarithm.
        if values.min(initial=0) < 0:
            np.log1p(values, out=values, where=~(values < 0))
        else:
            np.log1p(values, out=values)


def _canonical(rows: Any) -> scipy.sparse.csr_array:
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
    starts: np.ndarray,
    kept: np.ndarray,
    into: np.ndarray,
) -> int:
    """Move the entries whose column has a place to the front, in their order; how many there are."""
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
    return to


@kernel
def _scale_rows(data: np.ndarray, indptr: np.ndarray, factors: np.ndarray) -> None:
    for row in range(factors.size):
        for at in range(indptr[row], indptr[row + 1]):
            data[at] *= factors[row]


@kernel
def _scale_columns(data: np.ndarray, indices: np.ndarray, scale: np.ndarray) -> None:
    for at in range(data.size):
        data[at] /= scale[indices[at]]
