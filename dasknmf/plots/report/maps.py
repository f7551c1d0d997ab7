"""Columns of W as small maps, read panel by panel: W is never in memory as a whole."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np

from dasknmf.core.image_grid import Tiles
from dasknmf.errors import RunDamagedError
from dasknmf.store.run import Run, open_run

_SIDE = 256
"""Smallest length in pixels of the longer side of a map of a larger image; the largest is twice this."""
_TRIES = 3
"""Number of attempts to read W, as a running fit may replace the version that is read."""


def maps_of(run: Run, chosen: np.ndarray) -> np.ndarray | None:
    """Thinned abundance maps of some components, with a longer side of 256 to 512 pixels.

    A run stores the number of pixels without an observed entry, but not where they are. If there are any,
    pixels with zeros in all components are NaN.

    Parameters
    ----------
    run : Run
    chosen : ndarray of int, of shape (n_chosen,)
        Components.

    Returns
    -------
    maps : ndarray of shape (n_chosen, rows, columns), or None
        None where W's rows are not the pixels of an image, or a running fit has replaced W during each try.
    """
    layout = run.layout
    if layout is None or len(layout.sample_shape) != 2:
        return None
    for _ in range(_TRIES):
        try:
            return _read(run.rows, layout.tiles, chosen, masked=run.n_unobserved_samples > 0)
        except RunDamagedError:
            if run.status != "running":
                raise
            run = open_run(run.store)
    return None


def _read(W: da.Array, tiles: Tiles, chosen: np.ndarray, *, masked: bool = False) -> np.ndarray:
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
