"""A run at work: V opened and staged, the run that is written, the scheduler that computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da

from dasknmf.core.history import Callback, Record
from dasknmf.core.phase import Phase, Tally
from dasknmf.data.staging import staged
from dasknmf.engine.scheduler import connected, current_scheduler
from dasknmf.errors import MemoryLimitError
from dasknmf.fitting.loop import Fit
from dasknmf.fitting.memory import phases_per_read
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, OpenMatrix, PassRunner
from dasknmf.fitting.problem import Problem, computed
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import FactorLocation, ModelStatus
from dasknmf.store.run import rows_in_memory
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Session:
    """What models are fitted with.

    Parameters
    ----------
    problem : Problem
        With the seed of the run.
    V : OpenMatrix
    run : MemoryRun or StoredRun
    scratch : bool
        Whether the run's store goes when the work is done.
    """

    problem: Problem
    V: OpenMatrix
    run: MemoryRun | StoredRun
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
            self.V,
            self.run,
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

    def read(self, phases: Sequence[Phase], models: Sequence[Model]) -> tuple[list[Tally], int]:
        """The whole tally of each phase, and the number of reads: one if the phases fit into memory together.

        Parameters
        ----------
        phases : sequence of Phase
            Phases that leave neither rows nor states, one of each model.
        models : sequence of Model
        """
        per_read = phases_per_read(self.V, phases, models)
        tallies: list[Tally] = []
        for start in range(0, len(phases), per_read):
            group = phases[start : start + per_read]
            tallies += self.V.tallies(group, models[0].dtype, sums=self.run.sums)
        return tallies, -(-len(phases) // per_read)

    def final_pass(self, phase: Phase, callbacks: Sequence[Callback] = ()) -> None:
        """One more pass, which starts from the survey; its state and rows are the result of the run."""
        at = self.run.progress
        with self.V.at_work() as each:
            runner = PassRunner(self.V, self.run, self.problem.model.dtype, 1, each)
            passed = runner([ModelPass(ModelStatus(-1), (phase,))], afresh=True)
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
        yield Session(one, OpenMatrix(one.observed(source), one.grid, scheduler), run, scratch)
