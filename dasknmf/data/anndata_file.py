"""AnnData in stores: matrices that are read in panels, names and tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dasknmf.core.feature_names import places_of
from dasknmf.data import hdf5
from dasknmf.data.concatenated import Concatenated
from dasknmf.data.hdf5_array import Hdf5Array
from dasknmf.data.source import MatrixLike, Source
from dasknmf.data.stored_csr import PARTS, SparseSource
from dasknmf.data.stored_dense import DenseSource
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.metered import open_node

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_logger = logging.getLogger(__name__)


def open_anndata(path: Any) -> AnnDataStore:
    """AnnData in a store, opened without a read of its matrices.

    Parameters
    ----------
    path : str, path, zarr Store or zarr.Group, or a list of these
        A Zarr directory or URL, or an .h5ad file, or a place inside one of these ("cells.h5mu/mod/rna").
        The stores of a list are concatenated along the cells, with the genes that all have, in the order of
        the first.

    Returns
    -------
    AnnDataStore

    Raises
    ------
    SourceError
        If there is no AnnData, or several have no gene in common, or a common gene twice.
    """
    paths = list(path) if isinstance(path, (list, tuple)) else [path]
    if not paths:
        raise SourceError("open_anndata was given an empty list: give at least one path.")
    return AnnDataStore([_File(each) for each in paths])


class AnnDataStore:
    """AnnData in one store or in several; see `open_anndata`.

    Attributes
    ----------
    path : str or list of str
    shape : tuple of int
        Cells, genes.
    obs_names, var_names : ndarray of str
    obs, var : pandas.DataFrame
        Tables, read at the first use. With several stores, obs has the columns that all have, and var is that
        of the first.
    layers : list of str
        Names of the layers that all stores have.
    """

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files
        self.path = files[0].label if len(files) == 1 else [file.label for file in files]

    def __repr__(self) -> str:
        return f"<AnnDataStore {self.path}, layers {self.layers}>"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.obs_names), len(self.var_names)

    @cached_property
    def obs_names(self) -> np.ndarray:
        return np.concatenate([file.names("obs") for file in self._files])

    @cached_property
    def var_names(self) -> np.ndarray:
        return self._files[0].names("var")[self._columns[0]]

    @cached_property
    def obs(self) -> pd.DataFrame:
        tables = [file.read("obs") for file in self._files]
        if len(tables) == 1:
            return tables[0]
        import pandas as pd

        return pd.concat(tables, join="inner")

    @cached_property
    def var(self) -> pd.DataFrame:
        return self._files[0].read("var").iloc[self._columns[0]]

    @property
    def layers(self) -> list[str]:
        first, *others = (file.layers for file in self._files)
        return [name for name in first if all(name in other for other in others)]

    def matrix(self, layer: str | None = None) -> Source:
        """X or a layer, as input of ``NMF.fit``.

        Returns
        -------
        Source
            With `feature_names`.

        Raises
        ------
        SourceError
            If there is no such layer, or none that can be read.
        """
        if layer is not None and layer not in self.layers:
            raise SourceError(
                f"{self.path} has no layer {layer!r}; its layers are {self.layers}: give one of these, or "
                "None for X."
            )
        name = "X" if layer is None else f"layers/{layer}"
        if len(self._files) == 1:
            return self._files[0].matrix(name, self.var_names)
        parts = [file.matrix(name, None) for file in self._files]
        return Concatenated(parts, self._columns, self.var_names)

    @cached_property
    def _columns(self) -> list[np.ndarray]:
        """For each file, the column numbers of the genes that all files have."""
        names = [file.names("var") for file in self._files]
        if len(names) == 1:
            return [np.arange(len(names[0]))]
        common = names[0]
        for file, found in zip(self._files[1:], names[1:], strict=True):
            common = common[np.isin(common, found)]
            if not len(common):
                raise SourceError(
                    f"{self._files[0].label} and {file.label} have no gene in common, their first are "
                    f"{names[0][:2].tolist()} and {found[:2].tolist()}: give both the same kind of names."
                )
        columns = []
        for file, found in zip(self._files, names, strict=True):
            places, repeated = places_of(common, found)
            if repeated.any():
                raise SourceError(
                    f"{file.label} has gene {str(common[repeated][0])!r} more than once, and genes are put "
                    "together by their names: make them unique with adata.var_names_make_unique()."
                )
            columns.append(places)
        left_out = len(np.unique(np.concatenate(names))) - len(common)
        if left_out:
            _logger.warning("%d genes are not in all of %d files and are left out", left_out, len(names))
        return columns


class _File:
    """One store."""

    def __init__(self, source: Any) -> None:
        found = hdf5.split(source)
        self._path = found[0] if found else None
        if found:
            self.label = os.path.join(*filter(None, found))
            self._inside = found[1]
            with self._root() as root:
                self._check(root)
        else:
            self._group: Any = source if isinstance(source, zarr.Group) else open_node(source)
            self.label = str(source if isinstance(source, (str, os.PathLike)) else self._group.store_path)
            self._check(self._group)

    @property
    def layers(self) -> list[str]:
        with self._root() as root:
            return sorted(root["layers"].keys()) if "layers" in root else []

    def names(self, table: str) -> np.ndarray:
        """The index of obs or var."""
        with self._root() as root:
            # Anndata before 0.7 stored tables in another format, which its readers support.
            index = root[table].attrs.get("_index") if hasattr(root[table], "keys") else None
            found: Any = None if index else _read(root[table])
            values = _read(root[table][index]) if index else getattr(found, "index", None)
            if values is None:  # a table of HDF5, with the index as its first column
                first = found[found.dtype.names[0]].tolist()
                values = [each.decode() if isinstance(each, bytes) else each for each in first]
        return np.asarray(values, dtype=object).astype(str)

    def read(self, name: str) -> Any:
        with self._root() as root:
            return _read(root[name])

    def matrix(self, name: str, feature_names: np.ndarray | None) -> Source:
        if self._path:
            inside = f"{self._inside}/{name}".strip("/")
            return matrix_in_hdf5(self._path, inside, feature_names)
        node = self._group.get(name)
        if node is None:
            raise SourceError(f"{self.label} has no {name}; it holds {sorted(self._group)}: give a layer.")
        if isinstance(node, zarr.Array):
            return DenseSource(ZarrArray(node), feature_names)
        return SparseSource.of_group(node, f"{self.label}/{name}", feature_names)

    @contextmanager
    def _root(self) -> Iterator[Any]:
        if self._path is None:
            yield self._group
            return
        with hdf5.reading(self._path) as file:
            yield hdf5.node_in(file, self._inside)

    def _check(self, root: Any) -> None:
        if not hasattr(root, "keys") or not {"obs", "var"} <= set(root.keys()):
            raise SourceError(
                f"{self.label} holds no AnnData; one has obs and var: give the path that it was written to."
            )


def _read(element: Any) -> Any:
    try:
        from anndata.io import read_elem
    except ImportError as error:
        raise SourceError(
            "names and tables of AnnData are read by anndata, which is not installed: install "
            "dasknmf[anndata], or give the path of a matrix, such as 'atlas.zarr/X'."
        ) from error
    if isinstance(element, (zarr.Array, zarr.Group)):
        refuse_pickles(element)
    return read_elem(element)


def matrix_of(adata: AnnData, layer: str | None = None, obsm: str | None = None) -> MatrixLike:
    """X, a layer or an entry of obsm of an AnnData object, in the best form for ``NMF.fit``.

    Parameters
    ----------
    adata : anndata.AnnData
        In memory, backed by a file, or lazy.
    layer, obsm : str, optional
        Name of a layer or of an entry of obsm; X if neither is given.

    Returns
    -------
    ndarray, SciPy sparse matrix, dask.array.Array, zarr.Array or Source
        A matrix in memory as it is; one that is backed by a store as its source.

    Raises
    ------
    SourceError
        If there is no such layer or entry, or no X.
    ValueError
        If both are given.
    """
    if not hasattr(adata, "layers"):
        raise TypeError(
            f"adata is a {type(adata).__name__}; an AnnData has genes and cells: give one, "
            "anndata.read_h5ad(path, backed='r') for one in a file, or a matrix to dasknmf.NMF."
        )
    if layer is not None and obsm is not None:
        raise ValueError(
            f"layer is {layer!r} and obsm is {obsm!r}; one matrix is factorized: give one of them."
        )
    if obsm is not None:
        if obsm not in adata.obsm:
            raise SourceError(
                f"the AnnData has no obsm {obsm!r}; its obsm are {sorted(adata.obsm)}: give one of these."
            )
        matrix = adata.obsm[obsm]
        return matrix.to_numpy() if hasattr(matrix, "iloc") else matrix
    layers = sorted(name for name in adata.layers if name is not None)  # from 0.13 on, None is X
    if layer is not None and layer not in layers:
        raise SourceError(
            f"the AnnData has no layer {layer!r}; its layers are {layers}: give one of these, or None for X."
        )
    X = adata.X if layer is None else adata.layers[layer]
    if X is None:
        raise SourceError(f"the AnnData has no X; its layers are {layers}: give one of these.")
    # An X that is a selection of rows of a file was read by anndata and is in memory.
    return open_backed(X, np.asarray(adata.var_names).astype(str)) or X


def open_backed(X: Any, feature_names: np.ndarray | None = None) -> Source | None:
    """The source of a matrix of anndata or h5py that is backed by a store; None for other matrices."""
    is_backed = type(X).__module__.startswith("anndata.") and hasattr(X, "group")
    node = X.group if is_backed else X
    if is_backed and isinstance(node, zarr.Group):
        return SparseSource.of_group(node, feature_names=feature_names)
    if type(node).__module__.startswith("h5py."):
        return matrix_in_hdf5(node.file.filename, node.name.strip("/"), feature_names)
    return None


def matrix_in_hdf5(path: str, name: str, feature_names: np.ndarray | None = None) -> Source:
    """The matrix at a name in an HDF5 file, sparse or dense.

    Raises
    ------
    SourceError
        If there is no matrix of that name.
    """
    with hdf5.reading(path) as file:
        node = hdf5.node_in(file, name)
        if not hasattr(node, "keys"):
            return DenseSource(Hdf5Array(path, name), feature_names)
        parts = {part: Hdf5Array(path, f"{name}/{part}") for part in PARTS if part in node}
        attributes = dict(node.attrs)
        if "h5sparse_format" in attributes:  # as anndata before 0.7 wrote it
            encoding = f"{attributes['h5sparse_format']}_matrix"
            attributes |= {"encoding-type": encoding, "shape": attributes["h5sparse_shape"]}
        return SparseSource(parts, attributes, f"{path}/{name}", feature_names)
