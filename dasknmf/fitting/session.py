"""The session of a fit: V open and staged, the run and the scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dask.array as da
import numpy as np
from msgspec import structs

from dasknmf import data
from dasknmf.core.history import Record
from dasknmf.core.phase import Phase, Tally
from dasknmf.data.staging import staged
from dasknmf.engine.scheduler import connected, current_scheduler
from dasknmf.fitting.decide import Inputs
from dasknmf.fitting.loop import record_of
from dasknmf.fitting.memory import phases_per_read
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, OpenMatrix, PassRunner
from dasknmf.fitting.problem import Factor
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.place import writable
from dasknmf.store.progress import FactorLocation, ModelStatus, Progress
from dasknmf.store.roles import rows_in_memory
from dasknmf.store.schema import Problem
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Session:
    """The session of a fit: the run, and V open for reading.

    Parameters
    ----------
    problem : Problem
        The problem with the seed of the run.
    inputs : Inputs
    V : OpenMatrix
    run : MemoryRun or StoredRun
    scratch : bool
        Whether the store of the run is deleted at the end of the session.
    """

    problem: Problem
    inputs: Inputs
    V: OpenMatrix
    run: MemoryRun | StoredRun
    scratch: bool

    def commit(self, progress: Progress, record: Record | None, sums: tuple[float, ...] | None) -> None:
        """Commit a pass to the run, and call the callbacks with its record."""
        self.run.commit(progress, record, sums)
        if record is not None:
            for callback in self.inputs.options.callbacks:
                callback(record)

    def read(self, phases: Sequence[Phase], models: Sequence[Model]) -> tuple[list[Tally], int]:
        """The summed tally of each phase, and the number of reads: one if all phases fit in memory together.

        Parameters
        ----------
        phases : sequence of Phase
            Phases that write neither rows nor states, one for each model.
        models : sequence of Model
        """
        per_read = phases_per_read(self.V, phases, models)
        tallies: list[Tally] = []
        for start in range(0, len(phases), per_read):
            group = phases[start : start + per_read]
            tallies += self.V.tallies(group, models[0].dtype, sums=self.run.sums)
        return tallies, -(-len(phases) // per_read)

    def final_pass(self, phase: Phase) -> None:
        """Run and commit a pass from an empty state; its state and rows become the result of the run."""
        at = self.run.progress
        with self.V.at_work() as each:
            runner = PassRunner(self.V, self.run, self.inputs.model.dtype, 1, each)
            result = runner([ModelPass(ModelStatus(-1), (phase,))], afresh=True)
        record = record_of(
            result, phase.name, at.iteration, result.models[0].outcomes[0], self.run.history.reads
        )
        location = FactorLocation(result.name, 0, result.rows[0])
        self.commit(structs.replace(at, passes=at.passes + 1, conclusion=location), record, result.sums)

    def returned(self, W: da.Array) -> Factor:
        """W for the user: a NumPy array or, where X is chunked, a Dask array, lazy over a checkpoint."""
        lazy = data.is_chunked(self.inputs.X)
        if lazy and not self.scratch:
            return W
        if self.inputs.roles.transposed:
            rows = np.asarray(W)
        else:
            rows = rows_in_memory(self.run.factors, self.run.progress.location, self.V.grid)
        return da.from_array(rows, chunks=W.chunks, name=False) if lazy else rows


@contextmanager
def session(problem: Problem, inputs: Inputs) -> Iterator[Session]:
    """A context with the session of a problem, over the run at its checkpoint.

    Without a checkpoint the run is in this process or, on a cluster, in a temporary directory.

    Raises
    ------
    RunMismatchError, RunLockedError, RunDamagedError, StageError, SchedulerError, UnavailableError
        As `NMF.fit`.
    """
    scheduler = current_scheduler(in_process=inputs.source.in_process)
    with connected(scheduler.client), ExitStack() as stack:
        options, store = inputs.options, inputs.store
        source = stack.enter_context(staged(inputs.source, inputs.grid, options.stage, scheduler.client))
        scratch = store is None and scheduler.client is not None
        if scratch:
            store = writable(stack.enter_context(scheduler.scratch()))
        run: MemoryRun | StoredRun = MemoryRun()
        if store is not None:
            run = StoredRun(
                store, problem, inputs.grid, overwrite=options.overwrite, features=inputs.features
            )
            problem, inputs = run.problem, inputs.seeded(run.problem.identity.seed)
        stack.callback(run.close)
        V = OpenMatrix(inputs.weighted(source), inputs.grid, scheduler)
        yield Session(problem, inputs, V, run, scratch)
