"""A matrix that is preprocessed as it is read, from raw counts on disk for example."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.utils.validation import _get_feature_names, check_array

from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.feature_names import aligned
from dasknmf.core.image_grid import PixelIndex
from dasknmf.core.panels import Grid, Panel
from dasknmf.data.choose import as_source, is_chunked, opened
from dasknmf.data.dask_array import Rows
from dasknmf.data.preparation import Preparation
from dasknmf.data.source import (
    Chunks,
    Facts,
    InMemory,
    Matrix,
    MatrixLike,
    Source,
    Wrapper,
    bytes_before,
    check_shape,
    nbytes_of,
    row_size,
)
from dasknmf.errors import DataError, SourceError


class Prepared(Wrapper):
    """A matrix X that is preprocessed in every read, so that no preprocessed copy has to be stored.

    The steps, in this order: each row is multiplied by ``target_sum / total``, where `total` is the sum of
    the row over all columns of X; log(1 + v); selection of columns; division of each selected column by its
    `scale`. Rows of sum 0 are not changed. Sparse rows stay sparse.

    Parameters
    ----------
    X : array of shape (n_samples, n_columns)
        Any input of `NMF.fit`. A matrix in memory must be nonnegative, without infinities and, with
        `target_sum`, without NaN; other input is checked when it is read.
    columns : array of bool of shape (n_columns,) or of int, optional
        The columns of V: a mask, or indices in V's order, without repetition. Labels of a mask are matched
        with the names of X's columns.
    target_sum : float, optional
        The sum that each row is scaled to (scanpy's `normalize_total`; 1e4 and 1e6 are common).
    log1p : bool, default=False
    scale : array of shape (n_features,), optional
        Positive divisors of the selected columns, in V's order, such as their standard deviations (columns
        are not centred, as V is nonnegative). Labels are matched with the names of V. A resumed run keeps its
        own scale if this one differs by at most 1e-6 (relative), as it may if computed on another CPU.
    feature_names : array of str of shape (n_features,), optional
        Names of the selected columns, in V's order; default: those of X.

    Attributes
    ----------
    shape : tuple of int
        n_samples and n_features of the preprocessed matrix.
    dtype : numpy.dtype
        Dtype of the preprocessed matrix: that of X if columns are only selected; otherwise float64 if X has
        floats of 64 bits or more, and float32 for all other dtypes, integers included.
    feature_names : ndarray of str or None
    is_chunked : bool
        Whether X is read in chunks by the Dask scheduler.
    X : array
        The original matrix, opened if a path was given.
    preparation : Preparation
        The steps.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit X or the rules above.
    DataError
        If X is in memory and holds negative values, or NaN with `target_sum`.
    SourceError
        If X cannot be opened; or if X is stored by columns (CSC) and `target_sum` is given or `columns` are
        not in X's order.

    Notes
    -----
    A run detects changes of X by sums of preprocessed rows. With `target_sum` as the only step the sum of
    every nonzero row is `target_sum`, so other counts in the same rows are not detected.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import NMF, Prepared
    >>> counts = np.random.default_rng(0).poisson(2.0, size=(30, 6))
    >>> V = Prepared(counts, target_sum=1e4, log1p=True, columns=[0, 2, 3, 5])
    >>> NMF(2, random_state=0, tol=1e-3).fit(V).components_.shape
    (2, 4)
    """

    X: Matrix
    feature_names: np.ndarray | None

    def __init__(
        self,
        X: MatrixLike,
        *,
        columns: ArrayLike | None = None,
        target_sum: float | None = None,
        log1p: bool = False,
        scale: ArrayLike | None = None,
        feature_names: ArrayLike | None = None,
    ) -> None:
        X = opened(X)
        names = _get_feature_names(X) if hasattr(X, "iloc") else None
        if not (isinstance(X, Source) or is_chunked(X)):
            X = _in_memory(X, summed=target_sum is not None)
        check_shape(X.shape)
        working_dtype(X.dtype)
        super().__init__(as_source(X))
        self.X = X
        n_columns = int(X.shape[1])
        carried = self.source.feature_names if names is None else names
        chosen = _columns(_aligned_mask(columns, carried), n_columns)
        n_features = n_columns if chosen is None else len(chosen)
        self.feature_names = _names(feature_names, carried, chosen, n_features)
        total = _target_sum(target_sum)
        divisors = _scale(aligned(scale, self.feature_names, "scale"), n_features)
        changed = total is not None or bool(log1p) or divisors is not None
        self.dtype = _dtype(X.dtype, changed=changed)
        self.preparation = Preparation(self.dtype, n_columns, chosen, total, bool(log1p), divisors)
        self.shape = (self.shape[0], n_features)
        self.layout = None
        if self.by_columns:
            self.check_columns()

    def __repr__(self) -> str:
        steps = self.preparation
        said = [
            f"target_sum={steps.target_sum:g}" if steps.target_sum is not None else "",
            "log1p" if steps.log1p else "",
            f"{self.shape[1]} of {steps.n_columns} columns" if steps.columns is not None else "",
            "scaled" if steps.scale is not None else "",
        ]
        what = ", ".join(filter(None, said)) or "as it is"
        return f"<Prepared {self.shape[0]} x {self.shape[1]} {self.dtype}: {what}>"

    def rescaled(self, scale: np.ndarray) -> Self:
        """A copy with other divisors of the columns."""
        return self.changed(preparation=replace(self.preparation, scale=scale))

    def described(self) -> dict[str, Any]:
        """The steps as JSON values, for the identity of a run; inner steps under "before"."""
        before = {"before": self.X.described()} if isinstance(self.X, Prepared) else {}
        return self.preparation.described() | before

    def keeps_missing(self, *, nan: bool) -> bool:
        """Whether missing values of X, NaN or a number, still mark missing entries after the steps."""
        steps, before = self.preparation, self.X
        if isinstance(before, Prepared) and not before.keeps_missing(nan=nan):
            return False
        return steps.target_sum is None if nan else not steps.changes_values

    def find_facts(self) -> Facts:
        # Panels are cut by the bytes read from X, however few columns are selected.
        return _facts(self, self.source.facts.cuts, bytes_before(self.source))

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Rows]:
        for slab in self.source.slabs(start, stop, chunks):
            assert not isinstance(slab, WeightedSlab)
            yield self.preparation(slab)

    @property
    def pixel_index(self) -> PixelIndex:
        return self.source.pixel_index

    def for_tasks(self) -> Self:
        return self.changed(source=self.source.for_tasks(), X=None)

    @property
    def can_be_transposed(self) -> bool:
        """Whether X may be read by columns: without `target_sum`, and with columns in X's order."""
        columns = self.preparation.columns
        ordered = columns is None or bool((np.diff(columns) > 0).all())
        return ordered and self.preparation.target_sum is None

    def rather_transposed(self, *, parity: bool) -> bool:
        n, m = self.shape
        rather = self.source.rather_transposed(parity=parity) if self.is_chunked else not parity and m > n
        return self.can_be_transposed and rather

    def transposed(self) -> Source:
        self.check_columns()
        return _PreparedColumns(self.source.transposed(), self.preparation)

    def check_columns(self) -> None:
        """Raise an error if the steps need rows and X can only be read by columns.

        Raises
        ------
        SourceError
        """
        if not self.can_be_transposed:
            raise SourceError(
                "X is stored by columns (CSC); totals of rows (target_sum) and columns in another "
                "order than X's need whole rows: give columns in ascending order, and for target_sum store X "
                "by rows (CSR)."
            )


class _PreparedColumns(Wrapper):
    """The transpose of a preprocessed X: the selected rows of Xᵀ, preprocessed.

    Parameters
    ----------
    source : Source
        The source of Xᵀ.
    preparation : Preparation
    """

    def __init__(self, source: Source, preparation: Preparation) -> None:
        super().__init__(source)
        self.dtype = preparation.dtype
        self.shape = (preparation.width, source.shape[1])
        self._preparation = preparation
        self._cuts = source.facts.cuts  # of Xᵀ; tasks have no facts

    def find_facts(self) -> Facts:
        cuts, before, columns = self._cuts, bytes_before(self.source), self._preparation.columns
        if columns is not None:
            counts = np.searchsorted(columns, cuts)
            cuts, first = np.unique(counts, return_index=True)
            # Rows between two cuts of which none is chosen are read where they lie inside a panel, but not at
            # its ends. Panels are unknown here: all such rows count, except before the first chosen row and
            # after the last.
            first[0] = np.searchsorted(counts, 0, side="right") - 1
            before = before[first] - before[first[0]]
        return _facts(self, cuts, before)

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Rows]:
        columns = self._preparation.columns
        first, end = self._read_for(start, stop)
        for slab in self.source.slabs(first, end, chunks):
            assert not isinstance(slab, WeightedSlab)
            rows, last = slab, first + slab.shape[0]
            where = np.arange(first, last)
            if columns is not None:
                where = np.arange(*np.searchsorted(columns, (first, last)))
                if len(where) < slab.shape[0]:
                    rows = slab[columns[where] - first]
            first = last
            if len(where):
                yield self._preparation.across(rows, where)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        start, stop = self._read_for(panel.start, panel.stop)
        return self.source.chunk_keys(Panel(panel.index, start, stop), lost=lost)

    def visiting(self, rows: Sequence[slice]) -> Self:
        of_X = [slice(*self._read_for(each.start, each.stop)) for each in rows]
        return self.changed(source=self.source.visiting(of_X))

    def _read_for(self, start: int, stop: int) -> tuple[int, int]:
        """The range of rows of Xᵀ, from cut to cut, that is read for rows [start, stop) of Vᵀ."""
        columns = self._preparation.columns
        if columns is None:
            return start, stop
        first = np.searchsorted(self._cuts, columns[start], side="right") - 1
        last = np.searchsorted(self._cuts, columns[stop - 1], side="right")
        return int(self._cuts[first]), int(self._cuts[last])


def _facts(V: Wrapper, cuts: np.ndarray, before: np.ndarray) -> Facts:
    """The facts of a preprocessed matrix, from its cuts and the bytes of X before each cut."""
    X = V.source
    grid = Grid.of(cuts, row_size(V), before)
    panel = int(np.diff(np.interp(grid.edges, cuts, before)).max())
    read = X.facts.slab_bytes or (0 if X.in_process else panel)
    if X.sparse:
        # A value and its 4-byte column index; all values may be in selected columns.
        wider = max(1.0, (V.dtype.itemsize + 4) / (X.dtype.itemsize + 4))
        total = int(nbytes_of(X) * wider)
        made = int((read or panel) * wider)
    else:
        total = V.shape[0] * row_size(V)
        made = (-(-read // row_size(X)) if read else grid.rows_max) * row_size(V)
    return Facts(cuts, before, slab_bytes=read + made, total_bytes=total)


def steps_of(X: Matrix) -> dict[str, Any]:
    """The steps on values of X, to be repeated on new rows; empty if X is not `Prepared`.

    Returns
    -------
    dict
        ``target_sum``, ``log1p``, ``scale``; and ``before``, the steps of an inner `Prepared`, if any.
    """
    if not isinstance(X, Prepared):
        return {}
    steps = X.preparation
    own = {"target_sum": steps.target_sum, "log1p": steps.log1p, "scale": steps.scale}
    return own | ({"before": steps_of(X.X)} if isinstance(X.X, Prepared) else {})


def _in_memory(X: InMemory, *, summed: bool) -> InMemory:
    """A matrix in memory after a check of its values; `summed`: rows are divided by their totals."""
    X = check_array(X, accept_sparse=("csr", "csc"), dtype="numeric", ensure_all_finite="allow-nan")
    sparse = scipy.sparse.issparse(X)
    X = canonical(X) if sparse and X.format == "csr" else X
    values = X.data if sparse else X
    smallest = np.fmin.reduce(values, axis=None, initial=0) if values.dtype.kind in "if" else 0
    if smallest < 0:
        raise DataError(
            f"Negative values in data passed to Prepared. The smallest is {smallest:g}; V = WH with W, H "
            ">= 0 cannot be: shift or clip the values, or give them as they were before they were centred."
        )
    if summed and values.dtype.kind == "f" and np.isnan(values).any():
        raise DataError(
            "Input X contains NaN. target_sum divides rows by their totals, which are unknown with missing "
            "values: leave out target_sum, or the rows or columns with NaN."
        )
    return X


def _dtype(stored: np.dtype, *, changed: bool) -> np.dtype:
    stored = np.dtype(stored).newbyteorder("=")
    if stored.kind != "f" and not changed:
        return stored
    return np.dtype(np.float64 if stored.kind == "f" and stored.itemsize >= 8 else np.float32)


def _aligned_mask(columns: ArrayLike | None, names: np.ndarray | None) -> ArrayLike | None:
    """A mask with labels, in the order of the names; indices are returned unchanged."""
    is_mask = columns is not None and np.asarray(columns).dtype == bool
    return aligned(columns, names, "columns") if is_mask else columns


def _columns(columns: ArrayLike | None, n_columns: int) -> np.ndarray | None:
    if columns is None:
        return None
    chosen = np.asarray(columns)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
        raise TypeError(
            f"columns is {chosen.dtype} of shape {chosen.shape}; it must be a mask of {n_columns} booleans "
            "or a list of column indices: give one of these."
        )
    if chosen.dtype == bool:
        if len(chosen) != n_columns:
            raise ValueError(
                f"columns is a mask of {len(chosen)} values; X has {n_columns} columns: give one for each."
            )
        chosen = np.flatnonzero(chosen)
    if not len(chosen):
        raise ValueError(f"columns selects none of {n_columns} columns; V needs one or more: select some.")
    chosen = chosen.astype(np.int64)
    outside = chosen[(chosen < 0) | (chosen >= n_columns)]
    if len(outside):
        raise ValueError(
            f"columns holds {int(outside[0])}; X has {n_columns} columns, counted from 0 to {n_columns - 1}: "
            "give indices among these."
        )
    values, counts = np.unique(chosen, return_counts=True)
    if len(values) < len(chosen):
        raise ValueError(
            f"columns holds {int(values[counts > 1][0])} {counts.max()} times; a column can be used once: "
            "leave out the repetition."
        )
    return chosen


def _target_sum(target_sum: float | None) -> float | None:
    if target_sum is None:
        return None
    if not isinstance(target_sum, Real) or isinstance(target_sum, bool):
        raise TypeError(f"target_sum is {target_sum!r}; it must be a positive number: give one, or None.")
    if not 0 < float(target_sum) < np.inf:
        raise ValueError(
            f"target_sum is {target_sum!r}; rows can only be made to add up to a positive, "
            "finite number: give one, 1e4 for example, or None."
        )
    return float(target_sum)


def _scale(scale: ArrayLike | None, n_features: int) -> np.ndarray | None:
    if scale is None:
        return None
    divisors = np.asarray(scale, dtype=np.float64)
    if divisors.shape != (n_features,):
        raise ValueError(
            f"scale has shape {divisors.shape}; it divides the {n_features} chosen columns, in their order: "
            f"give an array of shape ({n_features},)."
        )
    wrong = np.flatnonzero(~((divisors > 0) & np.isfinite(divisors)))
    if len(wrong):
        raise ValueError(
            f"scale is {divisors[wrong[0]]:g} for column {wrong[0]} of the chosen ones ({len(wrong)} such in "
            "all); divisors must be positive and finite: leave these columns out, or give 1."
        )
    return divisors.copy()


def _names(
    given: ArrayLike | None, carried: ArrayLike | None, chosen: np.ndarray | None, n_features: int
) -> np.ndarray | None:
    if given is None:
        if carried is None:
            return None
        names = np.asarray(carried).astype(str)
        return names if chosen is None else names[chosen]
    names = np.asarray(given).astype(str)
    if names.shape != (n_features,):
        raise ValueError(
            f"feature_names has shape {names.shape}; it names the {n_features} chosen columns, in their "
            f"order: give ({n_features},) names, feature_names[columns] for example."
        )
    return names
