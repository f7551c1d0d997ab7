"""Factors written into an AnnData on Zarr: beside it first, then moved into place."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dasknmf.io import atomic
from dasknmf.io.process_owner import signed
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import Exported, entries, refuse_existing

_UNSHARDED: Any = {"shards": None}
"""Small arrays: anndata would ask for a decision about format 3."""
_ENCODING: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
_METADATA = ("zarr.json", ".zarray", ".zgroup")
"""Keys that make an array or a group of what is below a path, in either format."""


def write_entries(path: Any, factors: Exported, keys: Keys, *, overwrite: bool) -> None:
    """Write the three entries into an AnnData, in its own Zarr format.

    They are written in a spare place first, then what stood there is moved aside, then they are moved in. An
    error takes all of that back and leaves the AnnData as it was. Consolidated metadata is made anew where
    there was any.

    A process that is killed while W is written leaves the AnnData as it was, and the spare place: beside a
    local directory one that is called ``.<name>.<random>.new``; in any other store, which cannot rename, a
    group ``uns/dasknmf-<random>``. One that is killed while entries are moved leaves some of them old, some
    new, one perhaps missing; whatever is not in its place is below ``old`` and ``new`` of the spare place.
    Until consolidated metadata is written it describes the old entries. The same export with ``overwrite``
    mends each of these; the spare place may be deleted then.

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
        If after an error the old entries cannot be moved back either; the message says where they are.
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
        _make_parents(root)

    atomic.put(names, room, fill)
    if isinstance(room, atomic.Directory):
        room.forget(prefix, names)
    if consolidated:
        with warnings.catch_warnings():
            # Whoever wrote the store has decided that, for format 3 too.
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(
                root.store, path=root.path or None, zarr_format=root.metadata.zarr_format
            )


class _Keys:
    """An AnnData in a store of keys, and a group in its `uns`, between which keys are copied.

    What is at the root of an AnnData is read as a part of it, and one of an unknown name is refused; what
    is in `uns` is free.
    """

    def __init__(self, root: zarr.Group) -> None:
        self._root = root
        self._spare = f"uns/dasknmf-{uuid.uuid4().hex[:8]}"
        self.new, self.old = f"{self._spare}/new", f"{self._spare}/old"

    def create(self) -> zarr.Group:
        _make_parents(self._root)
        self._root.create_group(self._spare)
        _make_parents(self._root.create_group(self.old))
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


def _make_parents(root: zarr.Group) -> None:
    from anndata.io import write_elem

    for name in ("obsm", "varm", "uns"):
        if name not in root:
            write_elem(root, name, {})


def _fill(group: zarr.Group, factors: Exported, keys: Keys) -> None:
    from anndata.io import write_elem

    _make_parents(group)
    n, k = factors.shape
    W = group.create_array(
        f"obsm/{keys.obsm}",
        shape=(n, k),
        chunks=(factors.block_rows, k),
        dtype=factors.dtype,
        attributes=_ENCODING,
    )
    for first, rows in factors.blocks():  # one block is one chunk
        W[first : first + len(rows)] = rows
    write_elem(group["varm"], keys.varm, factors.varm, dataset_kwargs=_UNSHARDED)
    write_elem(group["uns"], keys.uns, factors.uns(), dataset_kwargs=_UNSHARDED)
