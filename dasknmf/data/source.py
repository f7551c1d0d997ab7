"""The interface of everything that V can be read from: one `Source` for each kind of input."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import dask.array as da
import numpy as np
import scipy.sparse
import zarr
from dask.task_spec import GraphNode
from zarr.abc.store import Store

from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.image_grid import InOrder, Layout, PixelIndex
from dasknmf.core.panels import Grid, Panel
from dasknmf.errors import SourceError

Slab: TypeAlias = np.ndarray | scipy.sparse.csr_array | WeightedSlab
"""Whole rows of V. A sparse slab has sorted indices without duplicates; zeros may be stored."""
Chunks = Sequence[Sequence[Any]]
"""Chunks of one panel as the scheduler delivers them: rows of chunks, each from left to right."""
InMemory: TypeAlias = np.ndarray | scipy.sparse.spmatrix | scipy.sparse.sparray
"""A matrix in the memory of this process."""
Matrix: TypeAlias = "InMemory | da.Array | Source"
"""X once it was opened."""
MatrixLike: TypeAlias = "Matrix | zarr.Array | zarr.Group | Store | str | os.PathLike"
"""X as users may give it; also a data frame in memory, and objects of anndata and h5py."""


@dataclass(frozen=True)
class Facts:
    """The cuts and sizes of V, which decide on its panels and on the memory that reading them takes.

    Parameters
    ----------
    cuts : ndarray of int
        Rows at which a panel may begin or end, from 0 to the number of rows.
    cut_bytes : ndarray of int or None
        Decoded bytes of V before each cut; None where all rows have the same size.
    slab_bytes : int
        Decoded size of the largest slab; 0 where a slab is the whole panel.
    slab_copies : float
        Peak of reading a slab over its size: the slab, its chunks decoded, and as they were stored.
    total_bytes : int or None
        Bytes of V, decoded, where they do not follow from the above.
    """

    cuts: np.ndarray
    cut_bytes: np.ndarray | None = None
    slab_bytes: int = 0
    slab_copies: float = 3.0
    total_bytes: int | None = None


class Source(ABC):
    """V as rows, read in slabs of whole rows.

    A source is its own reader: tasks call `slabs` of the copy that `for_tasks` makes. All that is optional
    has its default here.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    """Of the stored values."""
    in_process: bool = False
    """Whether V is in the memory of this process: it is never sent to workers, and nobody else changes it."""
    is_chunked: bool = True
    """Whether the scheduler reads V in chunks, and W is a Dask array."""
    sparse: bool = False
    """Whether slabs are sparse."""
    by_columns: bool = False
    """Whether only the transpose can be read."""
    masked: bool = False
    """Whether V comes with a mask: its slabs are `WeightedSlab`."""
    entries: EntryWeights | None = None
    """How stored values are read; None: each is observed, counts once and stands for itself."""
    feature_names: np.ndarray | None = None
    """Names of the columns, an array of str, where they are known."""
    layout: Layout | None = None
    """The place of rows and columns in a stack of images, where V is one."""
    negatives_advice: str | None = None
    """The remedy for values below zero, where it differs from that for any matrix."""
    staged_bytes: int = 0
    """Bytes of V that stay in the memory of all processes together: none without a stage."""

    @cached_property
    def facts(self) -> Facts:
        """The cuts and sizes of V, computed at the first access."""
        return self.find_facts()

    @abstractmethod
    def find_facts(self) -> Facts:
        """The cuts and sizes of V; may read an index.

        Raises
        ------
        SourceError
            If the store is damaged.
        """

    @abstractmethod
    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Slab]:
        """Rows [start, stop) of V in slabs, from the first to the last: all of one kind."""

    @property
    def pixel_index(self) -> PixelIndex:
        """The numbers by which random draws know the rows: of pixels, their place in the raster."""
        return InOrder() if self.layout is None else self.layout.tiles

    def described_mask(self) -> str | None:
        """A digest of the mask, where there is one."""
        return None

    def rather_transposed(self, *, parity: bool) -> bool:
        """Whether the transpose is cut into better panels.

        Parameters
        ----------
        parity : bool
            Keep scikit-learn's order of updates, W before H, unless V is large and its chunks leave no
            choice: in transposed roles H moves first.
        """
        return self.by_columns

    def transposed(self) -> Source:
        """The transpose of V.

        Raises
        ------
        SourceError
            If V cannot be read by columns.
        """
        raise SourceError(f"{self!r} can be read by rows only, not by columns: store its transpose.")

    def for_tasks(self) -> Self:
        """A copy to be sent with each pass, without what only the client needs."""
        return self.changed()

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        """The source of another walk over V, which takes nothing that an earlier walk has left behind.

        Made once where a pass begins, and then sent to all of its tasks. With `of_a_fit`, the walks of
        one fit share what the first of them read.
        """
        return self

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        """Keys of the panel's chunks in `upstream`; empty where `slabs` needs none.

        With `lost`, a stage that should have the panel does not.
        """
        return []

    def upstream(self) -> dict[Hashable, GraphNode]:
        """The graph that makes the chunks."""
        return {}

    def changed(self, **attributes: Any) -> Self:
        """A copy with other attributes, whose facts are not known yet."""
        other = copy.copy(self)
        vars(other).pop("facts", None)
        vars(other).update(attributes)
        return other


class Wrapper(Source):
    """A source that gives the slabs of another one in another form.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = source.dtype
        self.in_process = source.in_process
        self.is_chunked = source.is_chunked
        self.sparse = source.sparse
        self.by_columns = source.by_columns
        self.masked = source.masked
        self.entries = source.entries
        self.feature_names = source.feature_names
        self.layout = source.layout
        self.negatives_advice = source.negatives_advice
        self.staged_bytes = source.staged_bytes

    def find_facts(self) -> Facts:
        return self.source.facts

    def for_tasks(self) -> Self:
        return self.changed(source=self.source.for_tasks())

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        return self.changed(source=self.source.renewed(of_a_fit=of_a_fit))

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return self.source.chunk_keys(panel, lost=lost)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self.source.upstream()


class StageLost(Exception):
    """A stage has lost panels that only their chunks can make again."""

    def __init__(self, panels: tuple[int, ...] = ()) -> None:
        super().__init__(panels)
        self.panels = panels


@dataclass(frozen=True)
class PanelSlabs:
    """The slabs of one panel; each iteration reads them anew."""

    source: Source
    start: int
    stop: int
    chunks: Chunks = ()

    def __iter__(self) -> Iterator[Slab]:
        return self.source.slabs(self.start, self.stop, self.chunks)


def grid_of(source: Source) -> Grid:
    """The panels of V, which depend on its shape, dtype, stored chunks and nonzeros alone."""
    return Grid.of(source.facts.cuts, row_size(source), source.facts.cut_bytes)


def row_size(source: Source) -> int:
    """Bytes of a dense row, decoded."""
    return source.shape[1] * source.dtype.itemsize


def bytes_before(source: Source) -> np.ndarray:
    """Decoded bytes of V before each cut."""
    before = source.facts.cut_bytes
    return source.facts.cuts * row_size(source) if before is None else before


def nbytes_of(source: Source) -> int:
    """Bytes of V, decoded."""
    total = source.facts.total_bytes
    return int(bytes_before(source)[-1]) if total is None else total


def row_bytes_of(source: Source, dtype: np.dtype) -> float:
    """Mean bytes of a row in tiles of a dtype; of a sparse one, at most."""
    if source.sparse:
        entries = nbytes_of(source) / (source.dtype.itemsize + 4) / source.shape[0]
        return entries * (dtype.itemsize + 4) + 8
    return source.shape[1] * dtype.itemsize


def panel_bytes(source: Source, grid: Grid) -> int:
    """Decoded bytes of the largest panel."""
    if source.facts.cut_bytes is None:
        return grid.rows_max * row_size(source)
    return int(np.diff(np.interp(grid.edges, source.facts.cuts, source.facts.cut_bytes)).max())


def slab_bytes_of(source: Source, grid: Grid) -> int:
    """Decoded bytes of the largest slab that one visit reads; 0 where it is a view of V."""
    return source.facts.slab_bytes or (0 if source.in_process else panel_bytes(source, grid))


def slab_cuts(n_rows: int, chunk: int) -> np.ndarray:
    """Edges of chunks of `chunk` rows each, the last of which may be shorter."""
    return np.append(np.arange(0, n_rows, chunk), n_rows)


def check_shape(shape: tuple[float, ...]) -> None:
    """Refuse an array that is no matrix of known size.

    Raises
    ------
    ValueError
        If it is not two-dimensional or is empty, in scikit-learn's words.
    SourceError
        If its number of rows is unknown.
    """
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
