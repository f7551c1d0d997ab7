"""Arrays of Zarr, whose reads are counted, and repeated after transient errors."""

from __future__ import annotations

import logging

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dasknmf.data.chunk_encoding import TruncatedChunk
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

    def read(self, part: slice, axis: int, what: str) -> np.ndarray:
        """A slice along `axis`, whole along the other axes; `what` names the slice in messages."""
        return read_patiently(lambda: self._values(part, axis), f"{what} at {self.label}")

    def _values(self, part: slice, axis: int) -> np.ndarray:
        if self._stored is not None:
            try:
                return self._stored.read(part, axis)
            except (DaskNMFError, MemoryError, TruncatedChunk):
                raise
            except Exception as error:  # codecs have exceptions of their own
                log.debug("zarr-python reads a part of %s again: %s", self.label, brief(error))
        along = (*(slice(None),) * axis, part)
        return np.asarray(self._array[along])
