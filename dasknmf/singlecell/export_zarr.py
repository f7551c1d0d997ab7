"""Factors written into an AnnData on Zarr: beside it first, then moved into place."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StoreLike

from dasknmf.io import atomic
from dasknmf.io.process_owner import signed
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import ENCODING, Exported, entries, make_parents, refuse_existing

_UNSHARDED: Any = {"shards": None}
"""Small arrays: anndata warns of format 3 without this."""
_METADATA = ("zarr.json", ".zarray", ".zgroup")
"""Keys whose presence makes a path an array or a group, in either format."""


def write_entries(path: StoreLike, factors: Exported, keys: Keys, *, overwrite: bool) -> None:
    """Write the three entries into an AnnData, in its own Zarr format.

    New entries are written to a spare place; then the old entries are moved aside and the new ones moved in.
    An error undoes all moves. Existing consolidated metadata is written again at the end.

    The spare place is ``.<name>.<random>.new`` beside a local directory, and the group
    ``uns/dasknmf-<random>`` in any other store, which cannot rename. A process killed while W is written
    leaves the AnnData unchanged, and the spare place. A process killed while entries are moved leaves some
    entries old, some new, and perhaps one missing: the others are below ``old`` and ``new`` of the spare
    place, and consolidated metadata still describes the old entries. The same export with ``overwrite``
    repairs this; the spare place may then be deleted.

    Parameters
    ----------
    path : str, path or zarr Store
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
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
    names = entries(keys)
    if not overwrite:
        refuse_existing([name for name in names if name in root], path)
    room: atomic.Directory | _Keys
    if isinstance(root.store, LocalStore):
        place = (Path(root.store.root) / root.path).absolute()
        prefix = f".{place.name}."
        room = atomic.Directory(place, place.with_name(f"{prefix}{signed()}.new"))
    else:
        room = _Keys(root)

    def fill() -> None:
        if isinstance(room, _Keys):
            new = room.create()
        else:
            new = zarr.open_group(room.new, mode="w-", zarr_format=root.metadata.zarr_format)
        _fill(new, factors, keys)
        make_parents(root)

    atomic.put(names, room, fill)
    if isinstance(room, atomic.Directory):
        room.forget(prefix, names)
    if consolidated:
        with warnings.catch_warnings():
            # The writer of the AnnData has chosen consolidated metadata, in format 3, too.
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(
                root.store, path=root.path or None, zarr_format=root.metadata.zarr_format
            )


class _Keys:
    """An AnnData in a store of keys, and a spare group in its `uns`; entries move between them by copying.

    The spare group is in `uns` because readers refuse unknown names at the root of an AnnData.
    """

    def __init__(self, root: zarr.Group) -> None:
        self._root = root
        self._spare = f"uns/dasknmf-{uuid.uuid4().hex[:8]}"
        self.new, self.old = f"{self._spare}/new", f"{self._spare}/old"

    def create(self) -> zarr.Group:
        make_parents(self._root)
        self._root.create_group(self._spare)
        make_parents(self._root.create_group(self.old))
        return self._root.create_group(self.new)

    def exists(self, name: str) -> bool:
        return name in self._root

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
        store: Any = self._root.store
        keys = [key async for key in store.list_prefix(f"{was}/")]
        # A copy exists once it is complete: what makes it an entry comes last.
        keys.sort(key=lambda key: key in [f"{was}/{name}" for name in _METADATA])
        for key in keys:
            value = await store.get(key, default_buffer_prototype())
            await store.set(now + key.removeprefix(was), value)

    def _delete(self, name: str) -> None:
        store: Any = self._root.store
        sync(store.delete_dir(self._key(name)))

    def _key(self, name: str) -> str:
        return f"{self._root.path}/{name}".strip("/")


def _fill(group: zarr.Group, factors: Exported, keys: Keys) -> None:
    from anndata.io import write_elem

    make_parents(group)
    n, k = factors.shape
    W = group.create_array(
        f"obsm/{keys.obsm}",
        shape=(n, k),
        chunks=(factors.block_rows, k),
        dtype=factors.dtype,
        attributes=ENCODING,
    )
    for first, rows in factors.blocks():  # one block is one chunk
        W[first : first + len(rows)] = rows
    write_elem(group["varm"], keys.varm, factors.varm, dataset_kwargs=_UNSHARDED)
    write_elem(group["uns"], keys.uns, factors.uns(), dataset_kwargs=_UNSHARDED)
