"""What the engine asks of a V that it has to read, wherever that is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import scipy.sparse
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.image_grid import Layout
from dasknmf.core.panels import Grid, Panel
from dasknmf.errors import SourceError

Slab: TypeAlias = np.ndarray | scipy.sparse.csr_array
"""Whole rows of V. A sparse one has sorted indices without duplicates; zeros may be stored. Where entries or
rows have weights, slabs are `dasknmf.core.blocks.entries.WeightedSlab`."""
Chunks = Sequence[Sequence[Any]]
"""Chunks of one panel as the scheduler delivers them: rows of chunks, each from left to right."""


class Reader(Protocol):
    """The part of a source that works inside a task. Picklable and small."""

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        """Rows [start, stop) of V as arrays of whole rows, from the first to the last: all of one kind."""

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        """The reader for another walk over V, which takes nothing that an earlier walk has left behind.

        Asked for once where a pass begins, and then sent to all of its tasks. The walks of a fit may share
        what its first one read.
        """
        return self


class Source:
    """V, as rows of panels."""

    shape: tuple[int, int]
    dtype: np.dtype
    """What V is stored as."""
    in_process: bool = False
    """V is in this process's memory: it is never sent to workers, and cannot change behind us."""
    reader: Reader
    """What tasks read V with."""
    slab_bytes: int = 0
    """Decoded size of the largest slab; 0 where that is the whole panel."""
    slab_copies: float = 3.0
    """Peak of reading a slab over that: it, its chunks decoded, and as they were stored."""
    sparse: bool = False
    """Whether slabs are sparse."""
    cuts: np.ndarray
    """Rows at which a panel may begin or end, from 0 to the number of rows."""
    cut_bytes: np.ndarray | None = None
    """Decoded bytes of V before each cut, where V is sparse; None where every row takes the same."""
    staged_bytes: int = 0
    """Bytes of V that stay in the memory of all processes together: none without a stage."""
    kept_bytes: int | None = None
    """Bytes of V, decoded, where V has another form than what is read for it; else None."""
    entries: EntryWeights | None = None
    """What is told of V's entries; None: each is observed, counts once and stands for itself."""
    negatives_advice: str | None = None
    """What to do about values below zero, where the source knows better than what holds for any matrix."""

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        """Keys of the panel's chunks in `upstream`; empty where the reader needs none.

        With `lost`, a stage that should have the panel does not.
        """
        return []

    def upstream(self) -> dict[Hashable, GraphNode]:
        """The graph that makes the chunks."""
        return {}


class Stored(ABC):
    """A matrix that tasks read by themselves, without a Dask graph: beside Zarr arrays, what is ours."""

    shape: tuple[int, int]
    dtype: np.dtype
    by_columns = False
    """Only Xᵀ has rows that can be read."""
    sparse = False
    """Its slabs are sparse."""
    feature_names: np.ndarray | None = None
    """Names of the columns, an array of str, where the store tells them."""
    masked = False
    """Its slabs are `WeightedSlab`: entries have weights of their own."""
    layout: Layout | None = None
    """Where rows and columns lie in a stack of images, where the matrix is one."""

    def described_mask(self) -> str | None:
        """What tells its mask from others, where it has one."""
        return None

    @abstractmethod
    def source(self, *, transposed: bool = False) -> Source:
        """V = X, or Xᵀ, as rows of panels.

        Raises
        ------
        SourceError
            If its rows cannot be read.
        """


class StageLost(Exception):
    """A stage has lost panels that only their chunks can make again."""

    def __init__(self, panels: tuple[int, ...] = ()) -> None:
        super().__init__(panels)
        self.panels = panels


@dataclass(frozen=True)
class PanelSlabs:
    """One panel's slabs; each iteration reads them anew."""

    reader: Reader
    start: int
    stop: int
    chunks: Chunks

    def __iter__(self) -> Iterator[Slab]:
        return self.reader.slabs(self.start, self.stop, self.chunks)


def grid_of(source: Source) -> Grid:
    """The panels of V: decided by its shape, dtype, stored chunks and nonzeros alone."""
    return Grid.of(source.cuts, source.shape[1] * source.dtype.itemsize, source.cut_bytes)


def nbytes_of(source: Source) -> int:
    """Bytes of V, decoded."""
    if source.kept_bytes is not None:
        return source.kept_bytes
    before = source.cut_bytes
    return source.shape[0] * source.shape[1] * source.dtype.itemsize if before is None else int(before[-1])


def row_bytes_of(source: Source, dtype: np.dtype) -> float:
    """Bytes of a row in memory, on average, as tiles of this dtype have it: of a sparse one, at most."""
    if source.sparse:
        entries = nbytes_of(source) / (source.dtype.itemsize + 4) / source.shape[0]
        return entries * (dtype.itemsize + 4) + 8
    return source.shape[1] * dtype.itemsize


def slab_bytes_of(source: Source, grid: Grid) -> int:
    """Decoded bytes of the largest slab that one visit reads."""
    if source.slab_bytes or source.in_process:
        return source.slab_bytes
    before = source.cut_bytes
    if before is None:
        return grid.rows_max * source.shape[1] * source.dtype.itemsize
    return int(np.diff(np.interp(grid.edges, source.cuts, before)).max())


def check_shape(shape: tuple[Any, ...]) -> None:
    """Refuse what is not a matrix of known size, the former in scikit-learn's words."""
    if any(np.isnan(length) for length in shape):
        raise SourceError(
            f"X has unknown chunk sizes, shape {shape}; panels need to know their rows: call "
            "X.compute_chunk_sizes() first (one pass over X), or to_dask_array(lengths=True) where it "
            "comes from a DataFrame."
        )
    if len(shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(shape)}D array instead: X has shape {shape}; "
            "reshape it to (n_samples, n_features)."
        )
    for length, what in zip(shape, ("sample", "feature"), strict=True):
        if length == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required: "
                "check how X was made."
            )
