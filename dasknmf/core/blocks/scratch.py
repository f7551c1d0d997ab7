"""Heights of tiles, and the buffers that the tiles of a walk share, with their sizes."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from dasknmf.core.blocks.simd import padded

_TILE_BYTES = {False: 2**21, True: 2**23}
"""Target size of a dense tile (False), and of a sparse tile made dense (True), in bytes."""
_TILE_ROWS = (64, 1024)  # between the fixed cost of a call and the size of the caches


def tile_rows(n_features: int, itemsize: int, *, sparse: bool = False) -> int:
    """Number of rows of a tile, which depends on V's width and dtype, but not on the machine."""
    least, most = _TILE_ROWS
    rows = _TILE_BYTES[sparse] // max(1, n_features * itemsize)
    return int(min(most, max(least, rows // 16 * 16)))


def dense_scratch_bytes(n_features: int, dtype: np.dtype, *, masked: bool) -> int:
    """Upper bound of the bytes of a walk's buffers for dense slabs, with those of a resampled model."""
    buffers = 11 if masked else 7
    return buffers * tile_rows(n_features, dtype.itemsize) * n_features * dtype.itemsize


def sparse_scratch_bytes(n_features: int, dtype: np.dtype, k: int, *, dense: bool) -> int:
    """Upper bound of the bytes of a walk's buffers for sparse slabs.

    Parameters
    ----------
    n_features : int
    dtype : numpy.dtype
    k : int
        Number of components of all models together.
    dense : bool
        Whether tiles are made dense, as every β but 1 and 2 needs.
    """
    tile = tile_rows(n_features, dtype.itemsize, sparse=True) * n_features * dtype.itemsize
    factors = 3 * n_features * (k + padded(1)) * dtype.itemsize
    return (6 if dense else 2) * tile + factors


class Scratch:
    """Tile-sized buffers that every tile of a walk reuses."""

    def __init__(self, height: int, n_features: int, dtype: np.dtype, *, by_features: bool = False) -> None:
        self._shape = (height, n_features)
        self._dtype = dtype
        self._by_features = by_features
        self._arrays: dict[str, np.ndarray] = {}

    @cached_property
    def by_rows(self) -> Scratch:
        """Further buffers, by rows."""
        return Scratch(*self._shape, self._dtype)

    def get(self, name: str, n_rows: int, dtype: np.dtype | None = None) -> np.ndarray:
        """A contiguous buffer of shape (n_rows, n_features), by rows or by features."""
        height, n_features = self._shape
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = np.empty(height * n_features, dtype or self._dtype)
        part = array[: n_rows * n_features]
        if self._by_features:
            return part.reshape(n_features, n_rows).T
        return part.reshape(n_rows, n_features)
