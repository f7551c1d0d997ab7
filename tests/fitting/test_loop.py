"""Decisions of a fit from outcomes alone, without reads or writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from dasknmf import NMF
from dasknmf.core.history import History, Stop
from dasknmf.core.phase import Outcome
from dasknmf.engine.accounting import PassStats
from dasknmf.fitting.decide import decide
from dasknmf.fitting.loop import Schedule
from dasknmf.fitting.passes import ModelResult, PassResult
from dasknmf.fitting.problem import FitOptions
from dasknmf.store.progress import ModelStatus, Progress


class Rule:
    """Ends a fit after so many records."""

    def __init__(self, after=10**6, at="end"):
        self.after, self.at = after, at

    def decide(self, history):
        return Stop(self.at) if len(history) >= self.after else None


def schedule_of(count, *, max_iter=100, halving=False, rules=None, **parameters):
    nmf = NMF(2, **({"init": "random", "random_state": 0} | parameters))
    inputs = decide(nmf, np.ones((6, 4)), FitOptions())
    rules = rules or {number: Rule() for number in range(count)}
    return Schedule(inputs.restarted(count), rules, max_iter, halving)


class Position:
    """Where a fit stands, moved by what passes are said to have achieved."""

    def __init__(self, schedule, count):
        self.schedule = schedule
        statuses = tuple(ModelStatus(number, (number,), number) for number in range(count))
        self.progress = Progress(2, 2, 0, "1-start", (), statuses)
        self.histories = {number: History() for number in range(count)}
        self.shared = History()

    def advance(self, objectives, loss_at="end"):
        passes = self.schedule.passes(self.progress)
        models = []
        for index, part in enumerate(passes):
            objective = objectives[part.status.model]
            models.append(ModelResult(part, (index,), (Outcome(objective, objective, loss_at),)))
        name = f"{self.progress.passes}-x"
        result = PassResult(name, (), tuple(models), PassStats(), 0.0, 1, None)
        step = self.schedule.advanced(self.progress, self.histories, self.shared, result)
        self.progress, self.histories = step.progress, step.histories
        self.shared = self.shared.plus(step.record)
        return step


def test_a_fit_ends_with_its_budget():
    position = Position(schedule_of(1, max_iter=2), 1)
    position.advance([5.0])
    assert position.progress.outcome is None
    step = position.advance([4.0])
    assert step.progress.outcome == "max_iter"
    assert step.progress.location.state == "3-x"
    assert step.record.change == pytest.approx(0.2)
    assert not step.undone


def test_a_loss_of_the_pair_that_entered_asks_for_an_evaluation():
    position = Position(schedule_of(1, max_iter=1, beta_loss=1, solver="mu"), 1)
    step = position.advance([5.0], loss_at="entry")
    assert step.progress.outcome is None
    assert step.progress.models[0].outcome == "max_iter"
    (evaluation,) = position.schedule.passes(position.progress)
    assert evaluation.phases[0].name == "evaluation"
    step = position.advance([4.0])
    assert step.progress.outcome == "max_iter"
    assert step.progress.location.state == "2-x"  # an evaluation leaves the pair as it is
    assert step.undone


def test_a_pair_that_entered_may_be_the_result():
    position = Position(schedule_of(1, rules={0: Rule(2, "entry")}, beta_loss=1, solver="mu"), 1)
    position.advance([5.0], loss_at="entry")
    step = position.advance([4.99], loss_at="entry")
    assert step.progress.outcome == "converged"
    assert step.progress.iteration == 1
    assert step.progress.location.state == "2-x"
    assert step.record.phase == "evaluation"
    assert step.undone


def test_the_higher_half_is_given_up_after_four_passes():
    position = Position(schedule_of(4, halving=True), 4)
    for _ in range(3):
        position.advance([4.0, 3.0, 2.0, 1.0])
    assert len(position.progress.models) == 4
    position.advance([4.0, 3.0, 2.0, 1.0])
    assert [status.model for status in position.progress.models] == [2, 3]
    assert position.progress.best.model == 3


def test_models_end_by_themselves_and_the_lowest_is_the_result():
    position = Position(schedule_of(2, max_iter=3, rules={0: Rule(1), 1: Rule()}), 2)
    step = position.advance([2.0, 5.0])
    assert [status.outcome for status in step.progress.models] == ["converged", None]
    for objective in (3.0, 1.0):
        assert [each.status.model for each in position.schedule.passes(position.progress)] == [1]
        step = position.advance([None, objective])
    assert step.progress.outcome == "max_iter"
    assert step.progress.best.model == 1
    assert [advance.model for advance in step.record.models] == [1]


def test_another_budget_takes_an_end_back():
    position = Position(schedule_of(1, max_iter=1), 1)
    position.advance([5.0])
    ended = structs.replace(position.progress, outcome=None)  # as a run is resumed with another budget
    longer = replace(position.schedule, max_iter=5)
    resumed = longer.resumed(ended, position.histories)
    assert resumed.outcome is None
    assert resumed.models[0].outcome is None
    assert len(longer.passes(resumed)) == 1
    assert position.schedule.resumed(ended, position.histories).outcome == "max_iter"
