"""Factors of a run for an export: W in blocks of rows, never whole, H, and the entry of `uns`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask
import numpy as np

from dasknmf.core.feature_names import places_of
from dasknmf.core.text import counted
from dasknmf.data.anndata_file import AnnDataStore
from dasknmf.errors import RunMismatchError
from dasknmf.singlecell.entries import over_all_genes, run_params, uns_entry
from dasknmf.singlecell.genes_mask import first_of
from dasknmf.store.run import Run

_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Exported:
    """W and H of a run, aligned with the genes of an AnnData.

    Parameters
    ----------
    run : Run
    columns : ndarray of int or None
        Columns of the features of the run among the genes; None if all genes are features, in order.
    n_vars : int
        Genes.
    """

    run: Run
    columns: np.ndarray | None
    n_vars: int

    @cached_property
    def H(self) -> np.ndarray:
        """The programs, shape (n_components, n_features)."""
        return self.run.H

    @property
    def shape(self) -> tuple[int, int]:
        return self.run.shape[0], len(self.H)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.H.dtype)

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last."""
        return max(1, min(self.shape[0], _BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize)))

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """W from top to bottom: the first row of each block, and the block."""
        W = self.run.rows.rechunk((self.block_rows, -1))
        first = 0
        for block in W.blocks:
            with dask.config.set(scheduler="synchronous"):
                rows = np.asarray(block.compute())
            yield first, rows
            first += len(rows)

    @property
    def varm(self) -> np.ndarray:
        """Hᵀ over all genes."""
        return over_all_genes(self.H, self.columns, self.n_vars)

    def uns(self, G: np.ndarray) -> dict[str, Any]:
        """The entry of `uns`, from G = WᵀW."""
        steps = self.run.preparation
        done = {"normalize": steps.get("target_sum"), "log1p": steps.get("log1p")}
        params = run_params(self.run.params) | {name: value for name, value in done.items() if value}
        entry = uns_entry(params, self.run.history, G, self.H, self.run.sum_of_squares)
        if steps.get("scale") is not None:
            entry["params"]["scale"] = True
            entry["scale"] = steps["scale"]
        return entry


def factors_for(run: Run, store: AnnDataStore) -> Exported:
    """The factors of a run over the cells and genes of an AnnData.

    Raises
    ------
    RunMismatchError
        If the AnnData has another number of cells than the run, or lacks genes of the run.
    """
    if store.shape[0] != run.shape[0]:
        raise RunMismatchError(
            f"{store.path} has {store.shape[0]} cells, and the run was fitted to {run.shape[0]}; rows of W "
            "are matched by position alone: give the AnnData that was fitted."
        )
    names = run.feature_names
    if names is None:
        if store.shape[1] != run.shape[1]:
            raise RunMismatchError(
                f"{store.path} has {store.shape[1]} genes, and the run has {run.shape[1]} features without "
                "names, which cannot be matched: fit the AnnData itself."
            )
        return Exported(run, None, store.shape[1])
    return Exported(run, _places(names, store), store.shape[1])


def _places(names: np.ndarray, store: AnnDataStore) -> np.ndarray:
    places, repeated = places_of(names, store.var_names)
    missing = names[places < 0]
    if len(missing):
        raise RunMismatchError(
            f"{store.path} lacks {len(missing)} of the {len(names)} genes of the run ({first_of(missing)}): "
            "give the AnnData that was fitted."
        )
    if np.array_equal(names, store.var_names):
        return np.arange(len(names))
    if repeated.any():
        raise RunMismatchError(
            f"{store.path} has {counted(int(repeated.sum()), 'gene')} of the run more than once "
            f"({first_of(names[repeated])}); genes are matched by name: make var_names unique, then fit and "
            "export."
        )
    return places
