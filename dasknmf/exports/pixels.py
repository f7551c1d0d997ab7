"""W of a stack, tile by tile: a panel of it is in memory, never all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np

from dasknmf.layout import Layout, Tile


def tiles_of(W: Any, layout: Layout) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each tile with its rows of W, shape (pixels, n_components); each panel is computed once.

    Parameters
    ----------
    W : dask.array.Array of shape (n_samples, n_components)
        In chunks of whole tiles.
    layout : Layout
    """
    first = 0
    for block, length in zip(W.blocks, W.chunks[0], strict=True):
        with dask.config.set(scheduler="synchronous"):
            rows = np.asarray(block.compute())
        for tile in layout.tiles.between(first, first + length):
            yield tile, rows[tile.start - first : tile.stop - first]
        first += length


def places_of(tile: Tile, layout: Layout) -> list[np.ndarray]:
    """Where the pixels of a tile lie along each sample dim: by coordinates, where there are any."""
    along = []
    for dim, part in zip(layout.sample_dims, tile.slices, strict=True):
        coord = layout.coords.get(dim)
        along.append(np.arange(part.start, part.stop) if coord is None else coord.values[part])
    return [axis.reshape(-1) for axis in np.meshgrid(*along, indexing="ij")]
