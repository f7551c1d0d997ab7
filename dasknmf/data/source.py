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
"""Computed chunks of one panel: rows of chunks, each from left to right."""
InMemory: TypeAlias = np.ndarray | scipy.sparse.spmatrix | scipy.sparse.sparray
"""A matrix in the memory of this process."""
Matrix: TypeAlias = "InMemory | da.Array | Source"
"""X after it is opened."""
MatrixLike: TypeAlias = "Matrix | zarr.Array | zarr.Group | Store | str | os.PathLike"
"""X as users may give it; also a data frame in memory, and objects of anndata and h5py."""


@dataclass(frozen=True)
class Facts:
    """The cuts and sizes of V, which determine its panels and the memory of a read.

    Parameters
    ----------
    cuts : ndarray of int
        Rows at which a panel may begin or end, from 0 to the number of rows.
    cut_bytes : ndarray of int or None
        Decoded bytes of V before each cut; None if all rows have the same size.
    slab_bytes : int
        Decoded bytes of the largest slab; 0 if a slab is the whole panel.
    slab_copies : float
        Peak memory of the read of a slab, divided by the slab's size: the slab and its chunks, decoded and
        encoded.
    total_bytes : int or None
        Decoded bytes of V; None if `cut_bytes` or the shape gives them.
    """

    cuts: np.ndarray
    cut_bytes: np.ndarray | None = None
    slab_bytes: int = 0
    slab_copies: float = 3.0
    total_bytes: int | None = None


class Source(ABC):
    """V as rows, read in slabs of whole rows.

    Tasks call `slabs` of the copy that `for_tasks` makes. Optional members have defaults here.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    """Dtype of the stored values."""
    in_process: bool = False
    """Whether V is in the memory of this process; it is then never sent to workers."""
    is_chunked: bool = True
    """Whether V is read in chunks by the Dask scheduler; W is then a Dask array."""
    sparse: bool = False
    """Whether slabs are sparse."""
    by_columns: bool = False
    """Whether only the transpose can be read."""
    masked: bool = False
    """Whether V has a mask; its slabs are then `WeightedSlab`."""
    entries: EntryWeights | None = None
    """Decoding and weights of the stored values; None: each has weight 1 and is used as stored."""
    feature_names: np.ndarray | None = None
    """Names of the columns, an array of str; None if unknown."""
    layout: Layout | None = None
    """The place of rows and columns in a stack of images; None if V is not a stack of images."""
    negatives_advice: str | None = None
    """Advice on negative values for the error message, if this kind of input has its own."""
    staged_bytes: int = 0
    """Bytes of V that are kept in memory between passes, in all processes together; 0 without a stage."""

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
        """Rows [start, stop) of V as slabs in ascending order, all sparse or all dense."""

    @property
    def pixel_index(self) -> PixelIndex:
        """Places of V's rows in X (in the raster, for pixels), which determine random numbers of rows."""
        return InOrder() if self.layout is None else self.layout.tiles

    def described_mask(self) -> str | None:
        """A digest of the mask; None if there is no mask."""
        return None

    def rather_transposed(self, *, parity: bool) -> bool:
        """Whether the transpose is read in better panels, as for V stored by columns.

        Parameters
        ----------
        parity : bool
            Whether to keep scikit-learn's order of updates, W before H, unless V is large and has chunks that
            can only be read by columns. With the transpose H is updated first.
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
        """A copy that is sent with each pass, without members that only the client needs."""
        return self.changed()

    def visiting(self, rows: Sequence[slice]) -> Self:
        """A copy for a process that visits all panels, whose rows are given in the order of the visits."""
        return self

    @property
    def ahead_bytes(self) -> int:
        """Encoded bytes that a process has fetched before a task needs them."""
        return 0

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        """A source for a new read of V, without values that an earlier read cached.

        Made at the start of a pass, and sent to all of its tasks. With `of_a_fit`, the reads of one fit share
        cached ends of panels.
        """
        return self

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        """Keys of the panel's chunks in `upstream`; empty if `slabs` needs no chunks.

        With `lost`, a stage has lost the panel.
        """
        return []

    def upstream(self) -> dict[Hashable, GraphNode]:
        """The graph that computes the chunks."""
        return {}

    def changed(self, **attributes: Any) -> Self:
        """A copy with other attributes, without cached facts."""
        other = copy.copy(self)
        vars(other).pop("facts", None)
        vars(other).update(attributes)
        return other


class Wrapper(Source):
    """A source that transforms the slabs of another source.

    Parameters
    ----------
    source : Source
        The other source.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        for name in Source.__annotations__:  # shape, dtype, and all others that have a default
            setattr(self, name, getattr(source, name))

    def find_facts(self) -> Facts:
        return self.source.facts

    def for_tasks(self) -> Self:
        return self.changed(source=self.source.for_tasks())

    def visiting(self, rows: Sequence[slice]) -> Self:
        return self.changed(source=self.source.visiting(rows))

    @property
    def ahead_bytes(self) -> int:
        return self.source.ahead_bytes

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        return self.changed(source=self.source.renewed(of_a_fit=of_a_fit))

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return self.source.chunk_keys(panel, lost=lost)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self.source.upstream()


class StageLost(Exception):
    """A stage has lost panels that only the scheduler can compute again."""

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
    """The panels of V, which depend only on V's shape, dtype, stored chunks and nonzeros."""
    return Grid.of(source.facts.cuts, row_size(source), source.facts.cut_bytes)


def row_size(source: Source) -> int:
    """Decoded bytes of a dense row."""
    return source.shape[1] * source.dtype.itemsize


def bytes_before(source: Source) -> np.ndarray:
    """Decoded bytes of V before each cut."""
    before = source.facts.cut_bytes
    return source.facts.cuts * row_size(source) if before is None else before


def nbytes_of(source: Source) -> int:
    """Decoded bytes of V."""
    total = source.facts.total_bytes
    return int(bytes_before(source)[-1]) if total is None else total


def row_bytes_of(source: Source, dtype: np.dtype) -> float:
    """Mean bytes of a row in tiles of a dtype; an upper bound for sparse rows."""
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
    """Decoded bytes of the largest slab that a visit reads; 0 if slabs are views of V."""
    return source.facts.slab_bytes or (0 if source.in_process else panel_bytes(source, grid))


def slab_cuts(n_rows: int, chunk: int) -> np.ndarray:
    """Edges of chunks of `chunk` rows each, the last of which may be shorter."""
    return np.append(np.arange(0, n_rows, chunk), n_rows)


def check_shape(shape: tuple[float, ...]) -> None:
    """Raise an error if a shape is not that of a matrix of known size.

    Raises
    ------
    ValueError
        If the array is not two-dimensional or is empty (scikit-learn's messages).
    SourceError
        If the number of rows is unknown.
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
