"""Rows of V, in the order of the tiles of a stack of images, as images and in raster order."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from dasknmf.core.image_grid import PixelIndex, Tiles


def in_raster_order(rows: Any, X: Any) -> Any:
    """Rows of a factor, or one value for each row, in the order of X's rows; lazy if `rows` is lazy.

    Parameters
    ----------
    rows : ndarray or dask.array.Array of shape (n_samples, n_components) or (n_samples,)
        In the order in which V is read; a Dask array in chunks of whole tiles.
    X : array or Source
        V as it was given; only a stack of images is read in another order than the given one.
    """
    index: PixelIndex | None = getattr(X, "pixel_index", None)
    if rows is None or not isinstance(index, Tiles) or index.in_order:
        return rows
    matrix = rows[:, None] if rows.ndim == 1 else rows
    if isinstance(matrix, da.Array):
        ordered = da.moveaxis(images(matrix, index), 0, -1).reshape(-1, matrix.shape[1])
    else:
        ordered = np.ascontiguousarray(index.images(matrix).reshape(matrix.shape[1], -1).T)
    return ordered[:, 0] if rows.ndim == 1 else ordered


def images(W: da.Array, tiles: Tiles) -> da.Array:
    """The images as a Dask array of one chunk for each tile, each from the panel that has its rows."""
    lengths = tiles.lengths
    starts = np.append(0, np.cumsum(W.chunks[0])).tolist()
    found: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for tile in tiles:
        panel = bisect_right(starts, tile.start) - 1
        rows = slice(tile.start - starts[panel], tile.stop - starts[panel])
        found[0, *tile.index] = (_image, TaskRef((W.name, panel, 0)), rows, tile.shape)
    found_images = dask_array(found, W, ((W.shape[1],), *lengths), W.dtype)
    # Stores take chunks of one size along each dim, the last one aside.
    regular = [max(each) if _is_irregular(each) else each for each in lengths]
    return found_images.rechunk((-1, *regular)) if any(map(_is_irregular, lengths)) else found_images


def _is_irregular(lengths: tuple[int, ...]) -> bool:
    return len(set(lengths[:-1])) > 1 or (len(lengths) > 1 and lengths[-1] > lengths[0])


def _image(rows: np.ndarray, of_tile: slice, shape: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(rows[of_tile].T).reshape(-1, *shape)


def dask_array(
    calls: Mapping[tuple[int, ...], tuple[Any, ...]],
    source: da.Array,
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype,
) -> da.Array:
    """A Dask array, each chunk of which is a call (function, arguments) on chunks of another array."""
    name = f"tiles-{uuid.uuid4().hex}"
    graph = {(name, *index): Task((name, *index), *call) for index, call in calls.items()}
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[source])
    return da.Array(layers, name, chunks, dtype, meta=np.empty((0,) * len(chunks), dtype))
