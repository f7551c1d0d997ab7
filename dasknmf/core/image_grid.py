"""The layout of V's rows and columns in a stack of images: dims, tiles and coordinates.

A row of V is a pixel, a column is a combination of the other dims. Rows are ordered by tile, as the stack is
stored, and in raster order within a tile, so that a panel is a number of whole tiles. Random numbers of a
row depend on its place in the raster, not on the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import product
from typing import Any, Protocol

import numpy as np


class PixelIndex(Protocol):
    """Places of V's rows in X, or in the raster of a stack of images; they do not depend on chunks of X."""

    def places(self, start: int, stop: int) -> np.ndarray:
        """The place of each of rows [start, stop) of V, shape (stop - start,), int64."""


@dataclass(frozen=True)
class InOrder:
    """The index of a matrix: a row's place is its row number."""

    def places(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)


@dataclass(frozen=True)
class Tile:
    """Rows [start, stop) of V, which are the pixels of one tile in raster order.

    Parameters
    ----------
    start, stop : int
    index : tuple of int
        The number of the tile along each sample dim.
    slices : tuple of slice
        Where the tile lies along each sample dim.
    """

    start: int
    stop: int
    index: tuple[int, ...]
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(part.stop - part.start for part in self.slices)


@dataclass(frozen=True)
class Tiles:
    """A cut of an image, or of an array of more dims, into tiles: the order of V's rows.

    Parameters
    ----------
    lengths : tuple of tuple of int
        Lengths of the tiles along each sample dim.
    """

    lengths: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(sum, self.lengths))

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def cuts(self) -> np.ndarray:
        """First row of each tile, and the number of rows last."""
        sizes = reduce(np.multiply.outer, [np.asarray(each, np.int64) for each in self.lengths])
        return np.append(0, np.cumsum(sizes.reshape(-1)))

    @cached_property
    def _edges(self) -> list[np.ndarray]:
        return [np.append(0, np.cumsum(each)) for each in self.lengths]

    def between(self, start: int, stop: int) -> Iterator[Tile]:
        """The tiles of rows [start, stop); both are edges of tiles."""
        cuts = self.cuts
        first, last = np.searchsorted(cuts, (start, stop))
        for index in range(int(first), int(last)):
            yield self._tile(index)

    def _tile(self, index: int) -> Tile:
        where = tuple(map(int, np.unravel_index(index, tuple(map(len, self.lengths)))))
        slices = tuple(slice(int(e[i]), int(e[i + 1])) for e, i in zip(self._edges, where, strict=True))
        return Tile(int(self.cuts[index]), int(self.cuts[index + 1]), where, slices)

    @property
    def in_order(self) -> bool:
        """Whether rows are in raster order, because tiles are bands of whole lines."""
        cut = max((axis for axis, each in enumerate(self.lengths) if len(each) > 1), default=0)
        return all(length == 1 for each in self.lengths[:cut] for length in each)

    def places(self, start: int, stop: int) -> np.ndarray:
        """Places in the raster of rows [start, stop), shape (stop - start,), int64."""
        if self.in_order:
            return np.arange(start, stop)
        first = int(np.searchsorted(self.cuts, start, side="right")) - 1
        last = int(np.searchsorted(self.cuts, stop))
        found = []
        for index in range(first, last):
            tile = self._tile(index)
            low, high = max(start, tile.start) - tile.start, min(stop, tile.stop) - tile.start
            at = np.unravel_index(np.arange(low, high), tile.shape)
            at = tuple(along + part.start for along, part in zip(at, tile.slices, strict=True))
            found.append(np.ravel_multi_index(at, self.shape))
        return np.concatenate(found)

    def __iter__(self) -> Iterator[Tile]:
        return self.between(0, self.n_rows)

    def images(self, W: np.ndarray) -> np.ndarray:
        """Rows of V's order, shape (n_rows, k), as arrays of shape (k, *shape)."""
        images = np.empty((W.shape[1], *self.shape), W.dtype)
        for tile in self:
            part = W[tile.start : tile.stop].T
            images[(slice(None), *tile.slices)] = part.reshape(-1, *tile.shape)
        return images

    def rows(self, images: np.ndarray) -> np.ndarray:
        """The inverse of `images`: shape (k, *shape) to (n_rows, k)."""
        W = np.empty((self.n_rows, len(images)), images.dtype)
        for tile in self:
            part = images[(slice(None), *tile.slices)]
            W[tile.start : tile.stop] = part.reshape(len(images), -1).T
        return W


@dataclass(frozen=True, eq=False)
class Coordinate:
    """Values along some dims: numbers, bools, str, datetime64 or timedelta64."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of V's rows and columns in a stack of images.

    Parameters
    ----------
    sample_dims : tuple of str
        Dims whose combinations are the rows of V.
    tiles : Tiles
    feature_dims : tuple of str
        Dims whose combinations are the columns of V, the last one the fastest.
    feature_shape : tuple of int
    dims : tuple of str
        All dims, in the order of the stack, without the dim of variables.
    coords : mapping of str to Coordinate
        Coordinates over any of these dims, or none.
    name : str or None
        Name of the stack.
    attrs : mapping
        Attributes of the stack, JSON values.
    variables : mapping of str to mapping, or None
        The attributes of each variable, if the stack is a dataset of several; names of variables are then
        the coordinate of the first feature dim.
    """

    sample_dims: tuple[str, ...]
    tiles: Tiles
    feature_dims: tuple[str, ...]
    feature_shape: tuple[int, ...]
    dims: tuple[str, ...]
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    name: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.tiles.shape

    @property
    def n_samples(self) -> int:
        return self.tiles.n_rows

    @property
    def pixel_index(self) -> PixelIndex:
        """Places of V's rows in the raster."""
        return self.tiles

    @property
    def n_features(self) -> int:
        return math.prod(self.feature_shape)

    def images(self, W: np.ndarray) -> np.ndarray:
        """W, shape (n_samples, n_components), as (n_components, *sample_shape)."""
        return self.tiles.images(W)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """The inverse of `images`."""
        return self.tiles.rows(images)

    def spectra(self, H: np.ndarray) -> np.ndarray:
        """H, shape (n_components, n_features), as (n_components, *feature_shape): a view."""
        return H.reshape(len(H), *self.feature_shape)

    def coords_over(self, dims: Sequence[str]) -> dict[str, Coordinate]:
        """The coordinates over a subset of these dims, scalar coordinates included."""
        return {name: coord for name, coord in self.coords.items() if set(coord.dims) <= set(dims)}

    @property
    def feature_names(self) -> np.ndarray:
        """One name for each column of V: the coordinates of its place along the feature dims."""
        labels = [
            _labels(self.coords.get(dim), length)
            for dim, length in zip(self.feature_dims, self.feature_shape, strict=True)
        ]
        return np.array([" ".join(parts) for parts in product(*labels)], dtype=object)

    def geometry(self) -> dict[str, Any]:
        """The dims and their lengths, as JSON values."""
        return {
            "samples": dict(zip(self.sample_dims, self.sample_shape, strict=True)),
            "features": dict(zip(self.feature_dims, self.feature_shape, strict=True)),
        }


def _labels(coord: Coordinate | None, length: int) -> list[str]:
    if coord is None:
        return [str(i) for i in range(length)]
    if coord.values.dtype.kind == "M":
        return [str(each) for each in np.datetime_as_string(coord.values, unit="auto")]
    return [str(each) for each in coord.values.tolist()]


def merged(lengths: Sequence[Sequence[int]], row_bytes: int, least: int) -> Tiles:
    """Tiles of at most `least` bytes, merged from stored tiles.

    Tiles are merged along the last dim first, and along the dim before it when the last one is complete.

    Parameters
    ----------
    lengths : sequence of sequence of int
        Lengths of the stored tiles along each dim.
    row_bytes : int
        Bytes of all features of a pixel.
    least : int
        Largest size of a merged tile, in bytes.
    """
    found = [tuple(map(int, each)) for each in lengths]
    for dim in reversed(range(len(found))):
        others = math.prod(max(each) for axis, each in enumerate(found) if axis != dim)
        most = least // max(1, others * row_bytes)
        joined: list[int] = []
        for length in found[dim]:
            if joined and joined[-1] + length <= most:
                joined[-1] += length
            else:
                joined.append(length)
        found[dim] = tuple(joined)
        if len(joined) > 1:
            break
    return Tiles(tuple(found))


def common(cuts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Lengths of the parts of the finest partition whose edges are edges of all given partitions."""
    edges = [set(np.cumsum(each).tolist()) for each in cuts]
    shared = sorted(set.intersection(*edges))
    return tuple(int(length) for length in np.diff([0, *shared]))


def with_gaps(factor: np.ndarray, axis: int) -> np.ndarray:
    """A factor with NaN in place of rows (axis 0) or columns (axis 1) that are zero throughout.

    These are the pixels or bands without an observed entry, if there are any: a fit stores their number,
    but not their places. An observed pixel or band whose factor is zero throughout becomes NaN too.
    """
    seen = factor.any(axis=1 - axis, keepdims=True)
    return np.where(seen, factor, np.array(np.nan, factor.dtype))
