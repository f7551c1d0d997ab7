"""A small AnnData with known programs, and the stores that it may be in."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import zarr
from anndata.io import write_elem

N_CELLS, N_GENES, K = 240, 50, 3

STORES = ["zarr2", "zarr3", "sharded", "unconsolidated", "h5ad"]


def cells(*, seed: int = 0, dense: bool = False) -> anndata.AnnData:
    """Counts of three programs. Cell 5 has none, gene 7 is never seen, odd genes are highly variable."""
    rng = np.random.default_rng(seed)
    programs = np.random.default_rng(1).gamma(0.3, size=(K, N_GENES))
    counts = rng.poisson(3 * rng.gamma(0.5, size=(N_CELLS, K)) @ programs).astype(np.float32)
    counts[:, 7] = 0
    counts[counts[:, 1::2].sum(axis=1) == 0, 1] = 1
    counts[5] = 0
    obs = pd.DataFrame(
        {"batch": pd.Categorical(np.where(np.arange(N_CELLS) % 2, "a", "b"))},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    var = pd.DataFrame(
        {"highly_variable": np.arange(N_GENES) % 2 == 1, "length": np.arange(N_GENES)},
        index=[f"gene{j}" for j in range(N_GENES)],
    )
    X = counts if dense else scipy.sparse.csr_matrix(counts)
    return anndata.AnnData(X, obs=obs, var=var, layers={"counts": X.copy()})


def written(adata: anndata.AnnData, directory: Path, kind: str) -> Path:
    """The path of a store with it, of one of `STORES`."""
    if kind == "h5ad":
        path = directory / "cells.h5ad"
        adata.write_h5ad(path)
        return path
    path = directory / "cells.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=2 if kind == "zarr2" else 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding will be the default")
        write_elem(root, "/", adata)
    if kind == "sharded":
        for name in ("X", "layers/counts"):
            node = root[name]
            if isinstance(node, zarr.Array):
                _shard(root, name, (20, N_GENES), (80, N_GENES))
            else:
                for part in ("data", "indices"):
                    _shard(root, f"{name}/{part}", (100,), (1000,))
    if kind != "unconsolidated":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(root.store)
    return path


def _shard(root: zarr.Group, name: str, chunks: tuple[int, ...], shards: tuple[int, ...]) -> None:
    old = root[name]
    values, attributes = old[...], dict(old.attrs)
    del root[name]
    new = root.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, shards=shards, attributes=attributes
    )
    new[...] = values


def read(path: Path) -> anndata.AnnData:
    return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
