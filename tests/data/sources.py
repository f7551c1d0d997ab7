"""Kinds of input: a new kind is one more row of `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import h5py
import numpy as np
import scipy.sparse
import xarray as xr

from dasknmf import Prepared
from dasknmf.core.panels import Grid
from dasknmf.data import MatrixLike, Source
from dasknmf.data.choose import as_source
from dasknmf.data.concatenated import Concatenated
from dasknmf.stacks import Stack, open_stack
from tests.helpers import stored, stored_sparse


def _hdf5(path: Path, A: np.ndarray) -> str:
    with h5py.File(path / "a.h5", "w") as file:
        file.create_dataset("X", data=A, chunks=(7, 3), compression="gzip")
    return str(path / "a.h5" / "X")


def _hdf5_sparse(path: Path, A: np.ndarray) -> str:
    matrix = scipy.sparse.csr_array(A)
    with h5py.File(path / "a.h5", "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": A.shape})
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name), chunks=(20,))
    return str(path / "a.h5" / "X")


def _concatenated(path: Path, A: np.ndarray) -> Source:
    """A dense part with its columns in another order, above a sparse one."""
    order = np.arange(A.shape[1])[::-1]
    parts = [as_source(stored(path / "above", A[:40, order], (9, 4))), as_source(_sparse(path, A[40:]))]
    return Concatenated(parts, [order, np.arange(A.shape[1])])


def _sparse(path: Path, A: np.ndarray) -> MatrixLike:
    return stored_sparse(path / "sparse", A, chunk=20)


def _stack(path: Path, A: np.ndarray) -> Source:
    planes = da.from_array(A.T.reshape(A.shape[1], *A.shape[:1], 1), chunks=(4, 9, 1))
    return Stack(xr.DataArray(planes, dims=("band", "y", "x")))


def _lazy_stack(path: Path, A: np.ndarray) -> Source:
    planes = xr.DataArray(A.T.reshape(A.shape[1], *A.shape[:1], 1), dims=("band", "y", "x"))
    planes.to_dataset(name="A").chunk(band=4, y=9).to_zarr(path / "stack", consolidated=False)
    return Stack(open_stack(path / "stack"))


SOURCES: dict[str, Callable[[Path, np.ndarray], MatrixLike]] = {
    "ndarray": lambda path, A: A,
    "SciPy CSR": lambda path, A: scipy.sparse.csr_matrix(A),
    "SciPy CSC": lambda path, A: scipy.sparse.csc_array(A),
    "Dask": lambda path, A: da.from_array(A, chunks=(9, 4)),
    "Dask of CSR": lambda path, A: da.from_array(A, chunks=(9, -1)).map_blocks(scipy.sparse.csr_array),
    "Zarr": lambda path, A: stored(path / "a", A, (9, 4)),
    "Zarr path": lambda path, A: stored(path / "a", A, (9, 4)).store.root,
    "Zarr shards": lambda path, A: stored(path / "a", A, (5, 4), shards=(10, 8)),
    "Zarr CSR": _sparse,
    "HDF5": _hdf5,
    "HDF5 CSR": _hdf5_sparse,
    "concatenated": _concatenated,
    "prepared": lambda path, A: Prepared(stored(path / "a", A, (9, 4))),
    "prepared CSR": lambda path, A: Prepared(_sparse(path, A)),
    "stack": _stack,
    "lazy stack": _lazy_stack,
}
"""Makers of each kind of input from a NumPy array, in a directory."""


def rows_of(source: Source, grid: Grid) -> np.ndarray:
    """All slabs of all panels, dense, each panel with the chunks that a scheduler would deliver."""
    found = []
    for panel in grid:
        keys = source.chunk_keys(panel)
        upstream = source.upstream() if keys else {}
        chunks = [list(dask.get(upstream, row)) for row in keys]
        slabs = list(source.for_tasks().slabs(panel.start, panel.stop, chunks))
        assert sum(slab.shape[0] for slab in slabs) == panel.n_rows
        for slab in slabs:
            assert scipy.sparse.issparse(slab) == source.sparse
            found.append(slab.toarray() if source.sparse else slab)
    return np.concatenate(found)
