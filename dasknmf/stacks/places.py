"""Places of stacks: patterns of files, files of other kinds, and one array among the others of a group."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from dasknmf.errors import SourceError


def as_files(path: Any) -> Any:
    """The paths that match a pattern of files; other paths and objects are returned unchanged.

    Raises
    ------
    SourceError
        If no file matches, or the path is that of a NetCDF file or of a directory of GeoTIFFs.
    """
    if not isinstance(path, (str, os.PathLike)) or "://" in os.fspath(path):
        return path
    text = os.fspath(path)
    if glob.has_magic(text) and not Path(text).exists():
        found = sorted(glob.glob(text))
        if not found:
            raise SourceError(f"no file matches {text!r}: check the pattern and the directory.")
        return found if len(found) > 1 else found[0]
    if text.lower().endswith((".nc", ".nc4")):
        raise SourceError(
            f"{text!r} is a NetCDF file: give xarray.open_dataset({text!r}, chunks={{}}), whose images are "
            "read in chunks."
        )
    here = Path(text)
    if here.is_dir() and not any((here / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        n_files = sum(1 for each in here.iterdir() if each.name.lower().endswith((".tif", ".tiff")))
        if n_files:
            raise SourceError(
                f"{text!r} is a directory with {n_files} GeoTIFFs; which of them belong together is unknown: "
                f"give a pattern, {os.path.join(text, '*.tif')!r} for example."
            )
    return path


def dims_of(array: zarr.Array) -> Sequence[str | None]:
    """The names of the dims of an array; empty if it has none."""
    named: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS", ())
    return tuple(named)


def others_than(variable: str | Sequence[str], group: zarr.Group) -> list[str]:
    """The arrays of a group that are neither wanted nor along a dim of a wanted one."""
    wanted = {variable} if isinstance(variable, str) else set(variable)
    arrays = dict(group.arrays())
    dims = {dim for name in wanted & arrays.keys() for dim in dims_of(arrays[name])}
    return [
        name
        for name, array in arrays.items()
        if name not in wanted and array.ndim > 1 and set(dims_of(array)) <= dims
    ]
