"""Inputs: everything that V can be given as, turned into rows of panels."""

from __future__ import annotations

import os
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
import zarr
from zarr.abc.store import Store

from dasknmf.errors import DataError, SourceError
from dasknmf.inputs import hdf5
from dasknmf.inputs.anndata_store import open_anndata, stored_behind
from dasknmf.inputs.base import Source, Stored, check_shape, grid_of, row_bytes_of, working_dtype
from dasknmf.inputs.dask_array import DaskSource, side_by_side
from dasknmf.inputs.in_memory import MemorySource
from dasknmf.inputs.names import feature_names, renamed
from dasknmf.inputs.preparation import Preparation
from dasknmf.inputs.prepared import Prepared, prepared_source, steps_of
from dasknmf.inputs.sparse import canonical
from dasknmf.inputs.stored_sparse import FORMATS, StoredSparse
from dasknmf.inputs.zarr_array import ZarrSource, open_node

__all__ = [
    "Preparation",
    "Prepared",
    "Source",
    "Stored",
    "canonical",
    "feature_names",
    "grid_of",
    "is_chunked",
    "opened",
    "rather_transposed",
    "renamed",
    "row_bytes_of",
    "side_by_side",
    "source_of",
    "steps_of",
    "working_dtype",
]

_LARGE = 128 * 2**20


def opened(X: Any) -> Any:
    """X with paths and URLs opened: of Zarr arrays, of matrices of AnnData, of AnnData for its X.

    Groups and datasets that are open already are the matrices in them; anything else stays as it is.

    Raises
    ------
    SourceError
        If nothing can be read there, or X is a Dask DataFrame, whose rows nobody has counted.
    DataError
        If X is masked.
    """
    if hasattr(X, "to_dask_array"):
        raise SourceError(
            f"X is a {type(X).__module__}.{type(X).__name__}; V must be an array: give "
            "X.to_dask_array(lengths=True)."
        )
    if isinstance(getattr(X, "_meta", X), np.ma.MaskedArray):
        raise DataError(
            f"X is a masked array of shape {X.shape}; NMF takes every entry as observed: fill the masked "
            "ones, or leave out their rows or columns."
        )
    if not isinstance(X, (str, os.PathLike, Store, zarr.Group)):
        return stored_behind(X)
    found = hdf5.split(X)
    if found:
        path, name = found
        return hdf5.stored_in(path, name) if name else open_anndata(X).matrix()
    node = X if isinstance(X, zarr.Group) else open_node(X)
    if isinstance(node, zarr.Array):
        return node
    label = str(node.store_path if isinstance(X, (Store, zarr.Group)) else X)
    kind = node.attrs.get("encoding-type")
    if kind in FORMATS:
        return StoredSparse.of_group(node, label)
    if kind == "anndata":
        return open_anndata(X).matrix()
    raise SourceError(f"{label!r} is a Zarr group; V must be one array; {_what_it_holds(node)}.")


def _what_it_holds(group: zarr.Group) -> str:
    matrices = {name for name, node in group.groups() if node.attrs.get("encoding-type") in FORMATS}
    arrays = sorted(matrices.union(name for name, _ in group.arrays()))
    if arrays:
        return f"it holds the arrays {arrays}: append one of these to the path"
    return "it holds no arrays: check the path"


def is_chunked(X: Any) -> bool:
    """Whether X is worked on in chunks by the scheduler, and its W is a Dask array."""
    if isinstance(X, Prepared):
        return is_chunked(X.X)
    return isinstance(X, (da.Array, zarr.Array, Stored))


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
        return prepared_source(X, source_of(X.X, transposed=transposed), transposed=transposed)
    if isinstance(X, zarr.Array):
        return ZarrSource(X, transposed=transposed)
    if isinstance(X, Stored):
        return X.source(transposed=transposed)
    if transposed:
        X = X.T
    return DaskSource(X) if isinstance(X, da.Array) else MemorySource(X)


def rather_transposed(X: Any, *, parity: bool) -> bool:
    """Whether Xᵀ is cut into better panels than X: wide in memory, chunked by columns, or stored by them.

    Parameters
    ----------
    X : as for `source_of`
    parity : bool
        Keep scikit-learn's order of updates, W before H, unless V is large and its chunks leave no
        choice: in transposed roles H moves first.
    """
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
