"""The session of a fit: V opened and staged, its run and its scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import dask.array as da
from msgspec import structs

from dasknmf.core.phase import Phase, Tally
from dasknmf.data.staging import staged
from dasknmf.engine.scheduler import connected, current_scheduler
from dasknmf.errors import MemoryLimitError
from dasknmf.fitting.decide import Inputs
from dasknmf.fitting.execution import Execution
from dasknmf.fitting.fingerprint import fingerprint
from dasknmf.fitting.loop import record_of
from dasknmf.fitting.memory import phases_per_read
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, OpenMatrix, PassRunner
from dasknmf.fitting.problem import Factor, FitOptions, Problem, computed
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import FactorLocation, ModelStatus
from dasknmf.store.run import rows_in_memory
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Session:
    """The session of a problem: its run, and V open for reading.

    Parameters
    ----------
    problem : Problem
        With the seed of the run.
    inputs : Inputs
    options : FitOptions
    V : OpenMatrix
    run : MemoryRun or StoredRun
    scratch : bool
        Whether the store of the run goes when the session ends.
    """

    problem: Problem
    inputs: Inputs
    options: FitOptions
    V: OpenMatrix
    run: MemoryRun | StoredRun
    scratch: bool

    def fit(self, models: Sequence[Model]) -> None:
        """Fit models to V, from the last commit on."""
        try:
            Execution(self.problem, models, self.V, self.run, self.inputs.start, self.options.callbacks)()
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

    def final_pass(self, phase: Phase) -> None:
        """One more pass, which starts from the survey; its state and rows are the result of the run."""
        at = self.run.progress
        with self.V.at_work() as each:
            runner = PassRunner(self.V, self.run, self.inputs.model.dtype, 1, each)
            result = runner([ModelPass(ModelStatus(-1), (phase,))], afresh=True)
        record = record_of(
            result, phase.name, at.iteration, result.models[0].outcomes[0], self.run.history.reads
        )
        location = FactorLocation(result.name, 0, result.rows[0])
        self.run.commit(structs.replace(at, passes=at.passes + 1, conclusion=location), record, result.sums)
        for callback in self.options.callbacks:
            callback(record)

    def returned(self, W: da.Array, *, lazy: bool) -> Factor:
        """W for the user: a NumPy array, or lazy over a store that outlives the fit."""
        if lazy and not self.scratch:
            return W
        if self.inputs.roles.transposed:
            rows = computed(W)
        else:
            rows = rows_in_memory(self.run.factors, self.run.progress.location, self.V.grid)
        return da.from_array(rows, chunks=W.chunks, name=False) if lazy else rows


@contextmanager
def session(problem: Problem, inputs: Inputs, options: FitOptions) -> Iterator[Session]:
    """The session of a problem, over a run at its checkpoint.

    Without a checkpoint the run is in this process or, on a cluster, in a directory that goes.

    Raises
    ------
    RunMismatchError, RunLockedError, RunDamagedError, StageError, SchedulerError, UnavailableError
        As `NMF.fit`.
    """
    scheduler = current_scheduler(in_process=inputs.source.in_process)
    with connected(scheduler.client), ExitStack() as stack:
        source = stack.enter_context(staged(inputs.source, inputs.grid, options.stage, scheduler.client))
        target = options.checkpoint
        scratch = target is None and scheduler.client is not None
        if scratch:
            target = stack.enter_context(scheduler.scratch())
        run: MemoryRun | StoredRun = MemoryRun()
        if target is not None:
            run = StoredRun(
                target,
                *fingerprint(problem),
                inputs.grid,
                overwrite=options.overwrite,
                features=inputs.features,
            )
            problem, inputs = replace(problem, seed=run.seed), inputs.seeded(run.seed)
        stack.callback(run.close)
        V = OpenMatrix(inputs.weighted(source), inputs.grid, scheduler)
        yield Session(problem, inputs, options, V, run, scratch)
