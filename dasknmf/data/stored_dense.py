"""Dense matrices in Zarr arrays and HDF5 datasets, which visits read without a Dask graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Self

import numpy as np

from dasknmf.core.panels import slab_rows
from dasknmf.data.dask_array import rather_by_columns
from dasknmf.data.hdf5_array import Hdf5Array, StoredArray
from dasknmf.data.read_ahead import Visits
from dasknmf.data.source import Chunks, Facts, Source, check_shape, row_size, slab_cuts


class DenseSource(Source):
    """A stored dense matrix.

    Parameters
    ----------
    array : ZarrArray or Hdf5Array
    feature_names : ndarray of str of shape (n_features,), optional

    Raises
    ------
    ValueError
        If the array is not a matrix.
    """

    def __init__(self, array: StoredArray, feature_names: np.ndarray | None = None) -> None:
        check_shape(array.shape)
        self._array = array
        self._axis = 0
        self._visits = Visits()
        self.feature_names = feature_names
        self.in_process = array.in_process
        self.shape = (array.shape[0], array.shape[1])
        self.dtype = array.dtype

    def __repr__(self) -> str:
        return f"<DenseSource {self.shape} {self.dtype}, {self._array.label}>"

    @property
    def _height(self) -> int:
        return slab_rows(self._array.chunks[self._axis], row_size(self))

    def find_facts(self) -> Facts:
        # Chunks of a shard can be read separately, but panels begin and end with shards.
        cuts = slab_cuts(self.shape[0], self._array.shards[self._axis])
        return Facts(cuts, slab_bytes=min(self._height, self.shape[0]) * row_size(self))

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[np.ndarray]:
        for first in range(start, stop, self._height):
            rows = slice(first, min(first + self._height, stop))
            what = f"rows {rows.start} to {rows.stop - 1} of V"
            ahead = chain([slice(rows.stop, stop)], self._visits.after(start))
            slab = self._array.read(rows, self._axis, what, ahead)
            yield slab.T if self._axis else slab

    @property
    def ahead_bytes(self) -> int:
        return self._array.ahead_bytes

    def visiting(self, rows: Sequence[slice]) -> Self:
        return self.changed(_visits=Visits(tuple(rows)))

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        return self.changed(_array=self._array.renewed())

    def rather_transposed(self, *, parity: bool) -> bool:
        if isinstance(self._array, Hdf5Array):
            return False  # columns of a dataset without chunks are slow to read
        shards = self._array.shards
        n_chunks = tuple(-(-length // shard) for length, shard in zip(self.shape, shards, strict=True))
        return rather_by_columns(self, n_chunks, parity=parity)

    def transposed(self) -> DenseSource:
        return self.changed(shape=self.shape[::-1], _axis=1 - self._axis, feature_names=None)
