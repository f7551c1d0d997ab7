"""Zarr arrays, which visits read without a Dask graph; the bytes that reads fetch are counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dasknmf.core.panels import slab_rows
from dasknmf.data.dask_array import rather_by_columns
from dasknmf.data.source import Chunks, Facts, Source, check_shape, row_size, slab_cuts
from dasknmf.io.metered import MeteredArray


class ZarrSource(Source):
    """The source of a Zarr array.

    Parameters
    ----------
    array : zarr.Array
    feature_names : ndarray of str of shape (n_features,), optional

    Raises
    ------
    SourceError
        If the array is stored as pickles, or its URL holds credentials.
    ValueError
        If the array is not a matrix.
    """

    def __init__(self, array: zarr.Array, feature_names: np.ndarray | None = None) -> None:
        check_shape(array.shape)
        self._array = MeteredArray(array)
        self._axis = 0
        self.feature_names = feature_names
        self.in_process = isinstance(array.store, MemoryStore)
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)

    def __repr__(self) -> str:
        return f"<ZarrSource {self.shape} {self.dtype}, {self._array.label}>"

    @property
    def _height(self) -> int:
        return slab_rows(int(self._array.chunks[self._axis]), row_size(self))

    def find_facts(self) -> Facts:
        # Chunks of a shard can be read separately, but panels begin and end with shards.
        cuts = slab_cuts(self.shape[0], int(self._array.shards[self._axis]))
        return Facts(cuts, slab_bytes=min(self._height, self.shape[0]) * row_size(self))

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[np.ndarray]:
        for first in range(start, stop, self._height):
            rows = slice(first, min(first + self._height, stop))
            slab = self._array.read(rows, self._axis, f"rows {rows.start} to {rows.stop - 1} of V")
            yield slab.T if self._axis else slab

    def rather_transposed(self, *, parity: bool) -> bool:
        shards = self._array.shards
        n_chunks = tuple(-(-length // shard) for length, shard in zip(self.shape, shards, strict=True))
        return rather_by_columns(self, n_chunks, parity=parity)

    def transposed(self) -> ZarrSource:
        return self.changed(shape=self.shape[::-1], _axis=1 - self._axis, feature_names=None)
