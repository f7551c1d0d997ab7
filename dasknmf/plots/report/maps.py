"""Columns of W as small maps, read panel by panel: a part of W is in memory, never all of it."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np

from dasknmf.errors import RunDamagedError
from dasknmf.store.run import open_run

_SIDE = 256
"""Pixels of a map's longer side, at most twice as many."""
_TRIES = 3
"""A running fit may drop the generation that is being read; the next one is then opened."""


def maps_of(run: Any, chosen: np.ndarray) -> np.ndarray | None:
    """Every so many pixels of some components' maps, shape (chosen, rows, columns).

    NaN in pixels with nothing observed. A run keeps how many these are, not where: they are among those
    with zeros in all components, and nothing else tells them apart from the rest of these. None where W's
    rows are no pixels of one image, or a running fit was faster than the reading.

    Parameters
    ----------
    run : Run
    chosen : ndarray of int
        Components.
    """
    layout = getattr(run, "layout", None)
    if layout is None or len(layout.sample_shape) != 2:
        return None
    for _ in range(_TRIES):
        try:
            return _read(run.W, layout.tiles, chosen, masked=run.n_unobserved_samples > 0)
        except RunDamagedError:
            if run.status != "running":
                raise
            run = open_run(run.store)
    return None


def _read(W: Any, tiles: Any, chosen: np.ndarray, *, masked: bool = False) -> np.ndarray:
    step = max(1, max(tiles.shape) // _SIDE)
    shape = tuple(-(-length // step) for length in tiles.shape)
    maps = np.full((len(chosen), *shape), np.nan, W.dtype)
    block, first = np.zeros((0, W.shape[1]), W.dtype), 0
    panels = iter(range(W.numblocks[0]))
    for tile in tiles:
        while tile.stop > first + len(block):
            left = block[max(0, tile.start - first) :]
            first += len(block) - len(left)
            with dask.config.set(scheduler="synchronous"):
                block = np.asarray(W.blocks[next(panels)])
            block = np.concatenate([left, block]) if len(left) else block
        pixels = block[tile.start - first : tile.stop - first].reshape(*tile.shape, -1)
        begin = [-part.start % step for part in tile.slices]
        seen = pixels[begin[0] :: step, begin[1] :: step]
        thinned = seen[..., chosen]
        if masked:
            thinned[~seen.any(axis=-1)] = np.nan
        row, column = (-(-part.start // step) for part in tile.slices)
        maps[:, row : row + thinned.shape[0], column : column + thinned.shape[1]] = np.moveaxis(
            thinned, -1, 0
        )
    return maps
