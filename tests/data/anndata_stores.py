"""Sparse matrices in stores as anndata writes them, in chunks of our choice, and what is read of them."""

from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.io import write_elem

from dasknmf.data import grid_of, source_of
from dasknmf.data.stored_csr import SparseSource

GENES = np.array([f"gene{j}" for j in range(30)])


def counts(n_rows=200, n_columns=30, seed=0, **options):
    """A CSR matrix with rows of very different lengths."""
    rng = np.random.default_rng(seed)
    A = rng.poisson(rng.gamma(0.4, size=(n_rows, 1)) * rng.gamma(0.7, size=(1, n_columns)) * 3)
    return sp.csr_matrix(A.astype(options.get("dtype", np.float32)))


def annotated(A, genes=GENES, prefix="cell"):
    cells = [f"{prefix}{i}" for i in range(A.shape[0])]
    obs = pd.DataFrame({"depth": np.asarray(A.sum(axis=1)).ravel()}, index=cells)
    return ad.AnnData(A, obs=obs, var=pd.DataFrame(index=list(genes)), layers={"twice": A * 2})


def written(path, adata, **options):
    """AnnData's own files, in each of its formats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formats that Zarr calls unstable
        if path.suffix == ".h5ad":
            adata.write_h5ad(path, **options)
        else:
            group = zarr.open_group(path, mode="w", **options)
            write_elem(group, "/", adata)
            zarr.consolidate_metadata(group.store)
    return path


def parted(target, A, chunk, *, indices_chunk=None, index=np.int32, **options):
    """The parts of a sparse matrix in chunks of our choice, in a Zarr or an HDF5 group."""
    target.attrs["encoding-type"] = f"{A.format}_matrix"
    target.attrs["encoding-version"] = "0.1.0"
    target.attrs["shape"] = list(A.shape)
    create = target.create_dataset if isinstance(target, h5py.Group) else target.create_array
    chunks = {"data": chunk, "indices": indices_chunk or chunk, "indptr": 50}
    for name, values in (
        ("data", A.data),
        ("indices", A.indices.astype(index)),
        ("indptr", A.indptr.astype(index)),
    ):
        size = (max(1, min(chunks[name], len(values))),) if chunks[name] else None
        array = create(name, shape=values.shape, dtype=values.dtype, chunks=size, **options)
        if len(values):
            array[:] = values
    return target


def grouped(path, A, chunk, **options):
    return SparseSource.of_group(parted(zarr.open_group(path, mode="w"), A, chunk, **options))


def rows_of(X, *, transposed=False):
    """All slabs of all panels, each checked to be canonical, and where panels begin."""
    source = source_of(X, transposed=transposed)
    grid = grid_of(source)
    slabs = []
    for panel in grid:
        found = list(source.slabs(panel.start, panel.stop, []))
        assert sum(slab.shape[0] for slab in found) == panel.n_rows
        assert all(sp.issparse(slab) == X.sparse for slab in found)
        slabs += found
    if not X.sparse:
        return np.concatenate(slabs), grid
    for slab in slabs:
        assert isinstance(slab, sp.csr_array)
        assert slab.dtype == X.dtype
        again = sp.csr_array((slab.data, slab.indices, slab.indptr), shape=slab.shape)
        assert again.has_canonical_format
    return sp.vstack(slabs, format="csr"), grid


def same(found, A):
    assert found.shape == A.shape
    assert (found != A).sum() == 0


def stored_bytes(group):
    """Bytes of all chunks of a Zarr group."""
    return sum(file.stat().st_size for file in group.rglob("c/*"))


PARAMETERS = {"n_components": 4, "init": "random", "max_iter": 5, "tol": 0}


def close(found, expected):
    for W, other in ((found[1], expected[1]), (found[0].components_, expected[0].components_)):
        np.testing.assert_allclose(W, other, rtol=2e-3, atol=1e-4)
