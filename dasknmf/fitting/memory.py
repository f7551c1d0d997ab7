"""Projected memory of passes over V in one process, in bytes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from dask.utils import format_bytes

from dasknmf.core.blocks.scratch import dense_scratch_bytes, sparse_scratch_bytes, tile_rows
from dasknmf.core.blocks.simd import padded
from dasknmf.core.phase import Phase
from dasknmf.core.solvers import nnls
from dasknmf.core.starts import trial
from dasknmf.data.source import Source, nbytes_of, slab_bytes_of
from dasknmf.engine import graph
from dasknmf.errors import MemoryLimitError
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import OpenMatrix

log = logging.getLogger("dasknmf")

_SAMPLE_COPIES = 4
"""Copies of a start's sampled rows: parts, their concatenation, the scaled rows, and a subset."""
_RUNTIME_BYTES = 192 * 2**20
"""Bytes that a process gains while it works: compiled kernels, threads of the store, freed slabs that
the allocator keeps."""
_LINE_COPIES = 3
"""Copies of packed Gram matrices at the peak: computed, joined, scaled."""


@dataclass(frozen=True)
class Projection:
    """Parts of the memory of one process during a pass, in bytes unless stated otherwise.

    Parameters
    ----------
    baseline : int
        Resident memory before the pass.
    threads : int
        Number of tasks that run at once.
    slab : int
        Size of a slab with its copies during the read.
    tiles : int
        Size of the buffers of the tiles of one task.
    rows : int
        Size of the factor rows of a panel.
    tally : int
        Size of a tally.
    inputs : int
        Size of the inputs that all tasks share.
    sampled : int
        Size of the rows of V that a start samples, gathered in one task.
    factors : int
        Size of all factor rows, if they are kept in memory; 0 with a factor store.
    fan_in : int
        Number of tallies that one task adds.
    staged : int
        Size of the staged panels of V; 0 without ``stage="memory"``.
    ahead : int
        Encoded bytes of V that are fetched ahead.
    """

    baseline: int
    threads: int
    slab: int
    tiles: int
    rows: int
    tally: int
    inputs: int
    sampled: int
    factors: int
    fan_in: int
    staged: int
    ahead: int = 0

    @property
    def peak(self) -> int:
        # Three copies of the rows: as read, as updated, and as written.
        each = self.slab + self.tiles + 3 * self.rows + 2 * self.tally
        shared = (self.fan_in + 2) * self.tally + self.inputs + self.factors + self.staged + self.ahead
        shared += _SAMPLE_COPIES * self.sampled
        return self.baseline + _RUNTIME_BYTES + self.threads * each + shared

    def check(self, limit: int) -> None:
        """Raise an error if the projected peak exceeds `limit` bytes.

        Raises
        ------
        MemoryLimitError
        """
        if self.peak > limit:
            parts = (
                f"{format_bytes(self.baseline)} now, and for each thread, of which there may be "
                f"{self.threads}, {format_bytes(self.slab)} for a part of V, {format_bytes(self.rows)} for "
                f"rows of W and {format_bytes(self.tally)} for sums"
            )
            remedy = "store V in smaller chunks of rows"
            if self.staged:
                parts += f", and {format_bytes(self.staged)} of V in stage='memory'"
                remedy = "give stage= a directory"
            raise MemoryLimitError(
                f"a pass is projected to peak at {format_bytes(self.peak)} ({parts}); a process has "
                f"{format_bytes(limit)}: give it more memory or fewer threads, {remedy}, or fit fewer "
                "components."
            )


@dataclass(frozen=True)
class Footprint:
    """The sizes, besides that of V, on which the memory of a pass depends.

    Parameters
    ----------
    phases : sequence of Phase
    dtype : numpy.dtype
        Dtype of tiles and factor rows.
    width : int
        Number of columns of the factor rows of all phases together.
    k : int
        The largest number of components of a phase that solves for rows.
    masked : bool
        Whether each row is solved with its own Gram matrix.
    dense_tiles : bool
        Whether tiles of a sparse V are made dense.
    resident : int
        Number of factor columns, of length n_rows, that stay in this process.
    lines, packed : int
        Bytes of the packed products of all features: for one phase, and for all phases at the peak.
    separate : int
        Number of phases that multiply V separately.
    """

    phases: Sequence[Phase]
    dtype: np.dtype
    width: int
    k: int
    masked: bool = False
    dense_tiles: bool = False
    resident: int = 0
    lines: int = 0
    packed: int = 0
    separate: int = 0

    def projection(self, V: OpenMatrix) -> Projection:
        """The projected memory of a process in the pass."""
        source, grid, scheduler = V.source, V.grid, V.scheduler
        n_features, itemsize = V.n_features, self.dtype.itemsize
        tallies = [phase.tally() for phase in self.phases]
        # Each separate product pads its factors to whole SIMD vectors.
        columns = self.width + self.separate * (padded(1) - 1)
        if source.sparse:
            columns += self.lines // (8 * n_features)  # packed products are walked like factors
        lines = self.lines // n_features * tile_rows(n_features, itemsize)
        return Projection(
            baseline=scheduler.baseline,
            threads=min(scheduler.threads, len(grid)),
            slab=math.ceil(source.facts.slab_copies * slab_bytes_of(source, grid)),
            tiles=tile_bytes(source, self.dtype, columns, dense_tiles=self.dense_tiles)
            + nnls.scratch_bytes(self.k, packed=self.masked or self.lines > 0)
            + _LINE_COPIES * lines,
            rows=grid.rows_max * self.width * itemsize,
            tally=sum(tally.nbytes for tally in tallies),
            sampled=sum(tally.capacity for tally in tallies),
            inputs=4 * self.width * n_features * 8 + self.packed,
            factors=grid.n_rows * self.resident * itemsize,
            fan_in=graph.FAN_IN,
            staged=-(-source.staged_bytes // scheduler.processes),
            ahead=min(source.ahead_bytes, nbytes_of(source)),
        )


def footprint(
    phases: Sequence[Phase], models: Sequence[Model], width: int, resident: int, *, sparse: bool
) -> Footprint:
    """The footprint of phases that write `width` columns, while `resident` columns stay in memory."""
    if own := [phase.lines_bytes for phase in phases if phase.lines_bytes is not None]:
        lines = max(own)
        packed = sum(own) + _LINE_COPIES * lines
    else:
        lines = max(model.lines_bytes for model in models)
        draws = any(phase.tally().capacity for phase in phases)
        packed = lines * (trial.LINES_AT_ONCE * len(models) if draws else _LINE_COPIES * len(phases))
    first = models[0]
    one = first.loss.quadratic and all(phase.batching for phase in phases)
    return Footprint(
        phases,
        first.dtype,
        width,
        max(model.k for model in models),
        first.variant.masked,
        makes_tiles_dense(first, sparse=sparse),
        resident,
        lines,
        packed,
        separate=0 if one else len(phases),
    )


def projections_of(
    V: OpenMatrix, models: Sequence[Model], per_read: int, *, in_memory: bool
) -> list[Projection]:
    """The projected memory of each kind of pass of a fit.

    Parameters
    ----------
    V : OpenMatrix
    models : sequence of Model
    per_read : int
        Number of models that share a read.
    in_memory : bool
        Whether W of every model stays in this process.
    """
    widest = sorted(models, key=lambda model: model.k)[-per_read:]
    everywhere = sum(model.k for model in models if not model.recomputed)
    # Rows at the start and at the end of a pass and, with several models, rows of the best that has ended.
    versions = 2 if len(models) == 1 else 3
    kinds = [
        *zip(*(model.starts() for model in widest), strict=True),
        [model.exact_phases(0) for model in widest],
        [(model.evaluation(),) for model in widest],
    ]
    projections = []
    for phase_sets in kinds:
        phases = [phase for phase_set in phase_sets for phase in phase_set]
        rivals = max(len(phase_set) for phase_set in phase_sets)
        widths = [
            (model, max(sum(phase.widths.values()), model.k))
            for model, phase_set in zip(widest, phase_sets, strict=True)
            for phase in phase_set
        ]
        width = sum(columns for _, columns in widths)
        stays = sum(columns for model, columns in widths if not model.recomputed)
        resident = versions * max(stays, everywhere * rivals) if in_memory else 0
        projections.append(footprint(phases, widest, width, resident, sparse=V.source.sparse).projection(V))
    return projections


def phases_per_read(V: OpenMatrix, phases: Sequence[Phase], models: Sequence[Model]) -> int:
    """The number of phases, one of each model, that can share a read when no rows stay in memory.

    Raises
    ------
    MemoryLimitError
        If a single one does not fit.
    """

    def projections(per_read: int) -> list[Projection]:
        widest = sorted(zip(phases, models, strict=True), key=lambda pair: pair[1].k)[-per_read:]
        own, owners = zip(*widest, strict=True)
        width = sum(model.k for model in owners)
        return [footprint(own, owners, width, 0, sparse=V.source.sparse).projection(V)]

    return _largest_group(len(phases), V.scheduler.memory_limit, projections)[0]


def models_per_read(
    V: OpenMatrix, models: Sequence[Model], *, in_memory: bool
) -> tuple[int, list[Projection]]:
    """The number of models that can share a read within the memory limit, and the memory of their passes.

    Raises
    ------
    MemoryLimitError
        If a single one does not fit.
    """
    limit = V.scheduler.memory_limit
    per_read, projections = _largest_group(
        len(models), limit, lambda per_read: projections_of(V, models, per_read, in_memory=in_memory)
    )
    if per_read < len(models):
        log.warning(
            "%d models do not fit into %s of memory together: %d at a time share a read, and each pass reads "
            "V %d times",
            len(models),
            format_bytes(limit),
            per_read,
            -(-len(models) // per_read),
        )
    return per_read, projections


def _largest_group(
    count: int, limit: int, projections_of: Callable[[int], list[Projection]]
) -> tuple[int, list[Projection]]:
    """The size of the largest of equal groups of `count` models that fits in memory, and its projections.

    Raises
    ------
    MemoryLimitError
        If a single model does not fit.
    """
    n_reads = 1
    while True:
        per_read = -(-count // n_reads)
        projections = projections_of(per_read)
        if per_read == 1 or all(projection.peak <= limit for projection in projections):
            for projection in projections:
                projection.check(limit)
            return per_read, projections
        n_reads += 1


def makes_tiles_dense(model: Model, *, sparse: bool) -> bool:
    """Whether tiles of a sparse V are made dense, since the loss needs every entry of WH."""
    return sparse and model.loss.beta not in (1, 2)


def tile_bytes(source: Source, dtype: np.dtype, width: int, *, dense_tiles: bool) -> int:
    """Bytes of the tiles of one read of V, for `width` columns of all models together."""
    if source.sparse:
        return sparse_scratch_bytes(source.shape[1], dtype, width, dense=dense_tiles)
    return dense_scratch_bytes(source.shape[1], dtype, masked=source.entries is not None)
