"""What a user gives as X, opened: paths, URLs, groups and objects of anndata and h5py."""

from __future__ import annotations

import os
from typing import Any

import dask.array as da
import numpy as np
import zarr
from zarr.abc.store import Store

from dasknmf.data import hdf5
from dasknmf.data.anndata_file import open_anndata, stored_behind
from dasknmf.data.source import Stored
from dasknmf.data.stored_csr import FORMATS, StoredSparse
from dasknmf.errors import DataError, SourceError
from dasknmf.io.metered import open_node


def in_chunks(X: Any) -> bool:
    """Whether an opened X is read in chunks, and not in this process's memory as one."""
    return isinstance(X, (da.Array, zarr.Array, Stored))


def opened(X: Any) -> Any:
    """X with paths and URLs opened: of Zarr arrays, of matrices of AnnData, of AnnData for its X.

    Groups and datasets that are open already are the matrices in them; anything else stays as it is.

    Raises
    ------
    SourceError
        If nothing can be read there, X is a Dask DataFrame, whose rows nobody has counted, or an AnnData,
        which has several matrices.
    DataError
        If X is masked.
    """
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
        is_matrix = name and not hdf5.is_anndata(path, name)
        return hdf5.stored_in(path, name) if is_matrix else open_anndata(X).matrix()
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
        return (
            f"it holds the arrays {arrays}: append one of these to the path, or, where they are a stack of "
            "images, give its sample dims (--sample-dims, StackNMF)"
        )
    return "it holds no arrays: check the path"
