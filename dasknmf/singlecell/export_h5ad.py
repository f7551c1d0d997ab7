"""Factors written into an .h5ad file, or as a new one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from dasknmf.data import hdf5
from dasknmf.io import atomic
from dasknmf.io.optional import needed
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import ENCODING, Exported, entries, make_parents, refuse_existing

if TYPE_CHECKING:
    import h5py
    import pandas as pd


def write_entries(path: str | os.PathLike[str], factors: Exported, keys: Keys, *, overwrite: bool) -> None:
    """Write the three entries into an .h5ad file, or into an AnnData inside of an HDF5 file.

    New entries are written to a spare group in `uns`; then the old entries are moved aside and the new ones
    moved in. An error undoes all moves. HDF5 has no journal: a process killed while it writes, or a power
    cut, can damage the file.

    Raises
    ------
    RunError
        If one of the entries exists and `overwrite` is not given.
    RunAccessError
        If the old entries cannot be moved back after an error; the message says where they are.
    """
    import h5py

    name, inside = hdf5.split(path) or (path, "")
    with h5py.File(name, "r+") as file:
        root = hdf5.node_in(file, inside)
        if not overwrite:
            refuse_existing([entry for entry in entries(keys) if entry in root], path)
        room = _Groups(root)

        def fill() -> None:
            make_parents(root)
            _fill(root.create_group(room.new), factors, keys)

        atomic.put(entries(keys), room, fill)


class _Groups:
    """An AnnData in a file, and a spare group in its `uns`; entries move between them by renaming."""

    def __init__(self, root: h5py.Group) -> None:
        self._root = root
        self._spare = f"uns/dasknmf-{uuid.uuid4().hex[:8]}"
        self.new, self.old = f"{self._spare}/new", f"{self._spare}/old"

    def exists(self, name: str) -> bool:
        return name in self._root

    def move(self, was: str, now: str) -> None:
        self._root.move(was, now)

    def clear(self) -> None:
        if self._spare in self._root:
            del self._root[self._spare]


def write_new(
    path: Path, factors: Exported, keys: Keys, *, obs: pd.DataFrame, var: pd.DataFrame, overwrite: bool
) -> None:
    """Write an .h5ad file without X: the tables of cells and genes, and the factors.

    Parameters
    ----------
    obs, var : pandas.DataFrame

    Raises
    ------
    RunError
        If the file exists and `overwrite` is not given.
    SourceError
        If h5py or anndata is not installed.
    """
    h5py, anndata = needed("h5py"), needed("anndata")
    with atomic.placed(path, (lambda _: True) if overwrite else None) as spare:
        anndata.AnnData(obs=obs, var=var).write_h5ad(spare)
        with h5py.File(spare, "r+") as file:
            _fill(file, factors, keys)


def _fill(group: h5py.Group, factors: Exported, keys: Keys) -> None:
    from anndata.io import write_elem

    make_parents(group)
    n, k = factors.shape
    W = group.create_dataset(
        f"obsm/{keys.obsm}", shape=(n, k), chunks=(factors.block_rows, k), dtype=factors.dtype
    )
    W.attrs.update(ENCODING)
    for first, rows in factors.blocks():
        W[first : first + len(rows)] = rows
    write_elem(group["varm"], keys.varm, factors.varm)
    write_elem(group["uns"], keys.uns, factors.uns())
