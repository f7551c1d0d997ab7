"""Passes over V: V open for reading, and the passes of a fit that models share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dasknmf import data
from dasknmf.core.panels import Grid
from dasknmf.core.phase import Map, Outcome, Phase, Tally
from dasknmf.data.source import Source
from dasknmf.engine import graph
from dasknmf.engine.accounting import PassStats
from dasknmf.engine.scheduler import Scheduler, current_scheduler
from dasknmf.errors import RunDamagedError
from dasknmf.fitting.model import PhaseSet
from dasknmf.io.counts import Counts
from dasknmf.store.factors import Factors, FactorVersion, MemoryFactors
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import ModelStatus, objective_key
from dasknmf.store.stored_run import StoredRun

GIVEN = "given"
"""Name of the state that a read without a fit starts from."""


@dataclass(frozen=True)
class OpenMatrix:
    """V open for reading.

    Parameters
    ----------
    source : Source
        The source of V, staged or not, with the weights of the entries.
    grid : Grid
        The panels of V.
    scheduler : Scheduler
        The scheduler that runs the visits of panels.
    masked : bool
        Whether entries of V may be missing.
    """

    source: Source
    grid: Grid
    scheduler: Scheduler
    masked: bool = False

    @classmethod
    def of(cls, source: Source, *, masked: bool = False) -> OpenMatrix:
        """The matrix of a source, for the current scheduler of Dask."""
        return cls(source, data.grid_of(source), current_scheduler(in_process=source.in_process), masked)

    @property
    def n_features(self) -> int:
        return self.source.shape[1]

    @contextmanager
    def at_work(self) -> Iterator[Map]:
        """A context in which processes are set up for passes, with a map over the threads of this process."""
        with self.scheduler.tuned(), self.scheduler.mapping() as each:
            yield each

    def run(
        self, work: graph.Work, sums: Sequence[float] | None, each: Map
    ) -> tuple[list[Outcome], PassStats]:
        """Run a pass, after which its rows and states are in the factor store.

        Parameters
        ----------
        work : Work
        sums : sequence of float or None
            Known Σv of each panel; a panel with another sum is refused.
        each : callable
            The map of `at_work`.
        """
        return graph.run(self._pass(work, sums), self.scheduler.get, each)

    def tallies(
        self,
        phases: Sequence[Phase],
        dtype: np.dtype,
        factors: Factors | None = None,
        rows: tuple[FactorVersion, ...] = (),
        sums: Sequence[float] | None = None,
    ) -> list[Tally]:
        """The summed tally of each phase, in one read that writes neither rows nor states.

        Parameters
        ----------
        phases : sequence of Phase
            Phases without rows of their own.
        dtype : numpy.dtype
            Dtype of tiles and rows.
        factors : Factors, optional
            The factor store with `rows` and the state `GIVEN`, from which all phases start.
        rows : tuple of FactorVersion
            The rows of W that every phase reads.
        sums : sequence of float, optional
            As for `run`.
        """
        work = graph.Work(
            phases[0].name,
            tuple(phases),
            dtype,
            factors or MemoryFactors(),
            GIVEN if factors else "",
            rows,
            (0,) * len(phases),
            checked=sums is not None,
        )
        with self.at_work() as each:
            return graph.tallies(self._pass(work, sums), self.scheduler.get, each)

    def _pass(self, work: graph.Work, sums: Sequence[float] | None) -> graph.Pass:
        return graph.Pass(work, self.source, self.grid, sums, one_process=self.scheduler.client is None)


@dataclass(frozen=True)
class ModelPass:
    """The part of one model in a pass."""

    status: ModelStatus
    phases: PhaseSet

    @property
    def starts_from(self) -> tuple[int, ...]:
        """For each phase, the number of the phase of the last pass that it continues."""
        phase_indices = self.status.phase_indices
        # Competing phases of one model all start from its latest factors.
        return phase_indices if len(phase_indices) == len(self.phases) else phase_indices * len(self.phases)


@dataclass(frozen=True)
class ModelResult:
    """The results of one model in a pass."""

    part: ModelPass
    phase_indices: tuple[int, ...]
    """Numbers of the model's phases among the phases of the pass."""
    outcomes: tuple[Outcome, ...]

    @property
    def leader(self) -> int:
        """Index of the phase with the lowest objective, the first of equals."""
        return min(range(len(self.outcomes)), key=lambda index: objective_key(self.outcomes[index].objective))


@dataclass(frozen=True)
class PassResult:
    """The results of one pass, before the commit."""

    name: str
    rows: tuple[FactorVersion, ...]
    models: tuple[ModelResult, ...]
    stats: PassStats
    seconds: float
    reads: int
    sums: tuple[float, ...] | None
    """Σv of each panel; None before the first read."""


@dataclass
class PassRunner:
    """A function that runs the passes of a fit. Results of a pass belong to the run after the commit.

    Parameters
    ----------
    V : OpenMatrix
    run : MemoryRun or StoredRun
    dtype : numpy.dtype
    per_read : int
        Largest number of models that share a read; a pass of more models takes several reads.
    """

    V: OpenMatrix
    run: MemoryRun | StoredRun
    dtype: np.dtype
    per_read: int
    each: Map = map
    retries: Counts = field(default_factory=Counts)
    """Retries of this process between passes and at the beginning of a pass."""

    def __call__(self, passes: Sequence[ModelPass], *, afresh: bool = False) -> PassResult:
        """Run one pass; with `afresh`, without the state and rows of earlier passes."""
        at = self.run.progress
        name = f"{at.passes}-{self.run.writer_id}"
        began = time.perf_counter()
        rows: list[FactorVersion] = []
        models: list[ModelResult] = []
        stats = PassStats()
        first = reads = 0
        sums = self.run.sums
        for start in range(0, len(passes), self.per_read):
            group = passes[start : start + self.per_read]
            work = graph.Work(
                name,
                tuple(phase for each in group for phase in each.phases),
                self.dtype,
                self.run.factors,
                "" if afresh else at.state,
                () if afresh else at.rows,
                tuple(number for each in group for number in each.starts_from),
                first,
                # V in this process is not compared: a run in memory does not outlive it.
                checked=not (self.V.source.in_process and isinstance(self.run, MemoryRun)),
            )
            of_group, of_read = self._run(work, sums)
            stats += of_read
            if sums is None and of_read.sums:
                by_panel = dict(of_read.sums)
                sums = tuple(by_panel[panel.index] for panel in self.V.grid)
            reads += work.reads_data
            if work.new_rows:
                rows.append(work.new_rows)
            for part in group:
                numbers = tuple(range(first, first + len(part.phases)))
                models.append(ModelResult(part, numbers, tuple(of_group[: len(numbers)])))
                of_group = of_group[len(numbers) :]
                first += len(numbers)
        stats = replace(stats, retries=stats.retries + self.retries.taken_retries())
        seconds = time.perf_counter() - began
        return PassResult(name, tuple(rows), tuple(models), stats, seconds, reads, sums)

    def _run(self, work: graph.Work, sums: Sequence[float] | None) -> tuple[list[Outcome], PassStats]:
        try:
            return self.V.run(work, sums, self.each)
        except RunDamagedError:
            self.run.check_owner()  # rows that another writer has pruned are not damage
            raise
