"""Tiles of a stack, read inside the tasks that need them: all features of some pixels at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import dask
import numpy as np
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.core.image_grid import Layout, Tile
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Facts, Source
from dasknmf.io.retry import read_patiently

if TYPE_CHECKING:
    from xarray import Variable

_COPIES = 1.5
"""Peak memory of the read of a tile, divided by its decoded bytes: planes are read a few chunks at a time."""


@dataclass(frozen=True)
class Part:
    """One variable of a stack, or a mask.

    Parameters
    ----------
    dims : tuple of str
        Dims of the variable, in its order.
    variable : xarray.Variable or None
        The variable that tasks read; None if the scheduler delivers its chunks, one for each tile.
    """

    dims: tuple[str, ...]
    variable: Variable | None

    def read(self, window: dict[str, slice], arriving: Iterator[np.ndarray]) -> np.ndarray:
        """The values of a part of the stack, in the variable's order of dims."""
        variable = self.variable
        if variable is None:
            return np.asarray(next(arriving))
        here = {dim: part for dim, part in window.items() if dim in self.dims}
        what = ", ".join(f"{dim} {part.start} to {part.stop - 1}" for dim, part in here.items())
        return read_patiently(lambda: np.asarray(variable.isel(here).to_numpy()), f"{what} of the stack")


class TileSource(Source):
    """Tiles of a stack as panels; a slab is a tile.

    A slab lies in memory as (features, pixels), plane by plane as images are stored.

    Parameters
    ----------
    layout : Layout
    variables : sequence of xarray.Variable
        Columns of V are the features of the first variable, then those of the second, and so on.
    mask : xarray.Variable or None
        True for the values to use.
    """

    layout: Layout

    def __init__(self, layout: Layout, variables: Sequence[Variable], mask: Variable | None) -> None:
        self.layout = layout
        self.shape = (layout.n_samples, layout.n_features)
        self.dtype = np.dtype(variables[0].dtype)
        self.masked = mask is not None
        self._variables = [_by_tiles(each, layout) for each in (*variables, mask) if each is not None]
        self._tiles = layout.tiles
        self._sample_dims = layout.sample_dims
        features = tuple(dim for dim in layout.dims if dim not in layout.sample_dims)
        self._order = (*features, *layout.sample_dims)
        self._feature_shape = layout.feature_shape[len(layout.feature_shape) - len(features) :]
        self._parts = [
            Part(tuple(map(str, each.dims)), each if each.chunks is None else None)
            for each in self._variables
        ]
        self.in_process = all(map(in_memory, self._variables))

    @property
    def _chunked(self) -> list[Variable]:
        return [variable for variable in self._variables if variable.chunks is not None]

    @cached_property
    def _graph(self) -> dict[Hashable, GraphNode]:
        """The graph that makes the chunks of all chunked variables."""
        optimized = dask.optimize(*(variable.data for variable in self._chunked))
        return {key: node for array in optimized for key, node in dict(array.__dask_graph__()).items()}

    def find_facts(self) -> Facts:
        cuts = self._tiles.cuts
        if self._chunked:  # all chunks of a panel wait in memory before its visit begins
            return Facts(cuts)
        largest = int(np.diff(cuts).max()) * self.shape[1]
        return Facts(cuts, slab_bytes=largest * (self.dtype.itemsize + self.masked), slab_copies=_COPIES)

    def for_tasks(self) -> Self:
        sent = self.changed(layout=None, feature_names=None, entries=None, _variables=[])
        vars(sent).pop("_graph", None)
        return sent

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[np.ndarray | WeightedSlab]:
        for index, tile in enumerate(self._tiles.between(start, stop)):
            yield self._slab(tile, chunks[index] if chunks else [])

    def _slab(self, tile: Tile, chunks: Sequence[np.ndarray]) -> np.ndarray | WeightedSlab:
        arriving = iter(chunks)
        parts = self._parts[:-1] if self.masked else self._parts
        shape = (len(parts), *self._feature_shape, *tile.shape)
        n_pixels = tile.stop - tile.start
        first = self._planes(parts[0], tile, arriving)
        if len(parts) == 1:
            planes = np.ascontiguousarray(first)
        else:
            planes = np.empty(shape, self.dtype)
            planes[0] = first
            for plane, part in zip(planes[1:], parts[1:], strict=True):
                plane[...] = self._planes(part, tile, arriving)
        values = planes.reshape(-1, n_pixels).T
        if not self.masked:
            return values
        counts = np.empty(shape, bool)
        counts[...] = self._planes(self._parts[-1], tile, arriving)
        return WeightedSlab(values, counts.reshape(-1, n_pixels).T)

    def _planes(self, part: Part, tile: Tile, arriving: Iterator[np.ndarray]) -> np.ndarray:
        """A variable's values at a tile, with feature dims first; missing dims have length 1."""
        window = dict(zip(self._sample_dims, tile.slices, strict=True))
        values = part.read(window, arriving)
        present = [dim for dim in self._order if dim in part.dims]
        values = values.transpose([part.dims.index(dim) for dim in present])
        return values[tuple(slice(None) if dim in part.dims else None for dim in self._order)]

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        """A list of keys for each tile of the panel, in the order in which its slab uses the chunks."""
        if not self._chunked:
            return []
        return [self._keys_of(tile) for tile in self._tiles.between(panel.start, panel.stop)]

    def _keys_of(self, tile: Tile) -> list[Hashable]:
        where = dict(zip(self._sample_dims, tile.index, strict=True))
        return [(each.data.name, *(where.get(str(dim), 0) for dim in each.dims)) for each in self._chunked]

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._graph


def in_memory(variable: Variable) -> bool:
    """Whether an xarray.Variable's values are in this process."""
    # xarray's own test before it loads a variable; the attribute has no public name.
    return bool(variable._in_memory)


def by_points(variable: Variable) -> bool:
    """Whether xarray would read a lazily indexed variable value by value, as it does after a transpose."""
    data = None if variable.chunks is not None else variable._data
    while data is not None:
        if type(data).__name__ == "LazilyVectorizedIndexedArray":
            return True
        data = getattr(data, "array", None)
    return False


def _by_tiles(variable: Variable, layout: Layout) -> Variable:
    """The variable; a Dask array is rechunked to one chunk for each tile, by tasks of the visits."""
    if variable.chunks is None:
        return variable
    lengths = dict(zip(layout.sample_dims, layout.tiles.lengths, strict=True))
    chunks = tuple(lengths.get(str(dim), -1) for dim in variable.dims)
    return variable.copy(deep=False, data=variable.data.rechunk(chunks, method="tasks"))
