"""Zarr arrays, read by the tasks themselves: no graph, and every byte that is fetched is counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dasknmf.core.panels import slab_rows
from dasknmf.data.source import Chunks, Reader, Source, Stored, check_shape
from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.metered import fetched, with_meter
from dasknmf.io.retry import read_patiently
from dasknmf.io.zarrs import decoded_fast, stored_bytes


class NamedArray(Stored):
    """A Zarr array whose columns have names.

    Parameters
    ----------
    array : zarr.Array
    feature_names : ndarray of str of shape (n_features,), optional
    """

    def __init__(self, array: zarr.Array, feature_names: np.ndarray | None = None) -> None:
        check_shape(array.shape)
        self.array = array
        self.feature_names = feature_names
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)

    def __repr__(self) -> str:
        return f"<NamedArray {self.shape} {self.dtype}, {self.array.store_path}>"

    def source(self, *, transposed: bool = False) -> ZarrSource:
        return ZarrSource(self.array, transposed=transposed)


class ZarrSource(Source):
    """A Zarr array in chunks.

    Parameters
    ----------
    array : zarr.Array
    transposed : bool
        Read it by columns, as the rows of Vᵀ.
    """

    def __init__(self, array: zarr.Array, *, transposed: bool = False) -> None:
        refuse_credentials(array.store, SourceError)
        refuse_pickles(array)
        check_shape(array.shape)
        self.in_process = isinstance(array.store, MemoryStore)
        axis = 1 if transposed else 0
        n_rows, n_columns = array.shape[axis], array.shape[1 - axis]
        self.shape = (int(n_rows), int(n_columns))
        self.dtype = np.dtype(array.dtype)
        row_bytes = n_columns * self.dtype.itemsize
        # Inner chunks of a shard can be read on their own; panels begin and end with shards.
        cut = int((array.shards or array.chunks)[axis])
        self.cuts = np.append(np.arange(0, self.shape[0], cut), self.shape[0])
        height = slab_rows(int(array.chunks[axis]), row_bytes)
        self.slab_bytes = min(height, n_rows) * row_bytes
        fast = decoded_fast(array)
        self.reader = ZarrReader(fast or with_meter(array), height, transposed, metered=fast is None)


class ZarrReader(Reader):
    """Reads slabs of whole chunks, one after another."""

    def __init__(self, array: zarr.Array, height: int, transposed: bool, *, metered: bool) -> None:
        self._array = array
        self._metered = metered
        self._height = height
        self._transposed = transposed

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[np.ndarray]:
        for first in range(start, stop, self._height):
            rows = slice(first, min(first + self._height, stop))
            if not self._metered:
                fetched(stored_bytes(self._array, rows, int(self._transposed)))
            along = (slice(None), rows) if self._transposed else (rows, slice(None))
            what = f"rows {rows.start} to {rows.stop - 1} of V at {self._array.store_path}"
            slab = read_patiently(lambda: np.asarray(self._array[along]), what)  # noqa: B023
            yield slab.T if self._transposed else slab
