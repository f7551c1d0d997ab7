"""Factors written where other programs read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask.array as da
import zarr

from dasknmf.errors import RunError


def write_rows(W: da.Array, path: Path) -> None:
    """Write W as a new Zarr array, one task per chunk; a write that fails leaves nothing behind.

    Raises
    ------
    RunError
        If something is there already.
    """
    if path.exists():
        raise RunError(f"{str(path)!r} exists; W is only written to a new place: choose another.")
    rows = max(W.chunks[0])
    aligned = W.rechunk((rows, -1))
    try:
        # Chunks of the array and of the tasks are the same, so no two tasks write one chunk.
        array = zarr.create_array(path, shape=W.shape, chunks=(rows, W.shape[1]), dtype=W.dtype)
        da.store(aligned, array, lock=False)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
