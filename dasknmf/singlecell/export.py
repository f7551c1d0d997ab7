"""What is written of a run, wherever it goes: W in blocks of rows, never whole, and what stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np

from dasknmf.data.anndata_file import AnnDataStore
from dasknmf.errors import RunError, RunMismatchError
from dasknmf.singlecell.entries import Keys, gram, lifted, run_params, uns_entry
from dasknmf.singlecell.genes_mask import first_of
from dasknmf.store.run import Run

_BLOCK_BYTES = 8 * 2**20


@dataclass
class Exported:
    """W and H of a run, for the genes of a table.

    Parameters
    ----------
    run : Run
    columns : ndarray of int or None
        Where the features of the run are among the genes; None: they are the genes.
    n_vars : int
        Genes.
    """

    run: Run
    columns: np.ndarray | None
    n_vars: int
    _gram: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.H = self.run.H
        self._W = self.run.W
        self._gram = np.zeros((len(self.H), len(self.H)))
        self._streamed = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.run.shape[0], len(self.H)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.H.dtype)

    @property
    def block_rows(self) -> int:
        """Rows of a block: of all but the last."""
        return max(1, min(self.shape[0], _BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize)))

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """W from top to bottom: the first row of each block, and the block."""
        W = self._W.rechunk((self.block_rows, -1))
        first = 0
        for block in W.blocks:
            with dask.config.set(scheduler="synchronous"):
                rows = np.asarray(block.compute())
            self._gram += gram([rows], self.shape[1])
            yield first, rows
            first += len(rows)
        self._streamed = first

    @property
    def varm(self) -> np.ndarray:
        """Hᵀ over all genes."""
        return lifted(self.H, self.columns, self.n_vars)

    def uns(self) -> dict[str, Any]:
        """The entry of `uns`, once W was streamed, whose Gram it needs."""
        assert self._streamed == self.shape[0]
        steps = self.run.preparation
        done = {"normalize": steps.get("target_sum"), "log1p": steps.get("log1p")}
        params = run_params(self.run.params) | {name: value for name, value in done.items() if value}
        entry = uns_entry(params, self.run.history, self._gram, self.H, self.run.sum_of_squares)
        if steps.get("scale") is not None:
            entry["params"]["scale"] = True
            entry["scale"] = steps["scale"]
        return entry


def factors_for(run: Run, store: AnnDataStore) -> Exported:
    """The factors of a run over the cells and genes of an AnnData.

    Raises
    ------
    RunMismatchError
        If it does not have as many cells as the run, or lacks its genes.
    """
    if store.shape[0] != run.shape[0]:
        raise RunMismatchError(
            f"{store.path} has {store.shape[0]} cells, and the run was fitted to {run.shape[0]}; rows of W "
            "are told by their place alone: give the AnnData that was fitted."
        )
    names = run.feature_names
    if names is None:
        if store.shape[1] != run.shape[1]:
            raise RunMismatchError(
                f"{store.path} has {store.shape[1]} genes, and the run has {run.shape[1]} features without "
                "names; which is which nobody knows: fit the AnnData itself."
            )
        return Exported(run, None, store.shape[1])
    return Exported(run, _places(names, store), store.shape[1])


def _places(names: np.ndarray, store: AnnDataStore) -> np.ndarray:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(store.var_names):
        places.setdefault(str(name), []).append(place)
    missing = [name for name in names if name not in places]
    if missing:
        raise RunMismatchError(
            f"{store.path} lacks {len(missing)} of the {len(names)} genes of the run ({first_of(missing)}): "
            "give the AnnData that was fitted."
        )
    if len(names) == store.shape[1] and list(names) == list(store.var_names):
        return np.arange(len(names))
    twice = [name for name in names if len(places[name]) > 1]
    if twice:
        raise RunMismatchError(
            f"{store.path} has {len(twice)} genes of the run more than once ({first_of(twice)}); which is "
            "meant nobody knows: make var_names unique, then fit and export."
        )
    return np.asarray([places[name][0] for name in names])


def refuse_existing(found: list[str], where: Any) -> None:
    """Raise where something stands that would be replaced.

    Raises
    ------
    RunError
    """
    if found:
        raise RunError(
            f"{where} holds {', '.join(found)} already; nothing is replaced unasked: give --overwrite, or "
            "other keys with --key-added."
        )


def entries(keys: Keys) -> list[str]:
    """Their paths in an AnnData."""
    return [f"obsm/{keys.obsm}", f"varm/{keys.varm}", f"uns/{keys.uns}"]
