"""The place of a run: opened for writing, and refused where a run would be part of something else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import StoreLike

from dasknmf.errors import RunError, RunMismatchError
from dasknmf.store import keys


def writable(target: StoreLike) -> Store:
    """The store of a checkpoint, opened to write a run; nothing is written yet.

    Raises
    ------
    RunError
        If the store cannot be opened, or not for writing.
    RunMismatchError
        If the place lies inside an array, a run or an AnnData.
    """
    try:
        store = keys.opened(target)
        keys.children(store, "")
    except (OSError, ValueError, TypeError) as error:
        raise unopened(target, error) from error
    if store.read_only:
        raise RunError(
            f"the checkpoint {str(target)!r} is read-only; a fit writes every pass to it: open it for "
            "writing or choose another."
        )
    place = keys.local_path(store, "")
    if place is not None:
        _check_permission(target, place)
        for above in place.absolute().parents:
            _check_above(target, above)
    return store


def unopened(target: StoreLike | Store, error: Exception) -> RunError:
    return RunError(
        f"the checkpoint {str(target)!r} cannot be opened ({error}); it must be a directory or a "
        "store to which this process can write: check the path, its permissions and the free space."
    )


def _check_permission(target: StoreLike, place: Path) -> None:
    """Raise an error if the nearest directory that exists cannot be written to."""
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise unopened(target, PermissionError(f"no permission to write to {str(there)!r}"))


def _check_above(target: StoreLike, above: Path) -> None:
    """Raise an error if a directory above a run holds an array, another run or an AnnData."""
    for document in _documents(above):
        attributes = document.get("attributes", document)
        what = ""
        if document.get("node_type") == "array" or "chunks" in document:
            what = "a Zarr array, whose values a run would be among"
        elif isinstance(attributes, dict) and "format" in (attributes.get("dasknmf") or {}):
            what = "another run"
        elif isinstance(attributes, dict) and attributes.get("encoding-type") == "anndata":
            what = "an AnnData, which readers refuse with a run in it"
        if what:
            raise RunMismatchError(
                f"the checkpoint {str(target)!r} lies inside {str(above)!r}, which is {what}; a run needs a "
                "place of its own: choose a place outside of it."
            )


def _documents(directory: Path) -> Iterator[dict[str, Any]]:
    """The metadata of a Zarr array or group at a directory, in either format."""
    for name in ("zarr.json", ".zarray", ".zattrs"):
        try:
            document = json.loads((directory / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            yield document
