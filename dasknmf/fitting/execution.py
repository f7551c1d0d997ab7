"""The execution of a fit: passes are run and committed until all models have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from dask.utils import format_bytes
from msgspec import structs

from dasknmf.core.history import History, Record
from dasknmf.core.starts import survey
from dasknmf.core.state import FactorState
from dasknmf.data.source import nbytes_of
from dasknmf.errors import DataError, MemoryLimitError, NumericalError
from dasknmf.fitting.loop import Histories, Schedule, last_objective, record_of, start_passes, started
from dasknmf.fitting.memory import Projection, makes_tiles_dense, models_per_read, tile_bytes
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import PassRunner
from dasknmf.fitting.problem import Factor
from dasknmf.fitting.session import Session
from dasknmf.io.counts import counting
from dasknmf.store.factors import FactorVersion
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import ModelStatus, states_of
from dasknmf.store.schema import Plan

log = logging.getLogger("dasknmf")


@dataclass
class Execution:
    """The fit of several models to one V in the same reads.

    Parameters
    ----------
    session : Session
    models : sequence of Model
        Models with one kind of start and one loss.
    """

    session: Session
    models: Sequence[Model]

    def __post_init__(self) -> None:
        self.V, self.run = self.session.V, self.session.run

    def run_passes(self) -> None:
        """Run all passes after the last commit."""
        run, model, start = self.run, self.models[0], self.session.inputs.start
        try:
            per_read, projections = models_per_read(self.V, self.models, in_memory=isinstance(run, MemoryRun))
        except MemoryLimitError:
            if not run.progress.passes:
                run.discard()  # no run remains of models that cannot be fitted
            raise
        self._runner = PassRunner(self.V, run, model.dtype, per_read)
        if not run.progress.passes:
            models = tuple(map(ModelStatus, range(len(self.models))))
            run.progress = structs.replace(run.progress, models=models)
        if run.progress.outcome is None:
            run.plan(self._plan(projections))
        else:
            log.info("the run had ended before (%s); V is not read again", run.progress.outcome)
        self._warn_of_dense_tiles()
        n_starts = len(model.starts())
        with self.V.at_work() as self._runner.each, counting() as self._runner.retries:
            while run.progress.start < n_starts:
                self._run_start()
            if start is not None and not run.history.exact and not self._has_start():
                self._write_custom_start(*start)
            schedule, histories = self._schedule(), self._histories()
            after = schedule.resumed(run.progress, histories)
            if after.outcome is not None and run.progress.outcome is None:
                self.session.commit(after, None, run.sums)
            run.progress = after
            while run.progress.outcome is None:
                histories = self._advance(schedule, histories)

    def _schedule(self) -> Schedule:
        progress, problem = self.run.progress, self.session.problem
        # The last pass has no states of models that ended before.
        states = states_of(self.run.factors, [progress.location_of(status) for status in progress.models])
        rules = {
            status.model: self.models[status.model].stop_rule(problem.budget.tol, state)
            for status, state in zip(progress.models, states, strict=True)
        }
        halving = bool(problem.identity.model.halving)
        return Schedule(self.models, rules, problem.budget.max_iter, halving)

    def _histories(self) -> Histories:
        if len(self.models) == 1:
            return {0: self.run.history}
        own = self.run.history.by_model()
        return {status.model: own.get(status.model, History()) for status in self.run.progress.models}

    def _run_start(self) -> None:
        """Run and commit the next pass of the start."""
        at, model = self.run.progress, self.models[0]
        passes, shared = start_passes(self.models, at)
        source = self.V.source
        holdout = None if source.entries is None else source.entries.holdout
        try:
            result = self._runner(passes[:1] if shared else passes)
            survey.check(
                self.run.factors.read_state(result.name, 0),
                survey.Survey(model.shape, model.loss),
                model.dtype,
                sparse=source.sparse,
                advice=source.negatives_advice,
                transposed=holdout is not None and holdout.transposed,
            )
        except (DataError, NumericalError):
            if not at.passes:
                self.run.discard()  # no run remains of a V that was refused
            raise
        history = self.run.history
        record = record_of(
            result,
            passes[0].phases[0].name,
            0,
            result.models[0].outcomes[0],
            history.reads,
            last_objective(history),
        )
        self.session.commit(started(at, result, shared=shared), record, result.sums)

    def _has_start(self) -> bool:
        at = self.run.progress
        return isinstance(self.run.factors.read_state(at.state, at.models[0].leader), FactorState)

    def _write_custom_start(self, W: Factor, H: np.ndarray) -> None:
        """Write and commit a custom start: rows of W panel by panel, and H."""
        at, factors, dtype = self.run.progress, self.run.factors, self.models[0].dtype
        name = f"{at.passes}-{self.run.writer_id}"
        began = time.perf_counter()
        rows = FactorVersion.of(name, [{"W": self.models[0].k}])
        factors.begin(rows)
        written = 0
        for panel in self.V.grid:
            block = W[panel.start : panel.stop]
            block = block.compute() if isinstance(block, da.Array) else block
            block = np.array(block, dtype=dtype, order="C")
            factors.write_rows(rows, panel.index, block)
            written += block.nbytes
        surveyed = factors.read_state(at.state, 0)
        factors.write_states(name, 0, [FactorState.of(surveyed, H=np.array(H, dtype=dtype, order="C"))])
        seconds = time.perf_counter() - began
        reads = self.run.history.reads
        record = Record(0, "start", None, None, None, None, seconds, 0, written, reads)
        after = structs.replace(at, passes=at.passes + 1, state=name, rows=(rows,))
        self.session.commit(after, record, self.run.sums)

    def _advance(self, schedule: Schedule, histories: Histories) -> Histories:
        """Run and commit one pass: exact for unfinished models, an evaluation for those that just ended."""
        progress = self.run.progress
        result = self._runner(schedule.passes(progress))
        step = schedule.advanced(progress, histories, self.run.history, result)
        if step.undone:
            for version in result.rows:
                self.run.factors.drop(version.name)
        self.session.commit(step.progress, step.record, result.sums)
        return step.histories

    def _plan(self, projections: Sequence[Projection]) -> Plan:
        source, scheduler = self.V.source, self.V.scheduler
        return Plan(
            stored_dtype=source.dtype.str,
            stored_bytes=nbytes_of(source),
            sparse=source.sparse,
            panels=len(self.V.grid),
            scheduler=scheduler.name,
            processes=scheduler.processes,
            threads=scheduler.threads,
            memory_limit=scheduler.memory_limit,
            memory_projected=max(projection.peak for projection in projections),
        )

    def _warn_of_dense_tiles(self) -> None:
        model, source = self.models[0], self.V.source
        if makes_tiles_dense(model, sparse=source.sparse):
            log.warning(
                "X is sparse, and beta_loss = %g needs every entry of WH: parts of X are made dense in turn, "
                "in %s per thread; 'kullback-leibler' and 'frobenius' need only the nonzeros",
                model.loss.beta,
                format_bytes(tile_bytes(source, model.dtype, model.k, dense_tiles=True)),
            )
