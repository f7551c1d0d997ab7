"""Datasets of HDF5 files, whose reads are counted, and repeated after transient errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from dasknmf.data import hdf5_chunks
from dasknmf.data.hdf5 import reading
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import DaskNMFError, brief
from dasknmf.io.counts import count
from dasknmf.io.retry import read_patiently

log = logging.getLogger("dasknmf")


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
    ahead_bytes = 0

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self.label = f"{path}/{name}"
        with reading(path) as file:
            dataset = file[name]
            self.shape: tuple[int, ...] = dataset.shape
            self.dtype = np.dtype(dataset.dtype).newbyteorder("=")
            self.chunks: tuple[int, ...] = dataset.chunks or (1,) * len(self.shape)
            # What this process has not written yet is known to HDF5 alone.
            self._is_written = file.mode == "r"
        self.shards = self.chunks

    def renewed(self) -> Hdf5Array:
        """The array for another read of it."""
        return self

    def read(self, part: slice, axis: int, what: str, ahead: Iterable[slice] = ()) -> np.ndarray:
        """A slice along `axis`, whole along the other axes; `what` names the slice in messages."""
        values = self._by_position(part, axis) if self._is_written else None
        if values is None:
            values = self._by_h5py(part, axis, what)
        return values.astype(self.dtype, copy=False)

    def _by_position(self, part: slice, axis: int) -> np.ndarray | None:
        """The slice without HDF5; None if HDF5 must read it."""
        try:
            return hdf5_chunks.read(self._path, self._name, self.shape, self.dtype, part, axis)
        except (DaskNMFError, MemoryError):
            raise
        except Exception as error:  # codecs have exceptions of their own
            log.debug("h5py reads a part of %s again: %s", self.label, brief(error))
            return None

    def _by_h5py(self, part: slice, axis: int, what: str) -> np.ndarray:
        along = [slice(0, length) for length in self.shape]
        along[axis] = part
        with reading(self._path) as file:
            dataset = file[self._name]
            count(nbytes=_stored_bytes(dataset, along))
            return read_patiently(lambda: np.asarray(dataset[tuple(along)]), f"{what} at {self.label}")


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
