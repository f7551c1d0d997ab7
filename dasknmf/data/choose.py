"""The source of whatever V was given as."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
import zarr

from dasknmf.core.dtypes import working_dtype
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.data.dask_array import DaskSource
from dasknmf.data.in_memory import MemorySource
from dasknmf.data.opening import in_chunks
from dasknmf.data.prepared import Prepared, PreparedSource
from dasknmf.data.source import Source, Stored, check_shape
from dasknmf.data.zarr_array import NamedArray, ZarrSource

_LARGE = 128 * 2**20


def is_chunked(X: Any) -> bool:
    """Whether X is worked on in chunks by the scheduler, and its W is a Dask array."""
    return X.is_chunked if isinstance(X, Prepared) else in_chunks(X)


def source_of(X: Any, *, transposed: bool = False) -> Source:
    """The source of V = X, or of Xᵀ.

    Parameters
    ----------
    X : ndarray, SciPy sparse matrix, dask.array.Array, zarr.Array, Stored or Prepared
    transposed : bool
        Factorize Xᵀ instead.
    """
    check_shape(X.shape)
    working_dtype(X.dtype)
    if isinstance(X, Prepared):
        if transposed:
            X.check_columns()
        return PreparedSource(source_of(X.X, transposed=transposed), X.preparation, transposed=transposed)
    if isinstance(X, zarr.Array):
        return ZarrSource(X, transposed=transposed)
    if isinstance(X, Stored):
        return X.source(transposed=transposed)
    if transposed:
        X = X.T
    return DaskSource(X) if isinstance(X, da.Array) else MemorySource(X)


def places_of(X: Any, *, transposed: bool = False) -> PixelIndex:
    """Of the rows of V = X, or of Xᵀ, whatever is done to X in every read."""
    while isinstance(X, Prepared):
        X = X.X
    layout = X.layout if isinstance(X, Stored) and not transposed else None
    return InOrder() if layout is None else layout.tiles


def rather_transposed(X: Any, *, parity: bool) -> bool:
    """Whether Xᵀ is cut into better panels than X: wide in memory, chunked by columns, or stored by them.

    Parameters
    ----------
    X : as for `source_of`
    parity : bool
        Keep scikit-learn's order of updates, W before H, unless V is large and its chunks leave no
        choice: in transposed roles H moves first.
    """
    if isinstance(X, NamedArray):
        X = X.array
    if isinstance(X, Stored):
        return X.by_columns
    n, m = X.shape
    if isinstance(X, Prepared) and is_chunked(X):
        return X.can_be_transposed and rather_transposed(X.X, parity=parity)
    if isinstance(X, Prepared):
        return X.can_be_transposed and not parity and m > n
    if isinstance(X, np.ndarray) or scipy.sparse.issparse(X):
        return not parity and m > n
    if isinstance(X, zarr.Array):
        shape = X.shards or X.chunks
        rows, columns = -(-n // shape[0]), -(-m // shape[1])
    else:
        rows, columns = X.numblocks
    if parity:
        return bool(rows == 1 and columns > 1 and n * m * X.dtype.itemsize > _LARGE)
    return bool(rows == 1 and (columns > 1 or m > n))
