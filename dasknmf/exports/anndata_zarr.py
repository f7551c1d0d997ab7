"""Factors written into an AnnData on Zarr: beside it first, then moved into place."""

from __future__ import annotations

import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from dasknmf.anndata_entries import Keys
from dasknmf.exports.factors import Factors, entries, refuse_existing

_UNSHARDED: Any = {"shards": None}
"""Small arrays: anndata would ask for a decision about format 3."""
_ENCODING: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}


def write(path: Any, factors: Factors, keys: Keys, *, overwrite: bool) -> None:
    """Write the three entries into the AnnData at a path or URL, in its own Zarr format.

    On a local disk they are written to a directory beside it and renamed into place, so that an error or a
    killed process leaves the AnnData as it was; elsewhere they are deleted again after an error. Consolidated
    metadata is made anew where there was any.

    Raises
    ------
    RunError
        If one of the entries exists and `overwrite` is not given.
    """
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
    paths = entries(keys)
    standing = [name for name in paths if name in root]
    if not overwrite:
        refuse_existing(standing, path)
    if isinstance(root.store, LocalStore):
        _beside(root, Path(root.store.root) / root.path, factors, keys)
    else:
        for name in standing:
            del root[name]
        try:
            _fill(root, factors, keys)
        except BaseException:
            for name in paths:
                if name in root:
                    del root[name]
            raise
    if consolidated:
        with warnings.catch_warnings():
            # Whoever wrote the store has decided that, for format 3 too.
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(
                root.store, path=root.path or None, zarr_format=root.metadata.zarr_format
            )


def _beside(root: zarr.Group, place: Path, factors: Factors, keys: Keys) -> None:
    token = uuid.uuid4().hex[:8]
    spare = place.with_name(f".{place.name}.{token}.new")
    try:
        _fill(zarr.open_group(spare, mode="w-", zarr_format=root.metadata.zarr_format), factors, keys)
        _make_parents(root)
        for name in entries(keys):
            there = place / name
            if there.exists():
                there.rename(spare / f"{there.parent.name}.old")
            (spare / name).rename(there)
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _make_parents(root: zarr.Group) -> None:
    from anndata.io import write_elem

    for name in ("obsm", "varm", "uns"):
        if name not in root:
            write_elem(root, name, {})


def _fill(group: zarr.Group, factors: Factors, keys: Keys) -> None:
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
