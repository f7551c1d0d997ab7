"""HDF5 files, such as AnnData's .h5ad, opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dasknmf.errors import SourceError
from dasknmf.io.optional import needed
from dasknmf.io.retry import patiently

_MAGIC = b"\x89HDF\r\n\x1a\n"


def split(source: object) -> tuple[str, str] | None:
    """The HDF5 file on a path, and the name inside the file; None if no part of the path is one."""
    if not isinstance(source, (str, os.PathLike)) or "://" in os.fspath(source):
        return None
    path = Path(source).expanduser()
    for file in (path, *path.parents):
        if file.is_file():
            with file.open("rb") as opened:
                if opened.read(len(_MAGIC)) != _MAGIC:
                    return None
            inside = path.relative_to(file).as_posix()
            return str(file.absolute()), "" if inside == "." else inside
    return None


@contextmanager
def reading(path: str) -> Iterator[Any]:
    """A context with the open file.

    Raises
    ------
    SourceError
        If h5py is not installed, or the file cannot be opened.
    """
    h5py = needed("h5py", "HDF5 files")

    def opened() -> Any:
        try:
            # Without a lock: V is only read, and file systems of clusters often do not support locks.
            return h5py.File(path, "r", locking=False)
        except OSError:
            # This process has the file open with a lock; HDF5 then requires a lock here too.
            return h5py.File(path, "r")

    try:
        file = patiently(opened, repr(path))
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened as HDF5 ({error}); V must be a file that this process can read: "
            "check that it was written to its end, and is not open for writing."
        ) from error
    with file:
        yield file


def node_in(file: Any, name: str) -> Any:
    """The node at a name inside an open file; the file itself where the name is empty.

    Raises
    ------
    SourceError
        If there is no such node.
    """
    if not name:
        return file
    if name not in file:
        raise SourceError(
            f"{file.filename} has no {name!r}; it holds {sorted(file)}: give the name of a matrix."
        )
    return file[name]
