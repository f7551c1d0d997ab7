"""Factors written into an .h5ad file, or as a new one."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from dasknmf.anndata_entries import Keys
from dasknmf.errors import RunError
from dasknmf.exports.factors import Factors, entries, refuse_existing
from dasknmf.inputs import hdf5

_ENCODING = {"encoding-type": "array", "encoding-version": "0.2.0"}


def write(path: Any, factors: Factors, keys: Keys, *, overwrite: bool) -> None:
    """Write the three entries into an .h5ad file, or into an AnnData inside of an HDF5 file.

    They are written to a group of another name in `uns` and moved into place; after an error that group is
    deleted. HDF5 itself keeps no journal: a power cut while it writes can damage the file.

    Raises
    ------
    RunError
        If one of the entries exists and `overwrite` is not given.
    """
    import h5py

    name, inside = hdf5.split(path) or (path, "")
    with h5py.File(name, "r+") as file:
        root = hdf5.node_in(file, inside)
        if not overwrite:
            refuse_existing([entry for entry in entries(keys) if entry in root], path)
        _make_parents(root)
        spare = f"uns/dasknmf-{uuid.uuid4().hex[:8]}"
        try:
            _fill(root.create_group(spare), factors, keys)
            for entry in entries(keys):
                if entry in root:
                    del root[entry]
                root.move(f"{spare}/{entry}", entry)
        finally:
            del root[spare]


def write_new(path: Path, factors: Factors, keys: Keys, *, obs: Any, var: Any, overwrite: bool) -> None:
    """Write an .h5ad file without X: the tables of cells and genes, and the factors.

    Parameters
    ----------
    obs, var : pandas.DataFrame

    Raises
    ------
    RunError
        If the file exists and `overwrite` is not given.
    """
    import h5py
    from anndata import AnnData

    if path.exists() and not overwrite:
        raise RunError(
            f"{str(path)!r} exists; nothing is replaced unasked: give --overwrite or another path."
        )
    spare = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        AnnData(obs=obs, var=var).write_h5ad(spare)
        with h5py.File(spare, "r+") as file:
            _fill(file, factors, keys)
        spare.replace(path)
    finally:
        spare.unlink(missing_ok=True)


def _make_parents(group: Any) -> None:
    from anndata.io import write_elem

    for name in ("obsm", "varm", "uns"):
        if name not in group:
            write_elem(group, name, {})


def _fill(group: Any, factors: Factors, keys: Keys) -> None:
    from anndata.io import write_elem

    _make_parents(group)
    n, k = factors.shape
    W = group.create_dataset(
        f"obsm/{keys.obsm}", shape=(n, k), chunks=(factors.block_rows, k), dtype=factors.dtype
    )
    W.attrs.update(_ENCODING)
    for first, rows in factors.blocks():
        W[first : first + len(rows)] = rows
    write_elem(group["varm"], keys.varm, factors.varm)
    write_elem(group["uns"], keys.uns, factors.uns())
