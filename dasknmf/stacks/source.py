"""Tiles of a stack, read inside the tasks that need them: all features of some pixels at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import dask
import numpy as np
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.image_grid import Layout, Tile, Tiles
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Reader, Source
from dasknmf.io.retry import read_patiently

Slices = tuple[slice, ...]

_COPIES = 1.5
"""Peak of reading a tile over its decoded bytes: its planes come a few chunks at a time."""


@dataclass(frozen=True)
class Cut:
    """How the chunks of a Dask array lie in a stack.

    Parameters
    ----------
    dims : tuple of str
        Of the array, in its order.
    edges : tuple of tuple of int
        Of its chunks along each.
    """

    dims: tuple[str, ...]
    edges: tuple[tuple[int, ...], ...]

    def pieces(self, window: dict[str, slice]) -> Iterator[tuple[tuple[int, ...], Slices]]:
        """The chunks of a part of the array that cuts none: number along each dim, and place in that part."""
        spans = []
        for dim, edges in zip(self.dims, self.edges, strict=True):
            part = window.get(dim, slice(0, edges[-1]))
            first, last = np.searchsorted(edges, (part.start, part.stop))
            spans.append(
                [
                    (i, slice(edges[i] - part.start, edges[i + 1] - part.start))
                    for i in range(int(first), int(last))
                ]
            )
        for chunk in product(*spans):
            yield tuple(i for i, _ in chunk), tuple(place for _, place in chunk)


@dataclass(frozen=True)
class Part:
    """One variable of a stack, or a mask.

    Parameters
    ----------
    dims : tuple of str
        Of the variable, in its order.
    variable : xarray.Variable or None
        What tasks read; None where chunks arrive from the scheduler.
    cut : Cut or None
        Of these chunks.
    """

    dims: tuple[str, ...]
    variable: Any = None
    cut: Cut | None = None

    def n_chunks(self, window: dict[str, slice]) -> int:
        """How many chunks a part of the stack has; 0 where none arrive."""
        return 0 if self.cut is None else sum(1 for _ in self.cut.pieces(window))

    def read(self, window: dict[str, slice], chunks: Sequence[Any]) -> np.ndarray:
        """The values of a part of the stack, in the variable's order of dims."""
        if self.cut is None:
            here = {dim: part for dim, part in window.items() if dim in self.dims}
            what = ", ".join(f"{dim} {part.start} to {part.stop - 1}" for dim, part in here.items())
            return read_patiently(
                lambda: np.asarray(self.variable.isel(here).to_numpy()), f"{what} of the stack"
            )
        pieces = [place for _, place in self.cut.pieces(window)]
        if len(pieces) == 1:
            return np.asarray(chunks[0])
        shape = tuple(max(place[axis].stop for place in pieces) for axis in range(len(self.dims)))
        values = np.empty(shape, np.asarray(chunks[0]).dtype)
        for place, chunk in zip(pieces, chunks, strict=True):
            values[place] = chunk
        return values


class TileReader(Reader):
    """Gives a tile as a slab: as (features, pixels) in memory, plane by plane as images are stored.

    Parameters
    ----------
    tiles : Tiles
    sample_dims : tuple of str
    feature_dims : tuple of str
        Of each variable: without the level of variables.
    feature_shape : tuple of int
        Along these.
    dtype : numpy.dtype
    parts : sequence of Part
        The variables, each with the features that follow those of the one before.
    mask : Part or None
        True where V counts.
    """

    def __init__(
        self,
        tiles: Tiles,
        sample_dims: tuple[str, ...],
        feature_dims: tuple[str, ...],
        feature_shape: tuple[int, ...],
        dtype: np.dtype,
        parts: Sequence[Part],
        mask: Part | None,
    ) -> None:
        self._tiles = tiles
        self._sample_dims = sample_dims
        self._order = (*feature_dims, *sample_dims)
        self._feature_shape = feature_shape
        self._dtype = dtype
        self._parts = tuple(parts)
        self._mask = mask

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Any]:
        for index, tile in enumerate(self._tiles.between(start, stop)):
            yield self._slab(tile, chunks[index] if chunks else [])

    def _slab(self, tile: Tile, chunks: Sequence[Any]) -> np.ndarray | WeightedSlab:
        arriving = iter(chunks)
        shape = (len(self._parts), *self._feature_shape, *tile.shape)
        n_pixels = tile.stop - tile.start
        first = self._planes(self._parts[0], tile, arriving)
        if len(self._parts) == 1:
            planes = np.ascontiguousarray(first)
        else:
            planes = np.empty(shape, self._dtype)
            planes[0] = first
            for plane, part in zip(planes[1:], self._parts[1:], strict=True):
                plane[...] = self._planes(part, tile, arriving)
        values = planes.reshape(-1, n_pixels).T
        if self._mask is None:
            return values
        counts = np.empty(shape, bool)
        counts[...] = self._planes(self._mask, tile, arriving)
        return WeightedSlab(values, counts.reshape(-1, n_pixels).T)

    def _planes(self, part: Part, tile: Tile, arriving: Iterator[Any]) -> np.ndarray:
        """A variable's values at a tile, the features' dims first; dims that it lacks have length 1."""
        window = dict(zip(self._sample_dims, tile.slices, strict=True))
        values = part.read(window, list(islice(arriving, part.n_chunks(window))))
        present = [dim for dim in self._order if dim in part.dims]
        values = values.transpose([part.dims.index(dim) for dim in present])
        return values[tuple(slice(None) if dim in part.dims else None for dim in self._order)]


class StackSource(Source):
    """A stack as rows of panels, which are whole tiles.

    Parameters
    ----------
    layout : Layout
    dtype : numpy.dtype
    variables : sequence of xarray.Variable
    mask : xarray.Variable or None
    entries : EntryWeights or None
    negatives_advice : str
    """

    def __init__(
        self,
        layout: Layout,
        dtype: np.dtype,
        variables: Sequence[Any],
        mask: Any,
        entries: EntryWeights | None,
        negatives_advice: str,
    ) -> None:
        self.shape = (layout.n_samples, layout.n_features)
        self.dtype = dtype
        self.entries = entries
        self.negatives_advice = negatives_advice
        self._tiles = layout.tiles
        self.cuts = layout.tiles.cuts
        self._sample_dims = layout.sample_dims
        all_of_them = [*variables, *([] if mask is None else [mask])]
        self.in_process = all(map(in_memory, all_of_them))
        chunked = [variable.data for variable in all_of_them if variable.chunks is not None]
        self._persisted = chunked  # keeps persisted chunks alive, which the optimized graph leaves out
        optimized = dask.optimize(*chunked)
        self._keys: list[Any] = [array.__dask_keys__() for array in optimized]
        self._graph: dict[Hashable, GraphNode] = {}
        for array in optimized:
            self._graph |= dict(array.__dask_graph__())
        parts = [_part(variable) for variable in all_of_them]
        self._arriving = [part for part in parts if part.cut is not None]
        # All chunks of a panel wait in memory before its visit begins: the panel is the slab.
        largest = int(np.diff(self._tiles.cuts).max()) * self.shape[1]
        self.slab_bytes = 0 if chunked else largest * (dtype.itemsize + (mask is not None))
        if not chunked:
            self.slab_copies = _COPIES
        features = [dim for dim in layout.dims if dim not in layout.sample_dims]
        self.reader = TileReader(
            layout.tiles,
            layout.sample_dims,
            tuple(features),
            layout.feature_shape[len(layout.feature_shape) - len(features) :],
            dtype,
            parts if mask is None else parts[:-1],
            None if mask is None else parts[-1],
        )

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        """One list for each tile of the panel, in the order in which the reader takes its chunks."""
        if not self._arriving:
            return []
        return [self._keys_of(tile) for tile in self._tiles.between(panel.start, panel.stop)]

    def _keys_of(self, tile: Tile) -> list[Hashable]:
        window = dict(zip(self._sample_dims, tile.slices, strict=True))
        found = []
        for part, keys in zip(self._arriving, self._keys, strict=True):
            assert part.cut is not None
            for index, _ in part.cut.pieces(window):
                key = keys
                for i in index:
                    key = key[i]
                found.append(key)
        return found

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._graph


def in_memory(variable: Any) -> bool:
    """Whether an xarray.Variable's values are in this process."""
    # What xarray decides whether to load by; it has no public name.
    return bool(variable._in_memory)


def by_points(variable: Any) -> bool:
    """Whether xarray would look up a lazily indexed variable value by value: once it has been transposed."""
    data = None if variable.chunks is not None else variable._data
    while data is not None:
        if type(data).__name__ == "LazilyVectorizedIndexedArray":
            return True
        data = getattr(data, "array", None)
    return False


def _part(variable: Any) -> Part:
    if variable.chunks is None:
        return Part(variable.dims, variable)
    edges = tuple(tuple(np.cumsum([0, *lengths]).tolist()) for lengths in variable.chunks)
    return Part(variable.dims, cut=Cut(variable.dims, edges))
