"""What the passes of a fit will hold in one process."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from dask.utils import format_bytes

from dasknmf.core.blocks import csr, dense, masked
from dasknmf.core.blocks.simd import padded
from dasknmf.core.panels import Grid
from dasknmf.core.phase import Phase
from dasknmf.core.solvers import nnls
from dasknmf.core.starts import trial
from dasknmf.data.source import Source, slab_bytes_of
from dasknmf.engine import graph
from dasknmf.engine.memory import Projection
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting.model import Model

log = logging.getLogger("dasknmf")

_LINES_AT_ONCE = 3
"""Copies of packed Gram matrices at the peak of their use: made, put together, scaled."""


def projected(
    models: Sequence[Model], together: int, source: Source, grid: Grid, scheduler: Scheduler, *, kept: bool
) -> list[Projection]:
    """Of each kind of pass.

    Parameters
    ----------
    models : sequence of Model
    together : int
        How many of them share a read.
    source, grid, scheduler
    kept : bool
        Whether the rows of all of them stay in this process.
    """
    widest = sorted(models, key=lambda model: model.k)[-together:]
    everywhere = sum(model.k for model in models if not model.recomputed)
    # Rows that enter, rows that are left and, beside several models, those of the lowest that has ended.
    generations = 2 if len(models) == 1 else 3
    projections = []
    kinds = [
        *zip(*(model.starts() for model in widest), strict=True),
        [model.lineup(0) for model in widest],
        [(model.closing(),) for model in widest],
    ]
    for lineups in kinds:
        phases = [phase for lineup in lineups for phase in lineup]
        rivals = max(len(lineup) for lineup in lineups)
        widths = [
            (model, max(sum(phase.widths.values()), model.k))
            for model, lineup in zip(widest, lineups, strict=True)
            for phase in lineup
        ]
        width = sum(columns for _, columns in widths)
        stays = sum(columns for model, columns in widths if not model.recomputed)
        held = generations * max(stays, everywhere * rivals) if kept else 0
        projections.append(
            _projection(phases, width, held, widest, source, grid, scheduler),
        )
    return projections


def _projection(
    phases: Sequence[Phase],
    width: int,
    held: int,
    models: Sequence[Model],
    source: Source,
    grid: Grid,
    scheduler: Scheduler,
) -> Projection:
    """Of phases that leave `width` columns, beside `held` columns of V's height that stay."""
    n_features = source.shape[1]
    itemsize = models[0].dtype.itemsize
    tallies = [phase.tally() for phase in phases]
    drawn = sum(tally.capacity for tally in tallies)
    if own := [phase.lines_bytes for phase in phases if hasattr(phase, "lines_bytes")]:
        lines = max(own)
        packed = sum(own) + _LINES_AT_ONCE * lines
    else:
        lines = max(model.lines_bytes for model in models)
        packed = lines * (trial.LINES_AT_ONCE * len(models) if drawn else _LINES_AT_ONCE * len(phases))
    height = dense.tile_rows(n_features, itemsize)
    # Products of several models that are not one have each their factors in whole vectors.
    one = models[0].loss.quadratic and all(getattr(phase, "together", None) for phase in phases)
    columns = width if one else width + len(phases) * (padded(1) - 1)
    return Projection(
        baseline=scheduler.baseline,
        threads=min(scheduler.threads, len(grid)),
        slab=math.ceil(source.slab_copies * slab_bytes_of(source, grid)),
        tiles=scratch_bytes(models[0], source, columns)
        + nnls.scratch_bytes(max(model.k for model in models), packed=models[0].variant.masked)
        + _LINES_AT_ONCE * (lines // n_features * height),
        rows=grid.rows_max * width * itemsize,
        tally=sum(tally.nbytes for tally in tallies),
        drawn=drawn,
        small=4 * width * n_features * 8 + packed,
        held=grid.n_rows * held * itemsize,
        fan_in=graph.FAN_IN,
        staged=-(-source.staged_bytes // scheduler.processes),
    )


def phases_together(
    phases: Sequence[Phase],
    models: Sequence[Model],
    source: Source,
    grid: Grid,
    scheduler: Scheduler,
) -> int:
    """How many phases, one of each model, can share a read without rows that stay.

    Raises
    ------
    MemoryLimitError
        If not even one of them fits.
    """

    def projection(together: int) -> list[Projection]:
        widest = sorted(zip(phases, models, strict=True), key=lambda each: each[1].k)[-together:]
        width = sum(model.k for _, model in widest)
        told, of = zip(*widest, strict=True)
        return [_projection(told, width, 0, of, source, grid, scheduler)]

    return _most(len(phases), scheduler.memory_limit, projection)[0]


def shared_out(
    models: Sequence[Model], source: Source, grid: Grid, scheduler: Scheduler, *, kept: bool
) -> tuple[int, list[Projection]]:
    """How many models can share a read in the memory that there is, and what its passes will hold.

    Raises
    ------
    MemoryLimitError
        If not even one of them fits.
    """
    limit = scheduler.memory_limit
    together, projections = _most(
        len(models),
        limit,
        lambda together: projected(models, together, source, grid, scheduler, kept=kept),
    )
    if together < len(models):
        log.warning(
            "%d models do not fit into %s together: %d at a time share a read, of which a pass makes %d",
            len(models),
            format_bytes(limit),
            together,
            -(-len(models) // together),
        )
    return together, projections


def _most(
    count: int, limit: int, projections_of: Callable[[int], list[Projection]]
) -> tuple[int, list[Projection]]:
    """The largest equal share of so many that fits, and what it will hold.

    Raises
    ------
    MemoryLimitError
        If not even one does.
    """
    n_reads = 1
    while True:
        together = -(-count // n_reads)
        projections = projections_of(together)
        if together == 1 or all(projection.peak <= limit for projection in projections):
            for projection in projections:
                projection.check(limit)
            return together, projections
        n_reads += 1


def makes_tiles_dense(model: Model, source: Source) -> bool:
    """Whether a sparse V has to be worked on with its zeros."""
    return source.sparse and model.loss.beta not in (1, 2)


def scratch_bytes(model: Model, source: Source, width: int) -> int:
    """Of the tiles of one walk, for so many columns of all models together."""
    n_features, dtype = source.shape[1], model.dtype
    if not source.sparse:
        kind = dense if source.entries is None else masked
        return kind.scratch_bytes(n_features, dtype)
    return csr.scratch_bytes(n_features, dtype, width, dense=makes_tiles_dense(model, source))
