"""The content of every export of a run: W in blocks of rows, never whole, and the entries beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr

from dasknmf.data.anndata_file import AnnDataStore
from dasknmf.errors import RunError, RunMismatchError
from dasknmf.singlecell.entries import Keys, gram, lifted, run_params, uns_entry
from dasknmf.singlecell.genes_mask import first_of
from dasknmf.store.run import Run

if TYPE_CHECKING:
    import h5py

ENCODING: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
"""Attributes of an array of an AnnData."""
_BLOCK_BYTES = 8 * 2**20


@dataclass
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
        """Rows of every block but the last."""
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
        """The entry of `uns`; needs the Gram matrix that `blocks` adds up, and so must follow it."""
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


def make_parents(group: h5py.Group | zarr.Group) -> None:
    """Create the groups of the three entries where there are none."""
    from anndata.io import write_elem

    for name in ("obsm", "varm", "uns"):
        if name not in group:
            write_elem(group, name, {})


def refuse_existing(found: list[str], where: object) -> None:
    """Refuse to replace existing entries.

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
    """The paths of the three entries in an AnnData."""
    return [f"obsm/{keys.obsm}", f"varm/{keys.varm}", f"uns/{keys.uns}"]
