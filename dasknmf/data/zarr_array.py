"""Arrays of Zarr, whose reads are counted, and repeated after transient errors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Self

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dasknmf.data.chunk_encoding import TruncatedChunk
from dasknmf.data.read_ahead import MOST_BYTES
from dasknmf.data.zarr_chunks import ZarrChunks
from dasknmf.errors import DaskNMFError, SourceError, brief
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.metered import SourceStore
from dasknmf.io.retry import read_patiently

log = logging.getLogger("dasknmf")


class ZarrArray:
    """A Zarr array whose reads are counted, and repeated after transient errors. Picklable.

    Raises
    ------
    SourceError
        If the array is stored as pickles, or its URL holds credentials.
    """

    def __init__(self, array: zarr.Array) -> None:
        refuse_credentials(array.store, SourceError)
        refuse_pickles(array)
        self._array = zarr.open_array(
            SourceStore(array.store), path=array.path, mode="r", zarr_format=array.metadata.zarr_format
        )
        self._stored = ZarrChunks.of(self._array)
        self.label = str(array.store_path)
        self.dtype = np.dtype(array.dtype)
        self.in_process = isinstance(array.store, MemoryStore)
        self.shape: tuple[int, ...] = array.shape
        self.chunks: tuple[int, ...] = array.chunks
        self.shards: tuple[int, ...] = array.shards or array.chunks

    @property
    def ahead_bytes(self) -> int:
        """Encoded bytes that a process has fetched ahead."""
        return MOST_BYTES if self._stored is not None and self._stored.answers_late else 0

    def renewed(self) -> Self:
        """The array for another read of it, without chunks that were fetched ahead."""
        other = copy.copy(self)
        if self._stored is not None:
            other._stored = self._stored.renewed()
        return other

    def read(self, part: slice, axis: int, what: str, ahead: Iterable[slice] = ()) -> np.ndarray:
        """A slice along `axis`, whole along the other axes.

        Parameters
        ----------
        part : slice
        axis : int
        what : str
            Names the slice in messages.
        ahead : iterable of slice
            Slices that this process reads next.
        """
        return read_patiently(lambda: self._values(part, axis, ahead), f"{what} at {self.label}")

    def _values(self, part: slice, axis: int, ahead: Iterable[slice]) -> np.ndarray:
        if self._stored is not None:
            try:
                return self._stored.read(part, axis, ahead)
            except (DaskNMFError, MemoryError, TruncatedChunk):
                raise
            except Exception as error:  # codecs have exceptions of their own
                log.debug("zarr-python reads a part of %s again: %s", self.label, brief(error))
        along = (*(slice(None),) * axis, part)
        return np.asarray(self._array[along])
