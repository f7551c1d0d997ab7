"""Decisions of a fit: the phases of each model in the next pass, and the status of each model afterwards.

Nothing here reads V or writes a run: decisions follow from histories and outcomes, so that a resumed run
decides as an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dask.utils import format_bytes
from msgspec import structs

from dasknmf.core.history import Ending, History, ModelRecord, Record, Stop, StopRule, rivals
from dasknmf.core.phase import Outcome
from dasknmf.core.text import counted, objectives_named, pass_named
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import ModelPass, ModelResult, PassResult
from dasknmf.store.progress import FactorLocation, ModelStatus, Progress, objective_key

log = logging.getLogger("dasknmf")

_FIRST_HALVING = 4
"""Number of exact passes after which half of the starts are dropped; it doubles each time."""
Histories = Mapping[int, History]
"""The records of each model, by its number."""


@dataclass(frozen=True)
class Step:
    """The progress of a fit after a pass."""

    progress: Progress
    record: Record
    histories: Histories
    undone: bool
    """Whether the W of this pass is dropped, since the results are the W and H that entered it."""


@dataclass(frozen=True)
class Schedule:
    """The decisions of a fit of several models to one V.

    Parameters
    ----------
    models : sequence of Model
        Models with one kind of start and one loss.
    rules : mapping of int to StopRule
        The stop rule of each model that has not been dropped.
    max_iter : int
        Largest number of exact passes, those of earlier sessions of the run included.
    halving : bool
        Whether half of the models, those with the higher objectives, are dropped after 4, 8, 16, … passes.
    """

    models: Sequence[Model]
    rules: Mapping[int, StopRule]
    max_iter: int
    halving: bool = False

    def passes(self, progress: Progress) -> list[ModelPass]:
        """The next pass: exact for unfinished models, an evaluation for those that just ended."""
        passes = []
        for status in progress.models:
            model = self.models[status.model]
            if status.outcome is None:
                passes.append(ModelPass(status, model.exact_phases(status.iteration)))
            elif status.location is None:
                passes.append(
                    ModelPass(structs.replace(status, phase_indices=(status.leader,)), (model.evaluation(),))
                )
        return passes

    def resumed(self, progress: Progress, histories: Histories) -> Progress:
        """The progress under a new `max_iter` and `tol`, which may end models or resume ended ones."""
        if progress.outcome is not None or not progress.iteration:
            return progress
        statuses = []
        for status in progress.models:
            if _is_current(status, progress.state):
                own = histories[status.model]
                ended = self._ended(status.model, own, status.iteration)
                status = structs.replace(
                    status, outcome=None if ended is None else ended.value, location=None
                )
                if ended is not None and self._evaluates(own[-1]):
                    status = structs.replace(status, location=progress.location_of(status))
            statuses.append(status)
        return structs.replace(progress, models=tuple(statuses)).with_outcome()

    def advanced(self, progress: Progress, histories: Histories, shared: History, result: PassResult) -> Step:
        """The progress, records and histories after a pass.

        Parameters
        ----------
        progress : Progress
            The progress before the pass.
        histories : mapping of int to History
            The history of each model.
        shared : History
            The history of the run.
        result : PassResult
            The result of the pass that `passes` returned.
        """
        statuses = {status.model: status for status in progress.models}
        histories = dict(histories)
        advances = []
        for own in result.models:
            number = own.part.status.model
            record = self._record(own, histories[number], result, shared.reads)
            statuses[number], record = self._advanced(progress, own, histories[number], record, result)
            histories[number] = histories[number].plus(record)
            advances.append(ModelRecord(model=number, **record.achieved))
        going = any(_is_current(status, result.name) for status in statuses.values())
        iteration = max((status.iteration for status in statuses.values()), default=0)
        after = structs.replace(
            progress,
            passes=progress.passes + 1,
            iteration=iteration,
            state=result.name if going else progress.state,
            rows=result.rows if going else progress.rows,
            models=tuple(statuses.values()),
        )
        after = (self._halved(after) if iteration > progress.iteration else after).with_outcome()
        record = histories[after.best.model][-1]
        if len(self.models) > 1:
            record = _shared_record(record, iteration, advances, result, shared)
        return Step(after, record, histories, not going)

    def _record(self, own: ModelResult, history: History, result: PassResult, reads: float) -> Record:
        """The record of a model in a pass: that of its phase with the lowest objective."""
        status, outcomes = own.part.status, own.outcomes
        best = outcomes[own.leader]
        if len(outcomes) > 1:
            objectives = rivals(objective_key(each.objective) for each in outcomes)
            best = replace(best, measures=best.measures | objectives)
        iteration = status.iteration + (status.outcome is None)
        return record_of(result, own.part.phases[0].name, iteration, best, reads, last_objective(history))

    def _advanced(
        self, progress: Progress, own: ModelResult, history: History, record: Record, result: PassResult
    ) -> tuple[ModelStatus, Record]:
        """The status of a model after a pass, and the record of the model in the pass."""
        status, numbers = own.part.status, own.phase_indices
        if status.outcome is not None:
            location = progress.location_of(status)
            return structs.replace(status, location=location, objective=record.objective), record
        rivalry = len(self.models[status.model].exact_phases(record.iteration)) > 1
        stop = None if rivalry else self.rules[status.model].decide(history.plus(record))
        if stop is not None and stop.at == "entry":
            # The result is the W and H that entered; this pass has evaluated them.
            record = replace(record, phase="evaluation", iteration=status.iteration)
            status = structs.replace(
                status, leader=own.part.starts_from[own.leader], objective=record.objective
            )
            status = structs.replace(status, outcome=Ending.CONVERGED.value)
            return structs.replace(status, location=progress.location_of(status)), record
        leader = numbers[own.leader]
        status = structs.replace(
            status,
            iteration=record.iteration,
            phase_indices=numbers if rivalry else (leader,),
            leader=leader,
            objective=record.objective,
        )
        ended = self._ended(status.model, history.plus(record), record.iteration)
        if ended is not None:
            status = structs.replace(status, outcome=ended.value)
            if self._evaluates(record):
                rows = next((each for each in result.rows if leader in each.models), None)
                status = structs.replace(status, location=FactorLocation(result.name, leader, rows))
        return status, record

    def _ended(self, number: int, own: History, iteration: int) -> Ending | None:
        """The ending of a model by its history, `tol` and `max_iter`; None if it has not ended."""
        if self.rules[number].decide(own) == Stop("end"):
            return Ending.CONVERGED
        return Ending.MAX_ITER if iteration >= self.max_iter else None

    def _evaluates(self, record: Record) -> bool:
        """Whether the loss of a record is that of the W and H after the pass."""
        if record.phase == "evaluation":
            return True
        known = record.loss_at == "end" and not record.measures.get("imprecise")
        # A pass computes the loss over hidden entries only for the W and H that entered.
        return known and not self.models[0].variant.hidden

    def _halved(self, after: Progress) -> Progress:
        """The progress without the half of the models with the higher objectives, at passes 4, 8, 16, …"""
        rounds = math.log2(after.iteration / _FIRST_HALVING)
        if not self.halving or rounds < 0 or rounds != int(rounds):
            return after
        kept = sorted(after.models, key=lambda status: objective_key(status.objective))
        kept = kept[: -(-len(kept) // 2)]
        return structs.replace(after, models=tuple(status for status in after.models if status in kept))


def start_passes(models: Sequence[Model], progress: Progress) -> tuple[list[ModelPass], bool]:
    """The next pass of the start, and whether one phase of this pass serves all models."""
    passes = [ModelPass(status, models[status.model].starts()[progress.start]) for status in progress.models]
    return passes, progress.start == 0 and models[0].surveyed_alone


def started(progress: Progress, result: PassResult, *, shared: bool) -> Progress:
    """The progress after a pass of the start; `shared`: one phase of the pass served all models."""
    count = len(progress.models)
    numbers = [own.phase_indices for own in result.models] * (count if shared else 1)
    statuses = (
        structs.replace(status, phase_indices=own, leader=own[0])
        for status, own in zip(progress.models, numbers, strict=True)
    )
    return structs.replace(
        progress,
        passes=progress.passes + 1,
        start=progress.start + 1,
        state=result.name,
        rows=result.rows or progress.rows,
        models=tuple(statuses),
    )


def record_of(
    result: PassResult,
    phase: str,
    iteration: int,
    outcome: Outcome,
    reads: float,
    before: float | None = None,
) -> Record:
    """The record of a pass.

    Parameters
    ----------
    result : PassResult
    phase : str
    iteration : int
    outcome : Outcome
    reads : float
        Number of reads of V before the pass.
    before : float or None
        The last objective before the pass.
    """
    objective = outcome.objective
    return Record(
        iteration,
        phase,
        outcome.loss,
        objective,
        outcome.loss_at,
        (before - objective) / before if objective is not None and before else None,
        result.seconds,
        result.stats.bytes_read,
        result.stats.bytes_written,
        reads + result.reads,
        result.stats.memory,
        measures=outcome.measures,
        retries=result.stats.retries,
    )


def _shared_record(
    best: Record, iteration: int, advances: Sequence[ModelRecord], result: PassResult, shared: History
) -> Record:
    """The record of a pass of several models: that of the model with the lowest objective."""
    phase = "exact" if any(advance.phase == "exact" for advance in advances) else "evaluation"
    outcome = Outcome(best.loss, best.objective, best.loss_at, best.measures)
    record = record_of(result, phase, iteration, outcome, shared.reads, last_objective(shared))
    return replace(record, models=tuple(advances))


def last_objective(history: History) -> float | None:
    return next((past.objective for past in reversed(history) if past.objective is not None), None)


def _is_current(status: ModelStatus, name: str) -> bool:
    """Whether a model is unfinished, or its final factors are those of the pass `name`."""
    return status.location is None or status.location.state == name


def log_pass(record: Record) -> None:
    """A callback that shows one line for each pass: in the log if it shows such lines, else on stdout."""
    achieved = "" if record.objective is None else f"objective {record.objective:.8g}, "
    if record.models:
        achieved = f"{objectives_named([each.objective for each in record.models])}, "
    line = (
        f"{pass_named(record.phase, record.iteration)}: {achieved}{record.seconds:.2f} s, "
        f"{format_bytes(record.bytes_read)} read, {counted(record.reads, 'read')} of V so far"
    )
    if log.isEnabledFor(logging.INFO) and log.hasHandlers():
        log.info("%s", line)
    else:
        sys.stdout.write(f"{line}\n")
