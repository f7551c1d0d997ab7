"""The kinds of input: how each is recognised and opened. A new kind is one entry of `OPENERS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dask.array as da
import scipy.sparse
import zarr
from zarr.abc.store import Store

from dasknmf.core.dtypes import working_dtype
from dasknmf.data import hdf5
from dasknmf.data.anndata_file import matrix_in_hdf5, open_anndata, open_backed
from dasknmf.data.dask_array import DaskSource
from dasknmf.data.foreign import as_known, is_masked, refuse_file
from dasknmf.data.in_memory import MemorySource
from dasknmf.data.source import Matrix, MatrixLike, Source, check_shape
from dasknmf.data.stored_csr import FORMATS, SparseSource
from dasknmf.data.stored_dense import DenseSource
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import DataError, SourceError
from dasknmf.io.metered import open_node


def opened(X: MatrixLike) -> Matrix:
    """The matrix or source of X: paths, URLs and objects of zarr, anndata and h5py are opened.

    Arrays in memory and Dask arrays are returned as they are; those of xarray and pydata/sparse become these.

    Raises
    ------
    SourceError
        If X cannot be opened, is a Dask DataFrame (its number of rows is unknown), an AnnData object (it has
        several matrices), or a stack of images.
    DataError
        If X is a masked array.
    """
    if isinstance(X, Source):
        return X
    if hasattr(X, "to_dask_array"):
        raise SourceError(
            f"X is a {type(X).__module__}.{type(X).__name__}; V must be an array: give "
            "X.to_dask_array(lengths=True)."
        )
    if hasattr(X, "obsm") and hasattr(X, "layers"):
        raise SourceError(
            f"X is a {type(X).__name__}; V must be one matrix: give adata.X or a layer, or call "
            "dasknmf.singlecell.nmf(adata, n_components)."
        )
    X = as_known(X)
    refuse_file(X)
    array: Any = X  # the library of X may have no types
    if is_masked(array):
        raise DataError(
            f"X is a masked array of shape {array.shape}; NMF takes every entry as observed: give "
            "X.filled(numpy.nan) with missing_values='nan', or leave out the masked rows or columns."
        )
    sources = (opener(X) for opener in OPENERS)
    return next((source for source in sources if source is not None), X)


def as_source(X: MatrixLike) -> Source:
    """A source of X for a new read; if X is stored by columns, only its transpose can be read."""
    X = opened(X)
    if isinstance(X, Source):
        return X.renewed()
    return DaskSource(X) if isinstance(X, da.Array) else MemorySource(X)


def source_of(X: MatrixLike, *, transposed: bool = False) -> Source:
    """The source of V = X, or of Xᵀ.

    Raises
    ------
    SourceError
        If X cannot be read in that direction.
    ValueError, TypeError
        If X is not a matrix of real numbers.
    """
    source = as_source(X)
    check_shape(source.shape)
    working_dtype(source.dtype)
    if transposed:
        return source.transposed()
    if source.by_columns:
        raise SourceError(
            f"{source!r} is stored as CSC, which can be read by columns only, and its rows are needed: store "
            "it as CSR."
        )
    return source


def is_chunked(X: Matrix) -> bool:
    """Whether X is read in chunks by the Dask scheduler; W is then a Dask array."""
    return X.is_chunked if isinstance(X, Source) else isinstance(X, da.Array)


def is_sparse(X: Matrix) -> bool:
    """Whether rows of an opened X are sparse."""
    return X.sparse if isinstance(X, Source) else scipy.sparse.issparse(getattr(X, "_meta", X))


def rather_transposed(X: Matrix, *, parity: bool) -> bool:
    """Whether panels of Xᵀ are better than panels of X: see `Source.rather_transposed`."""
    return as_source(X).rather_transposed(parity=parity)


def _open_hdf5(X: MatrixLike) -> Source | None:
    found = hdf5.split(X)
    if found is None:
        return None
    path, name = found
    with hdf5.reading(path) as file:  # a group may be an AnnData, too, such as a modality of MuData
        is_anndata = not name or hdf5.node_in(file, name).attrs.get("encoding-type") == "anndata"
    return open_anndata(X).matrix() if is_anndata else matrix_in_hdf5(path, name)


def _open_zarr(X: MatrixLike) -> Source | None:
    if not isinstance(X, (str, os.PathLike, Store, zarr.Array, zarr.Group)):
        return None
    node = X if isinstance(X, (zarr.Array, zarr.Group)) else open_node(X)
    if isinstance(node, zarr.Array):
        return DenseSource(ZarrArray(node))
    label = str(X if isinstance(X, (str, os.PathLike)) else node.store_path)
    kind = node.attrs.get("encoding-type")
    if kind in FORMATS:
        return SparseSource.of_group(node, label)
    if kind == "anndata":
        return open_anndata(X).matrix()
    raise SourceError(f"{label!r} is a Zarr group; V must be one array; {_content(node)}.")


def _content(group: zarr.Group) -> str:
    matrices = {name for name, node in group.groups() if node.attrs.get("encoding-type") in FORMATS}
    arrays = sorted(matrices.union(name for name, _ in group.arrays()))
    if arrays:
        return (
            f"it holds the arrays {arrays}: append one of these to the path, or, where they are a stack of "
            "images, give its sample dims (--sample-dims, StackNMF)"
        )
    return "it holds no arrays: check the path"


OPENERS: tuple[Callable[[MatrixLike], Source | None], ...] = (open_backed, _open_hdf5, _open_zarr)
"""Functions, one for each kind of stored input, that return the source of X, or None if X is of another
kind. They are tried in this order."""
