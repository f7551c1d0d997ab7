"""Keys of a store that is a directory, written and read by the thread that asks.

Zarr's own way goes through an event loop in a thread of its own, and from there to a third: beside threads
that compute, each of these waits for a core. Measured with two of two cores at work, a chunk of 230 kB took
5.4 ms to write and 2.5 ms to read; by hand 0.7 and 0.2.
"""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

SPARE = ".spare"
"""Ends the name of a key whose content is not yet on disk."""


def spare(name: str) -> str:
    """Where the content of a key goes before it has the key's name."""
    return f"{name}.{uuid.uuid4().hex}{SPARE}"


def replace(path: Path, value: bytes | bytearray, *, name_too: bool = True) -> None:
    """Write a file as a whole: after a power cut there is the old content or the new one.

    Parameters
    ----------
    path : Path
        Its directory is made.
    value : bytes or bytearray
    name_too : bool
        Whether the name is on disk as well when this returns, and not only the content.
    """
    beside = path.with_name(spare(path.name))
    try:
        try:
            file = beside.open("xb")
        except FileNotFoundError:
            _make(beside.parent)
            file = beside.open("xb")
        with file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    if name_too:
        flush_names(path.parent)


def _make(directory: Path) -> None:
    """Make a directory and those above it, with their names on disk."""
    if not directory.parent.exists():
        _make(directory.parent)
    directory.mkdir(exist_ok=True)
    flush_names(directory.parent)


def flush(path: Path) -> None:
    """Force a file's content to disk."""
    _fsync(path, os.O_RDONLY)


def flush_names(directory: Path) -> None:
    """Force the names in a directory to disk, where the file system does that."""
    try:
        _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
