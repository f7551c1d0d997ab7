"""W of a stack, tile by tile: a few panels of W are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import dask.array as da
import numpy as np

from dasknmf.core.image_grid import Layout, Tile
from dasknmf.data.dask_array import row_blocks

_AT_ONCE = 4
"""Number of panels that are computed together, so that a lazy transform uses several cores."""


def tiles_of(W: da.Array, layout: Layout) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each tile with its rows of W, shape (pixels, n_components); each panel is computed once.

    Parameters
    ----------
    W : dask.array.Array of shape (n_samples, n_components)
        In chunks of whole tiles.
    layout : Layout
    """
    for first, rows in row_blocks(W, _AT_ONCE):
        for tile in layout.tiles.between(first, first + len(rows)):
            yield tile, rows[tile.start - first : tile.stop - first]


def places_of(tile: Tile, layout: Layout) -> list[np.ndarray]:
    """The place of each pixel of a tile along each sample dim: its coordinate, or else its index."""
    along = []
    for dim, part in zip(layout.sample_dims, tile.slices, strict=True):
        coord = layout.coords.get(dim)
        along.append(np.arange(part.start, part.stop) if coord is None else coord.values[part])
    return [axis.reshape(-1) for axis in np.meshgrid(*along, indexing="ij")]
