"""Factors written into an AnnData on Zarr or in an HDF5 file: to a spare place first, then moved in."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StoreLike

from dasknmf.data import hdf5
from dasknmf.errors import RunError
from dasknmf.io import atomic
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.singlecell.entries import Keys, gram
from dasknmf.singlecell.export import Exported

if TYPE_CHECKING:
    import h5py
    import pandas as pd

_METADATA = ("zarr.json", ".zarray", ".zgroup")
"""Keys whose presence makes a path an array or a group, in either format."""


def entries(keys: Keys) -> list[str]:
    """The paths of the three entries in an AnnData."""
    return [f"obsm/{keys.obsm}", f"varm/{keys.varm}", f"uns/{keys.uns}"]


def write_entries(
    path: StoreLike | os.PathLike[str], factors: Exported, keys: Keys, *, overwrite: bool
) -> None:
    """Write the three entries into an AnnData, in its own format.

    New entries are written to a spare place; then the old entries are moved aside and the new ones moved in.
    An error undoes all moves. Existing consolidated metadata of Zarr is written again at the end.

    The spare place is ``.<name>.<random>.new`` beside a local Zarr directory, and the group
    ``uns/dasknmf-<random>`` in an HDF5 file and in any other store. HDF5 has no journal: a process killed
    while it writes, or a power cut, can damage the file. On Zarr, a process killed while W is written leaves
    the AnnData unchanged, and the spare place. A process killed while entries are moved leaves some entries
    old, some new, and perhaps one missing: the others are below ``old`` and ``new`` of the spare place, and
    consolidated metadata still describes the old entries. The same export with ``overwrite`` repairs this;
    the spare place may then be deleted.

    Parameters
    ----------
    path : str, path or zarr Store
        An .h5ad file, a Zarr directory or store, or an AnnData inside of an HDF5 file.
    factors : Exported
    keys : Keys
    overwrite : bool

    Raises
    ------
    RunError
        If one of the entries exists and `overwrite` is not given.
    RunAccessError
        If the old entries cannot be moved back after an error; the message says where they are.
    """

    def write(root: h5py.Group | zarr.Group, container: atomic.Container, create: Callable[[], Any]) -> None:
        found = [] if overwrite else [name for name in entries(keys) if name in root]
        if found:
            raise RunError(
                f"{path} has {', '.join(found)} already, which are not replaced: give --overwrite, or other "
                "keys with --key-added."
            )

        def fill() -> None:
            _fill(create(), factors, keys)
            _make_parents(root)

        atomic.put(entries(keys), container, fill)

    if place := hdf5.split(path):
        import h5py

        with h5py.File(place[0], "r+") as file:
            groups = _Groups(hdf5.node_in(file, place[1]))
            write(groups.root, groups, groups.create)
        return
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    zarr_format = root.metadata.zarr_format
    consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
    if isinstance(root.store, LocalStore):
        there = (Path(root.store.root) / root.path).absolute()
        prefix = f".{there.name}."
        container = atomic.Directory(there, there.with_name(f"{prefix}{signed()}.new"))
        write(root, container, lambda: zarr.open_group(container.new, mode="w-", zarr_format=zarr_format))
        container.forget(prefix, entries(keys))
    else:
        in_keys = _Keys(root)
        write(root, in_keys, in_keys.create)
    if consolidated:
        with warnings.catch_warnings():
            # The writer of the AnnData has chosen consolidated metadata, in format 3, too.
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(root.store, path=root.path or None, zarr_format=zarr_format)


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


class _Groups:
    """An AnnData with a spare group in its `uns`; entries move between them by renaming, in HDF5.

    The spare group is in `uns` because readers refuse unknown names at the root of an AnnData.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self._spare = f"uns/dasknmf-{uuid.uuid4().hex[:8]}"
        self.new, self.old = f"{self._spare}/new", f"{self._spare}/old"

    def create(self) -> Any:
        """The group of the new entries, beside a group for the old ones."""
        _make_parents(self.root)
        self.root.create_group(self._spare)
        _make_parents(self.root.create_group(self.old))
        return self.root.create_group(self.new)

    def exists(self, name: str) -> bool:
        return name in self.root

    def move(self, was: str, now: str) -> None:
        self.root.move(was, now)

    def clear(self) -> None:
        if self._spare in self.root:
            del self.root[self._spare]


class _Keys(_Groups):
    """An AnnData in a Zarr store that cannot rename: entries move between the same places by copying."""

    def move(self, was: str, now: str) -> None:
        try:
            self._delete(now)  # of an earlier attempt there may be parts
            sync(self._copy(self._key(was), self._key(now)))
        except BaseException:
            self._delete(now)
            raise
        self._delete(was)

    def clear(self) -> None:
        self._delete(self._spare)

    async def _copy(self, was: str, now: str) -> None:
        store = self.root.store
        keys = [key async for key in store.list_prefix(f"{was}/")]
        # A copy exists once it is complete: what makes it an entry comes last.
        keys.sort(key=lambda key: key in [f"{was}/{name}" for name in _METADATA])
        for key in keys:
            value = await store.get(key, default_buffer_prototype())
            await store.set(now + key.removeprefix(was), value)

    def _delete(self, name: str) -> None:
        sync(self.root.store.delete_dir(self._key(name)))

    def _key(self, name: str) -> str:
        return f"{self.root.path}/{name}".strip("/")


def _make_parents(group: h5py.Group | zarr.Group) -> None:
    """Create the groups of the three entries where there are none."""
    from anndata.io import write_elem

    for name in ("obsm", "varm", "uns"):
        if name not in group:
            write_elem(group, name, {})


def _fill(group: Any, factors: Exported, keys: Keys) -> None:
    """Write the three entries into a group of Zarr or HDF5; one block of W is one chunk."""
    from anndata.io import write_elem

    _make_parents(group)
    n, k = factors.shape
    is_zarr = isinstance(group, zarr.Group)
    create = group.create_array if is_zarr else group.create_dataset
    W = create(f"obsm/{keys.obsm}", shape=(n, k), chunks=(factors.block_rows, k), dtype=factors.dtype)
    W.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    G = np.zeros((k, k))
    for first, rows in factors.blocks():
        W[first : first + len(rows)] = rows
        G += gram([rows], k)
    # Small arrays: anndata warns of Zarr's format 3 without this.
    options: dict[str, Any] = {"dataset_kwargs": {"shards": None}} if is_zarr else {}
    write_elem(group["varm"], keys.varm, factors.varm, **options)
    write_elem(group["uns"], keys.uns, factors.uns(G), **options)
