"""A run at work: V opened and staged, the run that is written, the scheduler that computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da

from dasknmf.core.history import Callback, Record
from dasknmf.core.phase import Phase, Tally
from dasknmf.data.source import Source
from dasknmf.data.staging import staged
from dasknmf.engine import graph
from dasknmf.engine.scheduler import Scheduler, connected, current_scheduler
from dasknmf.errors import MemoryLimitError
from dasknmf.fitting.loop import Fit
from dasknmf.fitting.memory import phases_together
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, PassRunner
from dasknmf.fitting.problem import Problem, computed
from dasknmf.store.factors import MemoryFactors
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import FactorLocation, ModelStatus
from dasknmf.store.run import rows_in_memory
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Session:
    """What models are fitted with.

    Parameters
    ----------
    settled : Problem
        With the seed of the run.
    source : Source
        V with what is told of its entries, from its stage where it has one.
    run, scheduler
    scratch : bool
        Whether the run's store goes when the work is done.
    """

    problem: Problem
    source: Source
    run: MemoryRun | StoredRun
    scheduler: Scheduler
    scratch: bool

    def fit(
        self,
        models: Sequence[Model],
        max_iter: int,
        tol: float,
        *,
        callbacks: Sequence[Callback] = (),
        halving: bool = False,
    ) -> None:
        """Fit models to V, from wherever the run stands."""
        one = self.problem
        fit = Fit(
            models,
            self.source,
            one.grid,
            self.run,
            self.scheduler,
            max_iter,
            tol,
            one.given,
            callbacks,
            halving,
        )
        try:
            fit()
        except MemoryLimitError:
            if not self.run.progress.passes:
                self.run.discard()  # models that cannot be fitted leave no run behind
            raise

    def asked(self, phases: Sequence[Phase], models: Sequence[Model]) -> tuple[list[Tally], int]:
        """What V answers to phases, one of each model, that leave nothing behind, and in how many reads.

        In one if they fit into memory together.
        """
        one = self.problem
        arguments = (self.source, one.grid, self.scheduler)
        together = phases_together(phases, models, *arguments)
        tallies: list[Tally] = []
        with self.scheduler.tuned(), self.scheduler.mapping() as each:
            for start in range(0, len(phases), together):
                part = tuple(phases[start : start + together])
                read = graph.Pass(
                    "told",
                    part,
                    self.source,
                    one.grid,
                    one.model.dtype,
                    MemoryFactors(),
                    "",
                    starts_from=(0,) * len(part),
                    sums=self.run.sums,
                )
                tallies += graph.tallied(read, self.scheduler.get, each)
        return tallies, -(-len(phases) // together)

    def conclude(self, phase: Phase, callbacks: Sequence[Callback] = ()) -> None:
        """One more pass, which starts from what the survey knows; its state and rows are the run's answer."""
        at, one = self.run.progress, self.problem
        with self.scheduler.tuned(), self.scheduler.mapping() as each:
            reads = PassRunner(self.source, one.grid, self.run, self.scheduler, one.model.dtype, 1, each)
            passed = reads([ModelPass(ModelStatus(-1), (phase,))], afresh=True)
        outcome = passed.outcomes[0][0]
        record = Record(
            at.iteration,
            phase.name,
            outcome.loss,
            outcome.objective,
            outcome.loss_at,
            None,
            passed.seconds,
            passed.stats.bytes_read,
            passed.stats.bytes_written,
            self.run.history.reads + passed.reads,
            memory=passed.stats.memory,
            retries=passed.stats.retries,
        )
        answer = FactorLocation(passed.name, 0, passed.rows[0])
        self.run.commit(replace(at, passes=at.passes + 1, conclusion=answer), record, passed.sums)
        for callback in callbacks:
            callback(record)

    def handed(self, W: da.Array, *, chunked: bool) -> Any:
        """W as the user gets it: lazy where X is chunked and the store of the run stays."""
        if chunked and not self.scratch:
            return W
        if self.problem.transposed:
            kept = computed(W)
        else:
            kept = rows_in_memory(self.run.factors, self.run.progress.location, self.problem.grid)
        return da.from_array(kept, chunks=W.chunks, name=False) if chunked else kept


@contextmanager
def running(one: Problem, checkpoint: Any, stage: Any, *, overwrite: bool) -> Iterator[Session]:
    """A run in `checkpoint`; without one in this process or, on a cluster, in a directory that goes.

    Raises
    ------
    RunMismatchError, RunLockedError, RunDamagedError, StageError, SchedulerError, UnavailableError
        As `NMF.fit` tells.
    """
    scheduler = current_scheduler(in_process=one.source.in_process)
    with connected(scheduler.client), ExitStack() as stack:
        source = stack.enter_context(staged(one.source, one.grid, stage, scheduler.client))
        where = checkpoint
        scratch = checkpoint is None and scheduler.client is not None
        if scratch:
            where = stack.enter_context(scheduler.scratch())
        run: MemoryRun | StoredRun = MemoryRun()
        if where is not None:
            run = StoredRun(
                where,
                *one.identity(),
                one.grid,
                one.model.dtype,
                overwrite=overwrite,
                features=one.features,
            )
            one = one.seeded(run.seed)
        stack.callback(run.close)
        yield Session(one, one.observed(source), run, scheduler, scratch)
