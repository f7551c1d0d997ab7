"""Datasets of HDF5 files, read by the positions of their bytes.

HDF5 serves one thread at a time and decodes under its lock. Here HDF5 is called only for the places of a
dataset's chunks, once per process and version of the file; every thread then reads and decodes the chunks
that it uses. Datasets with other filters or layouts are left to h5py.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dasknmf.data.chunk_encoding import Encoding
from dasknmf.data.hdf5 import reading
from dasknmf.data.stored_chunks import ChunkGrid, Fetched, Piece, Span, bytes_at, chunks_of, runs_of
from dasknmf.io.optional import needed

_RUN_BYTES = 2**20
"""Largest size of neighbouring chunks that are fetched together, in bytes: they stay in a CPU cache."""
_MOST_CHUNKS = 2**20
"""Largest number of chunks whose places are kept, at 20 bytes a chunk."""
_KEPT = 64
"""Number of datasets whose places a process keeps."""
_FIRST_HDF5 = (1, 14, 4)
"""First version of HDF5 whose places of chunks are right: older ones leave out the user block (HDFGroup/hdf5
issue 3003), or give numbers of chunks instead of their first elements (issue 1419)."""


class Version(NamedTuple):
    """A version of a file: a file that is rewritten or replaced has another one."""

    device: int
    inode: int
    nbytes: int
    changed: int
    """Time of the last change, in nanoseconds."""

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Contiguous:
    """A dataset without chunks, in C order.

    Parameters
    ----------
    shape : tuple of int
    stored : numpy.dtype
        Dtype with the stored byte order.
    offset : int
        Position of the first element in the file, in bytes.
    """

    shape: tuple[int, ...]
    stored: np.dtype
    offset: int

    def read(self, descriptor: int, part: slice, axis: int) -> np.ndarray | None:
        """A slice along the first axis; None along the other axes, where it is in many places."""
        if axis:
            return None
        row = math.prod(self.shape[1:]) * self.stored.itemsize
        found = bytes_at(descriptor, self.offset + part.start * row, self.offset + part.stop * row)
        return found.view(self.stored).reshape(part.stop - part.start, *self.shape[1:])


@dataclass(frozen=True)
class Chunked:
    """The chunks of a dataset.

    Parameters
    ----------
    grid : ChunkGrid
    encodings : dict of int to Encoding
        The encoding of the chunks by their filter masks, which name the filters that a chunk lacks.
    starts : ndarray of int64
        Position of each chunk in the file, in bytes; -1 if it was never written.
    sizes : ndarray of int64
        Size of each chunk in the file, in bytes.
    masks : ndarray of uint32
        Filter mask of each chunk.
    """

    grid: ChunkGrid
    encodings: dict[int, Encoding]
    starts: np.ndarray
    sizes: np.ndarray
    masks: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.shape

    @property
    def stored(self) -> np.dtype:
        return self.encodings[0].dtype

    def read(self, descriptor: int, part: slice, axis: int) -> np.ndarray:
        """A slice along `axis`, whole along the other axes."""
        return self.grid.read(part, axis, lambda pieces: self._fetched(descriptor, pieces))

    def _fetched(self, descriptor: int, pieces: list[Piece]) -> Iterator[Fetched]:
        written: list[Span] = []
        for piece in pieces:
            start = int(self.starts[piece.chunk])
            if start < 0:
                yield Fetched(piece, None, self.encodings[0])
            else:
                written.append(Span("", start, start + int(self.sizes[piece.chunk]), piece))
        for run in runs_of(written, 0, _RUN_BYTES):
            for piece, chunk in chunks_of(run, bytes_at(descriptor, run[0].start, run[-1].stop)):
                yield Fetched(piece, chunk, self.encodings[int(self.masks[piece.chunk])])


Located: TypeAlias = Contiguous | Chunked

_locating = threading.Lock()


def read(
    path: str, name: str, shape: tuple[int, ...], dtype: np.dtype, part: slice, axis: int
) -> np.ndarray | None:
    """A slice of a dataset along `axis`, whole along the other axes; None if it is left to h5py.

    Parameters
    ----------
    path, name : str
        The file, and the name of the dataset in it.
    shape : tuple of int
    dtype : numpy.dtype
        Dtype with the byte order of this machine. A dataset that no longer has it is left to h5py.
    part : slice
    axis : int

    Raises
    ------
    Exception
        Of any class, if the file cannot be read or a chunk not be decoded.
    """
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        with _locating:  # one thread locates for all
            located = _located(path, name, Version.of(os.fstat(descriptor)))
        if located is None or located.shape != shape or located.stored.newbyteorder("=") != dtype:
            return None
        return located.read(descriptor, part, axis)


@lru_cache(maxsize=_KEPT)
def _located(path: str, name: str, version: Version) -> Located | None:
    with reading(path) as file:
        located = locate(file, name)
        # h5py opened the path by itself, and the path may have become another file meanwhile.
        return located if Version.of(os.stat(path)) == version else None


def locate(file: Any, name: str) -> Located | None:
    """The places of a dataset of an open file; None if it is left to h5py."""
    h5py = needed("h5py", "HDF5 files")
    dataset = file[name]
    properties = dataset.id.get_create_plist()
    dtype = np.dtype(dataset.dtype)
    if (
        file.mode != "r"  # this process has the file open for writing, and may not have written all of it
        or dataset.file.filename != file.filename  # an external link
        or dtype.kind not in "biuf"
        or not dataset.id.get_type().equal(h5py.h5t.py_create(dtype))  # values that HDF5 converts
    ):
        return None
    layout = properties.get_layout()
    if layout == h5py.h5d.CONTIGUOUS and not properties.get_external_count() and dataset.ndim:
        offset = dataset.id.get_offset()
        return None if offset is None else Contiguous(dataset.shape, dtype, offset)
    if layout != h5py.h5d.CHUNKED or h5py.version.hdf5_version_tuple < _FIRST_HDF5:
        return None
    filters = _filters(properties, dataset)
    counts = tuple(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if filters is None or math.prod(counts) > _MOST_CHUNKS:
        return None
    starts, sizes, masks = _places(dataset, counts)
    has_fill_value = (
        properties.fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED
        and properties.get_fill_time() != h5py.h5d.FILL_TIME_NEVER
    )
    if not has_fill_value and (starts < 0).any():
        return None
    fill = dataset.fillvalue if has_fill_value else 0
    grid = ChunkGrid(dataset.shape, dataset.chunks, dtype.newbyteorder("="), fill)
    axes = tuple(range(dataset.ndim))
    encodings = {
        mask: Encoding(axes, dtype, tuple(name for at, name in filters[::-1] if not mask >> at & 1))
        for mask in {0, *masks.ravel().tolist()}
    }
    return Chunked(grid, encodings, starts, sizes, masks)


def _filters(properties: Any, dataset: Any) -> list[tuple[int, str]] | None:
    """Number and codec of each filter, in the order of encoding; None if one is not supported here."""
    h5z = needed("h5py", "HDF5 files").h5z
    itemsize = dataset.dtype.itemsize
    codecs = {
        h5z.FILTER_DEFLATE: "hdf5.gzip",
        h5z.FILTER_LZF: "hdf5.lzf",
        h5z.FILTER_SHUFFLE: f"hdf5.shuffle{itemsize}",
    }
    filters: list[tuple[int, str]] = []
    for at in range(properties.get_nfilters()):
        number, _, options, _ = properties.get_filter(at)
        if number not in codecs or (number == h5z.FILTER_SHUFFLE and options[0] != itemsize):
            return None
        filters.append((at, codecs[number]))
    is_whole = not any(n % chunk for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    # Chunks at the edges may be stored without filters, which h5py does not report. Decoding of compressed
    # chunks then fails, and h5py reads them; chunks that are only shuffled would give wrong values.
    if filters and {number for _, number in filters} == {codecs[h5z.FILTER_SHUFFLE]} and not is_whole:
        return None
    return filters


def _places(dataset: Any, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, sizes and filter masks of all chunks."""
    starts = np.full(counts, -1, np.int64)
    sizes, masks = np.zeros(counts, np.int64), np.zeros(counts, np.uint32)
    chunks = dataset.chunks

    def keep(info: Any) -> None:
        at = tuple(first // length for first, length in zip(info.chunk_offset, chunks, strict=True))
        starts[at], sizes[at], masks[at] = info.byte_offset, info.size, info.filter_mask

    dataset.id.chunk_iter(keep)
    return starts, sizes, masks
