"""A fit: the phases of models, run over V one pass after another, each of them committed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import format_bytes

from dasknmf.core.history import Advance, Callback, Ending, History, Record, Stop, rivals
from dasknmf.core.phase import Outcome
from dasknmf.core.starts import survey
from dasknmf.data.source import nbytes_of
from dasknmf.engine.memory import Projection
from dasknmf.errors import DataError, NumericalError
from dasknmf.fitting.memory import makes_tiles_dense, models_per_read, tile_bytes
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, OpenMatrix, PassResult, PassRunner
from dasknmf.io.retry import counted
from dasknmf.store.factors import FactorVersion
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import FactorLocation, ModelStatus, Progress, height, states_of
from dasknmf.store.stored_run import StoredRun

log = logging.getLogger("dasknmf")

_FIRST_HALVING = 4
"""Exact passes after which the first half of the starts is given up; then after twice as many, and so on."""


@dataclass
class Fit:
    """Models fitted to one V, in the same reads.

    Parameters
    ----------
    models : sequence of Model
        Of one start and one loss.
    V : OpenMatrix
    run : MemoryRun or StoredRun
    max_iter : int
        Most exact passes, those of earlier sessions of the run included.
    tol : float
        Of the stop rule.
    given : tuple of arrays or None
        Rows of W, shape (n_samples, k), NumPy or Dask, and H, for ``init="custom"``.
    callbacks : sequence of callable
        Called with the new `Record` after each pass.
    halving : bool
        Whether half of the models, those with the higher objectives, are given up after 4, 8, 16, … passes.
    """

    models: Sequence[Model]
    V: OpenMatrix
    run: MemoryRun | StoredRun
    max_iter: int
    tol: float
    given: tuple[Any, np.ndarray] | None = None
    callbacks: Sequence[Callback] = ()
    halving: bool = False

    def __call__(self) -> None:
        """Run to the end, from wherever the run stands."""
        self._model = self.models[0]
        n_starts = len(self._model.starts())
        run = self.run
        per_read, projections = models_per_read(self.V, self.models, in_memory=isinstance(run, MemoryRun))
        self._reads = PassRunner(self.V, run, self._model.dtype, per_read)
        if not run.progress.passes:
            run.progress = replace(run.progress, models=tuple(map(ModelStatus, range(len(self.models)))))
        if run.progress.outcome is None:
            run.plan(self._planned(projections))
        if makes_tiles_dense(self._model, sparse=self.V.source.sparse):
            log.warning(
                "X is sparse, and beta_loss = %g needs every entry of WH: tiles of X are made dense, in %s "
                "of buffers for each thread; 'kullback-leibler' and 'frobenius' need only the nonzeros",
                self._model.loss.beta,
                format_bytes(tile_bytes(self.V.source, self._model.dtype, self._model.k, dense_tiles=True)),
            )
        several = len(self.models) > 1
        histories = run.history.by_model()
        self._own: dict[int, History] = {
            member.model: histories.get(member.model, History()) if several else run.history
            for member in run.progress.models
        }
        with self.V.at_work() as self._reads.each, counted() as retries:
            self._reads.retries = retries
            while run.progress.start < n_starts:
                self._start()
            if self.given is not None and not run.history.exact and not self._placed():
                self._place(self.given)
            # The last pass has no state of a member that ended before.
            members = run.progress.models
            states = states_of(run.factors, [run.progress.location_of(member) for member in members])
            self._rules = {
                member.model: self.models[member.model].stop_rule(self.tol, state)
                for member, state in zip(members, states, strict=True)
            }
            self._resume()
            while run.progress.outcome is None:
                self._advance()

    @property
    def _hides_columns(self) -> bool:
        """Whether V's rows, of which entries are hidden, are columns of X."""
        entries = self.V.source.entries
        return entries is not None and entries.holdout is not None and entries.holdout.transposed

    def _start(self) -> None:
        """The next pass before the first exact one."""
        at = self.run.progress
        lineups = [self.models[member.model].starts()[at.start] for member in at.models]
        alike = at.start == 0 and self._model.surveyed_alone
        turns = [ModelPass(*each) for each in zip(at.models, lineups, strict=True)]
        try:
            passed = self._reads(turns[:1] if alike else turns)
            survey.check(
                self.run.factors.read_state(passed.name, 0),
                self._model.loss,
                self._model.shape,
                self._model.dtype,
                sparse=self.V.source.sparse,
                advice=self.V.source.negatives_advice,
                transposed=self._hides_columns,
            )
        except (DataError, NumericalError):
            if not at.passes:
                self.run.discard()  # a V that was refused leaves no run behind
            raise
        phase_indices = passed.phase_indices * len(turns) if alike else passed.phase_indices
        members = (
            replace(member, phase_indices=each, leader=each[0])
            for member, each in zip(at.models, phase_indices, strict=True)
        )
        record = self._record(passed, turns[0], 0, passed.outcomes[0][0], self.run.history)
        after = replace(
            at,
            passes=at.passes + 1,
            start=at.start + 1,
            state=passed.name,
            rows=passed.rows or at.rows,
            models=tuple(members),
        )
        self._commit(after, record, passed.sums)

    def _placed(self) -> bool:
        at = self.run.progress
        return "H" in self.run.factors.read_state(at.state, at.models[0].leader)

    def _place(self, given: tuple[Any, np.ndarray]) -> None:
        """Commit a custom start: rows of W panel by panel, and H."""
        at = self.run.progress
        name = f"{at.passes}-{self.run.writer_id}"
        began = time.perf_counter()
        W, H = given
        rows = FactorVersion.of(name, [{"W": self._model.k}])
        self.run.factors.begin(rows)
        written = 0
        for panel in self.V.grid:
            block = W[panel.start : panel.stop]
            block = block.compute() if isinstance(block, da.Array) else block
            block = np.array(block, dtype=self._model.dtype, order="C")
            self.run.factors.write_rows(rows, panel.index, block)
            written += block.nbytes
        H = np.array(H, dtype=self._model.dtype, order="C")
        surveyed = self.run.factors.read_state(at.state, 0)
        self.run.factors.write_states(name, 0, [surveyed | {"H": H}])
        seconds = time.perf_counter() - began
        reads = self.run.history.reads
        record = Record(0, "start", None, None, None, None, seconds, 0, written, reads)
        after = replace(at, passes=at.passes + 1, state=name, rows=(rows,))
        self._commit(after, record, self.run.sums)

    def _resume(self) -> None:
        """Models whose end this budget brings, or takes back, since the last commit."""
        at = self.run.progress
        if at.outcome is not None or not at.iteration:
            return
        members = []
        for member in at.models:
            if member.location is None or member.location.state == at.state:
                own = self._own[member.model]
                ended = self._ended(member.model, own, member.iteration)
                member = replace(member, outcome=None if ended is None else ended.value, location=None)
                if ended is not None and self._tells(own[-1]):
                    member = replace(member, location=at.location_of(member))
            members.append(member)
        after = replace(at, models=tuple(members)).closed()
        if after.outcome is not None:
            self._commit(after, None, self.run.sums)
        self.run.progress = after

    def _advance(self) -> None:
        """One pass: exact for the models that go on, closing for those that ended with the last."""
        at = self.run.progress
        turns = []
        for member in at.models:
            model = self.models[member.model]
            if member.outcome is None:
                turns.append(ModelPass(member, model.lineup(member.iteration)))
            elif member.location is None:
                turns.append(ModelPass(replace(member, phase_indices=(member.leader,)), (model.closing(),)))
        passed = self._reads(turns)
        members = {member.model: member for member in at.models}
        advances = []
        for turn, phase_indices, outcomes in zip(turns, passed.phase_indices, passed.outcomes, strict=True):
            member, own = self._moved(turn, passed, phase_indices, outcomes)
            members[member.model] = member
            self._own[member.model] = self._own[member.model].plus(own)
            advances.append(_advance_of(member.model, own))
        going = [member for member in members.values() if _lies_in(member, passed.name)]
        if not going:
            # The pairs that entered are the answers: undo their moves.
            self.run.forget(passed.rows)
        iteration = max((member.iteration for member in members.values()), default=0)
        after = replace(
            at,
            passes=at.passes + 1,
            iteration=iteration,
            state=passed.name if going else at.state,
            rows=passed.rows if going else at.rows,
            models=tuple(members.values()),
        )
        after = (self._halved(after) if iteration > at.iteration else after).closed()
        record = self._own[after.best.model][-1]
        if len(self.models) > 1:
            record = self._shared_record(passed, after, record, advances)
        self._commit(after, record, passed.sums)

    def _moved(
        self,
        turn: ModelPass,
        passed: PassResult,
        phase_indices: tuple[int, ...],
        outcomes: tuple[Outcome, ...],
    ) -> tuple[ModelStatus, Record]:
        """A model after its part in a pass, and its own record of it."""
        at, member = self.run.progress, turn.status
        own = self._own[member.model]
        leader = min(
            range(len(phase_indices)), key=lambda phase_index: height(outcomes[phase_index].objective)
        )
        best = outcomes[leader]
        if member.outcome is not None:
            record = self._record(passed, turn, member.iteration, best, own)
            return replace(member, location=at.location_of(member), objective=record.objective), record
        if len(phase_indices) > 1:
            best = replace(best, measures=best.measures | rivals(height(each.objective) for each in outcomes))
        record = self._record(passed, turn, member.iteration + 1, best, own)
        model = self.models[member.model]
        rivalry = len(model.lineup(member.iteration + 1)) > 1
        stop = None if rivalry else self._rules[member.model].decide(own.plus(record))
        if stop is not None and stop.at == "entry":
            # The pair that entered is the answer, and this pass has evaluated it.
            record = replace(record, phase="closing", iteration=member.iteration)
            entered = replace(member, leader=turn.starts_from[leader])
            entered = replace(entered, outcome=Ending.CONVERGED.value, location=at.location_of(entered))
            return replace(entered, objective=record.objective), record
        member = replace(
            member,
            iteration=member.iteration + 1,
            phase_indices=phase_indices if rivalry else (phase_indices[leader],),
            leader=phase_indices[leader],
            objective=record.objective,
        )
        ended = self._ended(member.model, own.plus(record), member.iteration)
        if ended is not None:
            rows = next((each for each in passed.rows if member.leader in each.models), None)
            told = self._tells(record)
            answer = FactorLocation(passed.name, member.leader, rows) if told else None
            member = replace(member, outcome=ended.value, location=answer)
        return member, record

    def _halved(self, after: Progress) -> Progress:
        """Without the higher half of the models, where it is time."""
        rounds = math.log2(after.iteration / _FIRST_HALVING)
        if not self.halving or rounds < 0 or rounds != int(rounds):
            return after
        kept = sorted(after.models, key=lambda member: height(member.objective))
        kept = kept[: -(-len(kept) // 2)]
        return replace(after, models=tuple(member for member in after.models if member in kept))

    def _record(
        self, passed: PassResult, turn: ModelPass, iteration: int, outcome: Outcome, history: History
    ) -> Record:
        return Record(
            iteration,
            turn.phases[0].name,
            outcome.loss,
            outcome.objective,
            outcome.loss_at,
            _change(outcome.objective, history),
            passed.seconds,
            passed.stats.bytes_read,
            passed.stats.bytes_written,
            self.run.history.reads + passed.reads,
            outcome.measures,
            passed.stats.memory,
            retries=passed.stats.retries,
        )

    def _shared_record(
        self, passed: PassResult, after: Progress, best: Record, advances: Sequence[Advance]
    ) -> Record:
        """What a pass of several models is told by: the lowest of them, whether it took part or not."""
        exact = any(advance.phase == "exact" for advance in advances)
        return replace(
            best,
            iteration=after.iteration,
            phase="exact" if exact else "closing",
            change=_change(best.objective, self.run.history),
            seconds=passed.seconds,
            bytes_read=passed.stats.bytes_read,
            bytes_written=passed.stats.bytes_written,
            reads=self.run.history.reads + passed.reads,
            memory=passed.stats.memory,
            models=tuple(advances),
            retries=passed.stats.retries,
        )

    def _commit(self, position: Progress, record: Record | None, sums: tuple[float, ...] | None) -> None:
        self.run.commit(position, record, sums)
        if record is not None:
            if len(self.models) == 1:
                self._own = {0: self.run.history}
            for callback in self.callbacks:
                callback(record)

    def _ended(self, model: int, own: History, iteration: int) -> Ending | None:
        """Whether a model's fit is over after this history, as that and the budget alone decide."""
        if self._rules[model].decide(own) == Stop("end"):
            return Ending.CONVERGED
        return Ending.MAX_ITER if iteration >= self.max_iter else None

    def _tells(self, record: Record) -> bool:
        """Whether a record's loss is that of the pair which stands after it.

        That over what is hidden a pass only knows of the pair that entered.
        """
        if record.phase == "closing":
            return True
        known = record.loss_at == "end" and not record.measures.get("imprecise")
        return known and not self._model.variant.hidden

    def _planned(self, projections: Sequence[Projection]) -> dict[str, Any]:
        """The storage of V, and the processes and memory of its passes: for reports."""
        source, scheduler = self.V.source, self.V.scheduler
        return {
            "stored_dtype": source.dtype.str,
            "stored_bytes": nbytes_of(source),
            "sparse": source.sparse,
            "panels": len(self.V.grid),
            "scheduler": scheduler.name,
            "processes": scheduler.processes,
            "threads": scheduler.threads,
            "memory_limit": scheduler.memory_limit,
            "memory_projected": max(projection.peak for projection in projections),
        }


def _change(objective: float | None, history: History) -> float | None:
    """Relative decrease since the last record that has an objective."""
    before = next((past.objective for past in reversed(history) if past.objective is not None), None)
    return (before - objective) / before if objective is not None and before else None


def _advance_of(model: int, record: Record) -> Advance:
    return Advance(
        model,
        record.iteration,
        record.phase,
        record.loss,
        record.objective,
        record.loss_at,
        record.measures,
    )


def _lies_in(member: ModelStatus, name: str) -> bool:
    """Whether a member goes on from the pass of that name, or ended with it."""
    if member.location is not None:
        return member.location.state == name
    return True


def logged(record: Record) -> None:
    """A callback: one line per pass."""
    log.info(
        "%s %d: objective %s, %.2f s, %s read, %g reads of V so far",
        record.phase,
        record.iteration,
        record.objective,
        record.seconds,
        format_bytes(record.bytes_read),
        record.reads,
    )
