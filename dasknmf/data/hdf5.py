"""Matrices in HDF5 files, such as AnnData's .h5ad; every read opens the file, so any process can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dasknmf.core.panels import slab_rows
from dasknmf.data.source import Chunks, Facts, Source, check_shape, row_size, slab_cuts
from dasknmf.data.stored_csr import PARTS, SparseSource, Vectors, check_parts
from dasknmf.errors import SourceError
from dasknmf.io.metered import fetched
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
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"{path} is an HDF5 file, and h5py is not installed: install dasknmf[anndata]."
        ) from error

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


def is_anndata(path: str, name: str) -> bool:
    """Whether a group is an AnnData, such as a modality of MuData."""
    with reading(path) as file:
        return bool(node_in(file, name).attrs.get("encoding-type") == "anndata")


def fetched_bytes(dataset: Any, *parts: slice) -> int:
    """Size in the file, in bytes, of the chunks that hold a part of a dataset."""
    if dataset.chunks is None:
        return int(np.prod([part.stop - part.start for part in parts])) * dataset.dtype.itemsize
    corners = (
        range(part.start // chunk * chunk, part.stop, chunk)
        for part, chunk in zip(parts, dataset.chunks, strict=True)
    )
    return sum(dataset.id.get_chunk_info_by_coord(corner).size or 0 for corner in product(*corners))


class Hdf5Vector:
    """A 1-D dataset of a file that is open."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.length = int(dataset.shape[0])
        self.chunk = int(dataset.chunks[0]) if dataset.chunks else 1
        self.dtype = np.dtype(dataset.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        if start == stop:
            return np.empty(0, self.dtype)
        return _read(self._dataset, start, stop, "entries")


class Hdf5Place:
    """The place of a sparse matrix in a group of an HDF5 file.

    Parameters
    ----------
    path : str
        Path of the file.
    name : str
        Name of the group in the file.
    """

    in_process = False

    def __init__(self, path: str, name: str) -> None:
        self.label = f"{path}/{name}"
        self._path = path
        self._name = name

    @contextmanager
    def opened(self) -> Iterator[Vectors]:
        with reading(self._path) as file:
            group = file[self._name]
            check_parts(group, self.label)
            yield Vectors(*(Hdf5Vector(group[name]) for name in PARTS))


class Hdf5Source(Source):
    """A dense matrix in an HDF5 file, read by rows.

    Parameters
    ----------
    path : str
        Path of the file.
    name : str
        Name of the dataset in the file.
    feature_names : ndarray of str of shape (n_features,), optional
    """

    def __init__(self, path: str, name: str, feature_names: np.ndarray | None = None) -> None:
        self._path = path
        self._name = name
        self.feature_names = feature_names
        with reading(path) as file:
            dataset = file[name]
            check_shape(dataset.shape)
            self.shape = (int(dataset.shape[0]), int(dataset.shape[1]))
            self.dtype = np.dtype(dataset.dtype).newbyteorder("=")
            self._chunk_rows = int(dataset.chunks[0]) if dataset.chunks else 1
        self._height = slab_rows(self._chunk_rows, row_size(self))

    def __repr__(self) -> str:
        return f"<Hdf5Source {self.shape} {self.dtype}, {self._path}/{self._name}>"

    def find_facts(self) -> Facts:
        slab_bytes = min(self._height, self.shape[0]) * row_size(self)
        return Facts(slab_cuts(self.shape[0], self._chunk_rows), slab_bytes=slab_bytes)

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[np.ndarray]:
        with reading(self._path) as file:
            dataset = file[self._name]
            for first in range(start, stop, self._height):
                rows = _read(dataset, first, min(first + self._height, stop), "rows")
                yield rows.astype(self.dtype, copy=False)


def _read(dataset: Any, start: int, stop: int, unit: str) -> np.ndarray:
    """Rows [start, stop) of a dataset; counts the bytes that the read fetches."""
    fetched(fetched_bytes(dataset, slice(start, stop), *(slice(0, length) for length in dataset.shape[1:])))
    what = f"{unit} {start} to {stop - 1} of {dataset.file.filename}{dataset.name}"
    return read_patiently(lambda: np.asarray(dataset[start:stop]), what)


def open_hdf5(path: str, name: str, feature_names: np.ndarray | None = None) -> Source:
    """The matrix at a name in a file, sparse or dense.

    Raises
    ------
    SourceError
        If there is no matrix of that name.
    """
    with reading(path) as file:
        node = node_in(file, name)
        if not hasattr(node, "keys"):
            return Hdf5Source(path, name, feature_names)
        attributes = dict(node.attrs)
    return SparseSource(Hdf5Place(path, name), attributes, feature_names)
