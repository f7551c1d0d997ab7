"""One pass of several models: who takes part, in how many reads of V, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dasknmf.core.panels import Grid
from dasknmf.core.phase import Map, Outcome
from dasknmf.data.source import Source
from dasknmf.engine import graph
from dasknmf.engine.accounting import PassStats
from dasknmf.engine.scheduler import Scheduler
from dasknmf.errors import RunDamagedError
from dasknmf.fitting.model import Lineup
from dasknmf.io.retry import Retries
from dasknmf.store.factors import FactorVersion
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import ModelStatus
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class ModelPass:
    """The part of one model in a pass."""

    member: ModelStatus
    phases: Lineup

    @property
    def starts_from(self) -> tuple[int, ...]:
        """For each phase, which of the last pass it goes on from."""
        phase_indices = self.member.phase_indices
        # One model may part into several, all of which begin where it stands.
        return phase_indices if len(phase_indices) == len(self.phases) else phase_indices * len(self.phases)


@dataclass(frozen=True)
class PassResult:
    """What one pass left, before it is committed."""

    name: str
    rows: tuple[FactorVersion, ...]
    phase_indices: tuple[tuple[int, ...], ...]
    """For each turn, the numbers of its phases."""
    outcomes: tuple[tuple[Outcome, ...], ...]
    stats: PassStats
    seconds: float
    reads: int
    sums: tuple[float, ...] | None
    """Σv of each panel, once a read has told it."""


@dataclass
class PassRunner:
    """Runs passes. What one leaves is not part of the run before it is committed.

    Parameters
    ----------
    source, grid, run, scheduler, dtype
    together : int
        How many models share a read; more than these take several reads for one pass.
    """

    source: Source
    grid: Grid
    run: MemoryRun | StoredRun
    scheduler: Scheduler
    dtype: np.dtype
    together: int
    each: Map = map
    retries: Retries = field(default_factory=Retries)
    """Of this process, between passes and while it begins them."""

    def __call__(self, turns: Sequence[ModelPass], *, afresh: bool = False) -> PassResult:
        """Run one; `afresh` without the states and the rows that the last has left."""
        at = self.run.progress
        name = f"{at.passes}-{self.run.writer_id}"
        began = time.perf_counter()
        rows: list[FactorVersion] = []
        phase_indices: list[tuple[int, ...]] = []
        outcomes: list[tuple[Outcome, ...]] = []
        stats: PassStats | None = None
        first = reads = 0
        sums = self.run.sums
        for start in range(0, len(turns), self.together):
            part = turns[start : start + self.together]
            one = graph.Pass(
                name=name,
                phases=tuple(phase for turn in part for phase in turn.phases),
                source=self.source,
                grid=self.grid,
                dtype=self.dtype,
                factors=self.run.factors,
                state="" if afresh else at.state,
                rows=() if afresh else at.rows,
                starts_from=tuple(phase_index for turn in part for phase_index in turn.starts_from),
                first=first,
                # V in this process cannot change behind a run that ends with it.
                checked=not (self.source.in_process and isinstance(self.run, MemoryRun)),
                sums=sums,
            )
            found, moved = self._run(one)
            stats = moved if stats is None else stats + moved
            if sums is None and moved.sums:
                told = dict(moved.sums)
                sums = tuple(told[panel.index] for panel in self.grid)
            reads += one.reads_data
            if one.leaves:
                rows.append(one.leaves)
            for turn in part:
                count = len(turn.phases)
                phase_indices.append(tuple(range(first, first + count)))
                outcomes.append(tuple(found[:count]))
                found = found[count:]
                first += count
        assert stats is not None  # somebody takes part
        stats = replace(stats, retries=stats.retries + self.retries.taken())
        seconds = time.perf_counter() - began
        return PassResult(
            name, tuple(rows), tuple(phase_indices), tuple(outcomes), stats, seconds, reads, sums
        )

    def _run(self, one: graph.Pass) -> tuple[list[Outcome], PassStats]:
        try:
            if self.source.in_process:
                return graph.run_here(one, self.each)
            return graph.run(one, self.scheduler.get)
        except RunDamagedError:
            self.run.check_owner()  # rows that another writer has pruned are not damage
            raise
