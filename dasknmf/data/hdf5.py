"""HDF5 files, such as AnnData's .h5ad, and their datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import SourceError
from dasknmf.io.counts import count
from dasknmf.io.optional import needed
from dasknmf.io.retry import patiently, read_patiently

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


class Hdf5Array:
    """A dataset of an HDF5 file, read as `ZarrArray` reads an array of Zarr. Picklable.

    Every read opens the file, so that any process can read.

    Parameters
    ----------
    path : str
        Path of the file.
    name : str
        Name of the dataset in the file.
    """

    in_process = False

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self.label = f"{path}/{name}"
        with reading(path) as file:
            dataset = file[name]
            self.shape: tuple[int, ...] = dataset.shape
            self.dtype = np.dtype(dataset.dtype).newbyteorder("=")
            self.chunks: tuple[int, ...] = dataset.chunks or (1,) * len(self.shape)
        self.shards = self.chunks

    def read(self, part: slice, axis: int, what: str) -> np.ndarray:
        """A slice along `axis`, whole along the other axes; `what` names the slice in messages."""
        along = [slice(0, length) for length in self.shape]
        along[axis] = part
        with reading(self._path) as file:
            dataset = file[self._name]
            count(nbytes=_stored_bytes(dataset, along))
            values = read_patiently(lambda: np.asarray(dataset[tuple(along)]), f"{what} at {self.label}")
        return values.astype(self.dtype, copy=False)


StoredArray: TypeAlias = ZarrArray | Hdf5Array
"""An array in a store, which reads one part of it at a time."""


def _stored_bytes(dataset: Any, along: Sequence[slice]) -> int:
    """Size in the file, in bytes, of the chunks that hold a part of a dataset."""
    if dataset.chunks is None:
        return int(np.prod([part.stop - part.start for part in along])) * dataset.dtype.itemsize
    corners = (
        range(part.start // chunk * chunk, part.stop, chunk)
        for part, chunk in zip(along, dataset.chunks, strict=True)
    )
    return sum(dataset.id.get_chunk_info_by_coord(corner).size or 0 for corner in product(*corners))
