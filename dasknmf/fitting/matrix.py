"""X as a fit or a transform takes it, after checks of its shape, dtype, values and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from dasknmf import data
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.starts.survey import mended
from dasknmf.data.source import Matrix, MatrixLike, check_shape
from dasknmf.errors import DataError
from dasknmf.fitting.validation import is_nan


def validated(model: BaseEstimator, X: MatrixLike, *, reset: bool) -> Matrix:
    """X as an array that can be cut into panels; of a chunked X only the metadata is checked.

    Parameters
    ----------
    model : NMF
    X : array
        As for `NMF.fit`.
    reset : bool
        Whether the number and the names of features of `model` are set, or compared with those of X.

    Raises
    ------
    ValueError, DataError, SourceError
        If X is not a nonnegative matrix, or has other features than the model.
    """
    X = data.opened(X)
    if not (data.is_chunked(X) or isinstance(X, data.Prepared)):
        return _validated_in_memory(model, X, reset=reset)
    names = data.feature_names(X)
    check_shape(X.shape)
    working_dtype(X.dtype)
    if reset:
        model.n_features_in_ = int(X.shape[1])
        if names is not None:
            model.feature_names_in_ = names
        elif hasattr(model, "feature_names_in_"):
            del model.feature_names_in_
    elif X.shape[1] != model.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but NMF is expecting {model.n_features_in_} features as input."
        )
    elif names is not None and hasattr(model, "feature_names_in_"):
        _check_names(model.feature_names_in_, names)
    return X


def _validated_in_memory(model: BaseEstimator, X: Matrix, *, reset: bool) -> Matrix:
    sparse = scipy.sparse.issparse(X)
    missing = getattr(model, "missing_values", "error")
    stored = _dtype_of(X)
    if sparse:
        working_dtype(X.dtype)
    try:
        X = validate_data(
            model,
            X,
            accept_sparse=("csr", "csc"),
            dtype=[np.float64, np.float32] if stored is None else stored,
            ensure_all_finite="allow-nan" if is_nan(missing) else True,
            reset=reset,
        )
    except ValueError as refused:
        if not str(refused).startswith("Input X contains NaN") or sparse:
            raise
        raise DataError(
            "Input X contains NaN. NMF takes finite values only: give missing_values='nan', or leave out the "
            "rows or columns with NaN."
        ) from None
    sparse = scipy.sparse.issparse(X)  # a data frame of sparse columns has become a matrix
    if missing != "error":
        return X  # tiles mask the missing values
    X = data.canonical(X) if sparse and X.format == "csr" else X
    smallest = (X.data if sparse else X).min(initial=0)
    if smallest < 0:
        place = "NMF initialization" if reset else "X in NMF"
        raise DataError(
            f"Negative values in data passed to {place}. The smallest is {smallest:g}; NMF takes nonnegative "
            f"values only: {mended(sparse)}."
        )
    return X


def _dtype_of(X: Any) -> np.dtype | None:
    """The dtype of all of X, if tiles convert it, so that no copy as large as X is needed; else None."""
    if scipy.sparse.issparse(X) or isinstance(X, np.ndarray):
        found = {X.dtype}
    elif hasattr(X, "iloc"):
        found = set(X.dtypes)
    else:
        return None
    stored = found.pop() if len(found) == 1 else None
    is_real = isinstance(stored, np.dtype) and stored.kind in "biuf"
    return stored if is_real or scipy.sparse.issparse(X) else None


def _check_names(known: np.ndarray, found: np.ndarray) -> None:
    difference = data.renamed(known, found)
    if difference is not None:
        raise ValueError(
            f"The feature names should match those that were passed during fit: {difference}; the columns "
            "of H are those of the fit: give X with the same columns in the same order."
        )
