"""The fit of H to rows of V in memory, until convergence, so that V itself is read only a few times.

Several starts are fitted to a part of the rows; after each round the half with the lower objectives
continues, and the last one runs until convergence, on the part and then on all rows. Where the part is all
rows, all starts run, with a number of passes that follows from sizes; those that would not reach the best one
end, and the best continues alone.

A quadratic loss runs exact alternation by coordinate descent. Any other is first made quadratic: with v near
r_i c_j, the row and column means, D is near ½ Σ (r_i c_j)^{β−2} (v − p)², the Frobenius loss of a V whose
rows and columns are scaled. That converges in tens of cheap passes, and passes of the loss itself finish.
Measured for β = 1 against 200 multiplicative passes: words 2 to 4 % lower, a slowly decaying spectrum 3 %
lower, gene counts within 0.5 % either way by draw, which is why starts are compared by their own loss.

References
----------
.. [1] O'Donoghue, B., & Candès, E. (2015). Adaptive restart for accelerated gradient schemes. Foundations
   of Computational Mathematics, 15(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import joblib
import numpy as np

from dasknmf.core.blocks import EntryWeights, PanelSpec, block_of, matrix
from dasknmf.core.blocks.base import Block
from dasknmf.core.blocks.lowrank import LowRankBlock
from dasknmf.core.blocks.matrix import Matrix
from dasknmf.core.history import exact_loss
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties, Penalty
from dasknmf.core.phase import Map, Phase, Rows, Tally, Visitor, add, visit
from dasknmf.core.solvers import first_W
from dasknmf.core.solvers.inner_steps import FLOPS_PER_BYTE, STEP_FLOPS, Inner
from dasknmf.core.solvers.quadratic import SUM_WEIGHT, QuadraticPass
from dasknmf.core.solvers.table import SOLVERS, Solver
from dasknmf.core.solvers.variant import Variant
from dasknmf.core.starts import random_start
from dasknmf.core.starts.nndsvd import Projection, RangeFinder, SignNorms, sketch_width
from dasknmf.core.starts.survey import Survey
from dasknmf.core.state import FactorState, SingularState, State
from dasknmf.errors import NumericalError

_DESCENT = SOLVERS["cd"]
_DRAWS = 4
"""Random starts. Where the part is all of the rows, all starts race: all of five seeds found the lowest
minimum of the handwritten digits (Frobenius loss); with two in the race, three of them."""
_ROUNDS, _RATIO_ROUNDS = (4, 8, 16), (2,)
"""Passes of every start on a part of the rows before the half with the lower objectives goes on: for the
Frobenius loss; for others, where a pass costs more and the scaled rows have been fitted before."""
_PART_BYTES, _PART_ROWS = 2**23, 64
"""Starts are compared on about 8 MiB of the rows, as long as those are 64 for each component."""
_SCALED_PASSES = 15
"""More passes fit the scaled rows better, but made the loss worse on gene counts."""
_SAVED_READS = {True: 100, False: 30}
"""Exact passes over V that a converged trial saves, for the Frobenius loss and for others: the passes over a
part, those of all starts, and those of the best alone each take no more flops than they would."""
_LEAST_PASSES, _MOST_PASSES = 20, 2000
_ROW_FLOPS, _PAIR_FLOPS = 1000, 20
"""Flops in the time that the update of a row takes, whatever the number of features: for each component, and
for each pair of components."""
_PASS_FLOPS = 4e7
"""Flops in the time that a pass takes whatever its rows, most of a millisecond."""
_FREE_FLOPS = 5e10
"""A trial may always take so many flops, about a second: for a small V, to compare starts is worth it."""
_TOL = {True: 1e-6, False: 1e-5}
"""Gains of a pass, relative to the objective, at which a trial has converged: for the Frobenius loss, and for
others, where a pass costs more."""
_WINDOW, _LAST_WINDOW = 10, 3
"""Passes over which gains are averaged: in descent, where they vary; for other losses, and for descent on all
rows after a part of them."""
_STRETCH, _STRETCHES = 20, 10
"""Passes in a stretch of the race of finalists, and number of stretches: after each stretch, those end that
would not reach the best objective in ten more with the gain of the last. An exact fit ends the race."""
_BLOCK_BYTES = 2**22
"""Bytes of the rows that one thread walks."""
LINES_AT_ONCE = 4 * (_DRAWS + 1)
"""Copies of packed products of all features while starts are compared: of each its H, two tallies, a step."""
_LEAST_MEAN = 1e-2
"""Row and column means are at least this share of V's mean: weights of smaller ones would dominate."""


@dataclass(frozen=True)
class _Rows:
    """Rows V, or those of V Qᵀ where Q is given, and the mean that H is scaled by."""

    V: Matrix
    mean: float
    Q: np.ndarray | None = None


@dataclass(frozen=True)
class Fitted:
    """The result of a trial."""

    H: np.ndarray
    objective: float
    loss: float
    """The loss in `objective`; for losses other than Frobenius, that at the start of the pass."""


@dataclass(frozen=True)
class _Limit:
    """The end of a course: an exact fit, or small gains."""

    floor: float
    """The loss of an exact fit."""
    tol: float
    """The course has converged if its last passes lowered the objective by at most this share on average."""
    window: int
    """Number of these last passes."""


class _Course:
    """Passes over rows in memory from one start.

    For losses whose updates are not over-relaxed, H may be extrapolated between passes, by Nesterov's
    sequence of steps, which begins anew whenever the objective rises [1]_.
    """

    def __init__(
        self,
        phase: Phase,
        blocks: Sequence[Block | LowRankBlock],
        state: FactorState,
        limit: _Limit,
        *,
        extrapolates: bool = False,
    ) -> None:
        self.n_rows = sum(block.n_rows for block in blocks)
        self._phase = phase
        self._blocks = blocks
        self._state = state
        self._limit = limit
        self._extrapolates = extrapolates
        k = len(state.entering_H)
        self._rows = [{"W": np.zeros((block.n_rows, k), state.entering_H.dtype)} for block in blocks]
        self._objectives: list[float] = []
        self._H: np.ndarray | None = None
        """H after the last pass."""
        self._count = 1
        """Passes since the sequence began."""
        self.best = Fitted(state.entering_H, math.inf, math.inf)

    def advance(self, each: Map, most: int) -> None:
        """Make up to `most` passes, until convergence."""
        for _ in range(most):
            if self.converged:
                return
            tally = _walked(each, self._phase, self._state, self._blocks, self._rows)
            with np.errstate(all="ignore"):  # the engine's setting does not apply to the threads of starts
                state, outcome = self._phase.update(tally, self._state)
            state = FactorState.checked(state)
            objective = float(outcome.objective or 0.0)
            # Rounding may make such a loss zero; from the next pass on it is summed from residuals.
            imprecise = outcome.loss_at == "end" and bool(outcome.measures.get("imprecise"))
            if objective <= self.best.objective and not imprecise:
                self.best = Fitted(state.factor, objective, float(outcome.loss or 0.0))
            rose = bool(self._objectives) and objective > self._objectives[-1]
            self._objectives.append(objective)
            self._state = self._extrapolated(state, rose=rose)

    def _extrapolated(self, state: FactorState, *, rose: bool) -> FactorState:
        before, self._H = self._H, state.factor
        self._count = 1 if rose or before is None else self._count + 1
        if not self._extrapolates or before is None or self._count == 1:
            return state
        momentum = (self._count - 1) / (self._count + 2)
        H = np.maximum(self._H + momentum * (self._H - before), 0)
        return FactorState.of(state, H=H.astype(before.dtype, copy=False))

    def may_reach(self, objective: float, gain: float) -> bool:
        """Whether the course would reach an objective in `_STRETCHES` stretches that each gain `gain`."""
        return self.best.objective - objective <= _STRETCHES * gain

    @property
    def exact(self) -> bool:
        """Whether the loss is that of an exact fit."""
        return self.best.loss <= self._limit.floor

    @property
    def converged(self) -> bool:
        """Whether the fit is exact, or the last gains are small."""
        if self.exact:
            return True
        window = self._limit.window
        if len(self._objectives) <= window:
            return False
        now = min(self._objectives)
        return min(self._objectives[:-window]) - now <= window * self._limit.tol * abs(now)


@dataclass(frozen=True)
class Trial:
    """The fit of H to rows in memory.

    Parameters
    ----------
    k : int
    dtype : numpy.dtype
    loss : Loss
    penalties : Penalties
        Penalties of the fit to all of V.
    seed : int
    n_rows : int
        Rows of all of V.
    solver : Solver
        The solver that goes on from H: a multiplicative one could not move zeros of H.
    variant : Variant
        Missing entries of the rows are NaN.
    """

    k: int
    dtype: np.dtype
    loss: Loss
    penalties: Penalties
    seed: int
    n_rows: int
    solver: Solver
    variant: Variant = Variant()

    def of_rows(self, V: Matrix, columns: np.ndarray) -> Fitted:
        """The fit to rows of V in the model's dtype; `columns` are the column means of all of V."""
        try:
            if self.loss.quadratic:
                found = self._by_descent(_Rows(V, matrix.mean(V)))
            else:
                found = self._by_scaled_descent(V)
        except NumericalError:
            found = self._hopeless(columns)
        return self._floored(found, columns)

    def of_sketch(self, R: np.ndarray, Q: np.ndarray, mean: float) -> Fitted:
        """The fit to rows of R = V Q, Q with orthonormal columns and `mean` V's mean; quadratic loss only."""
        columns = np.maximum(Q @ R.mean(axis=0, dtype=np.float64), 0.0)
        try:
            found = self._by_descent(_Rows(R, mean, Q))
        except NumericalError:
            found = self._hopeless(columns)
        return self._floored(found, columns)

    def _hopeless(self, columns: np.ndarray) -> Fitted:
        """A draw of infinite loss, in place of a trial with overflows: a rival, if any, is chosen."""
        return Fitted(self._drawn(0, len(columns), float(columns.mean())), math.inf, math.inf)

    def _by_descent(self, rows: _Rows) -> Fitted:
        """Quadratic loss."""
        part = replace(rows, V=self._part(rows.V))
        n_features = rows.V.shape[1] if rows.Q is None else len(rows.Q)
        starts = [self._drawn(draw, n_features, rows.mean) for draw in range(_DRAWS)]
        if rows.Q is None and not self.variant.masked and self.k <= min(part.V.shape):
            starts.append(self._decomposed(part.V))
        return self._best(
            [self._descent(part, H, self._penalties(part.V.shape[0])) for H in starts],
            lambda H: self._descent(rows, H, self._penalties(rows.V.shape[0]), _LAST_WINDOW),
            rows.V.shape,
        )

    def _by_scaled_descent(self, V: Matrix) -> Fitted:
        """Any other loss: descent on the scaled rows, then passes of the loss itself."""
        mean = matrix.mean(V)
        if mean == 0:
            return Fitted(np.zeros((self.k, V.shape[1]), self.dtype), 0.0, 0.0)
        power = (self.loss.beta - 2.0) / 2.0
        columns = np.maximum(matrix.column_means(V) / mean, _LEAST_MEAN) ** power
        part = self._part(V)
        X = matrix.scaled(part, np.maximum(matrix.row_means(part) / mean, _LEAST_MEAN) ** power, columns)
        scaled = _Rows(X, matrix.mean(X))

        def drawn(draw: int) -> np.ndarray:
            course = self._descent(scaled, self._drawn(draw, V.shape[1], scaled.mean, columns), Penalties())
            course.advance(map, _SCALED_PASSES)
            return (course.best.H / columns).astype(self.dtype)

        with ThreadPoolExecutor(joblib.cpu_count()) as pool:
            starts = list(pool.map(drawn, range(_DRAWS)))
        return self._best(
            [self._ratio_course(part, H) for H in starts], partial(self._ratio_course, V), V.shape
        )

    def _best(
        self, courses: list[_Course], of_all: Callable[[np.ndarray], _Course], shape: tuple[int, int]
    ) -> Fitted:
        """The result of the best course, continued on all rows until it has converged."""
        n_rows, n_features = shape
        whole = courses[0].n_rows == n_rows
        with ThreadPoolExecutor(joblib.cpu_count()) as pool:
            if not whole:  # passes over a part are cheap
                for passes in _ROUNDS if self.loss.quadratic else _RATIO_ROUNDS:
                    _advanced(pool, courses, passes)
                    courses.sort(key=lambda course: course.best.objective)
                    courses = courses[: -(-len(courses) // 2)]
                courses[0].advance(pool.map, self._budget(courses[0].n_rows, n_features, 1))
                courses = [of_all(courses[0].best.H)]
            _race(pool, courses, self._budget(n_rows, n_features, len(courses)))
            leader = min(courses, key=lambda course: course.best.objective)
            leader.advance(pool.map, self._budget(n_rows, n_features, 1))
        return leader.best

    def _budget(self, n_rows: int, n_features: int, count: int) -> int:
        """Passes over `n_rows` rows, of `count` courses together, that cost as much as they save."""
        each, fixed = STEP_FLOPS
        row = n_features * (each * self.k + fixed) + self.k * (_ROW_FLOPS + _PAIR_FLOPS * self.k)
        read = FLOPS_PER_BYTE * self.dtype.itemsize * n_features
        saved = _SAVED_READS[self.loss.quadratic] * self.n_rows * (row + read)
        passes = max(saved, _FREE_FLOPS) / (_PASS_FLOPS + max(1, n_rows) * row)
        return int(min(_MOST_PASSES, max(_LEAST_PASSES * count, passes)))

    def _part(self, V: Matrix) -> Matrix:
        """The rows on which starts are compared."""
        least = V.shape[0] // (_PART_ROWS * self.k)
        return matrix.every(V, max(1, min(round(matrix.nbytes(V) / _PART_BYTES), least)))

    def _drawn(
        self, draw: int, n_features: int, mean: float, columns: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """A first H; `columns` are the factors by which the columns of V were multiplied."""
        numbers = random_start.normal_rows(
            self.seed, random_start.TRIAL_STREAM + draw, np.arange(self.k), n_features
        )
        H = np.abs(np.sqrt(mean / self.k) * numbers).astype(self.dtype)
        if self.variant.fixed is not None:
            H[: self.variant.n_fixed] = self.variant.fixed * columns
        return H

    def _decomposed(self, V: Matrix) -> np.ndarray:
        """H of the start ``"nndsvda"`` for some rows."""
        blocks = self._blocks(V)
        width = sketch_width(self.k, V.shape)
        rows: list[Rows] = [{"R": np.zeros((block.n_rows, width), self.dtype)} for block in blocks]
        finder = RangeFinder(self.seed, width, V.shape[1], self.dtype)
        state = State(mean=matrix.mean(V))
        for phase in (
            finder,
            finder,
            Projection(self.k, width, self.dtype),
            SignNorms(self.k, self.dtype, "mean", self.seed),
        ):
            state, _ = phase.update(_walked(map, phase, state, blocks, rows), state)
        H = SingularState.checked(state).start_H
        if self.variant.fixed is not None:
            H[: self.variant.n_fixed] = self.variant.fixed
        return H

    def _descent(self, rows: _Rows, H: np.ndarray, penalties: Penalties, window: int = _WINDOW) -> _Course:
        """A course of the quadratic loss."""
        V, Q, mean = rows.V, rows.Q, rows.mean
        inner = Inner.chosen(
            "auto",
            eagerness=_DESCENT.eagerness,
            omega=_DESCENT.omega,
            shape=(V.shape[0], H.shape[1]),
            k=self.k,
        )
        phase = self.variant.quadratic(
            QuadraticPass(self.k, H.shape[1], self.dtype, _DESCENT.name, inner, penalties), V.shape[0]
        )
        blocks: list[Any] = [LowRankBlock(V, Q.astype(self.dtype))] if Q is not None else []
        blocks = blocks or self._blocks(V, phase.tally().nbytes)
        squares = self._squares(V, Q)
        state = FactorState(
            squares=squares,
            eps=float(np.finfo(np.float32).eps) * (mean or 1.0),
            mean=mean,
            sum_to_one_weight=SUM_WEIGHT * squares / V.shape[0],
            fill=matrix.column_means(V),
            pending_H=H,
        )
        limit = _Limit(exact_loss(self.dtype, squares), _TOL[True], window)
        return _Course(phase, blocks, state, limit)

    def _ratio_course(self, V: Matrix, H: np.ndarray) -> _Course:
        """A course of any other loss."""
        n_rows, n_features = V.shape
        exact = self.solver.ratio_pass(
            self.k, n_features, self.dtype, self.loss, Inner(1, 1), self._penalties(n_rows)
        )
        phase = self.variant.ratio(exact)
        blocks = self._blocks(V, phase.tally().nbytes)
        survey = Survey((n_rows, n_features), self.loss, self.variant.masked)
        surveyed, _ = survey.update(_walked(map, survey, State(), blocks, [{} for _ in blocks]), State())
        if not self.solver.moves_zeros:
            H = first_W.floored(H, matrix.column_means(V))
        state = FactorState.of(surveyed, pending_H=H)
        limit = _Limit(exact_loss(self.dtype, surveyed.scale), _TOL[False], max(_LAST_WINDOW, exact.n_turns))
        return _Course(phase, blocks, state, limit, extrapolates=self.solver.moves_zeros)

    def _floored(self, found: Fitted, columns: np.ndarray) -> Fitted:
        H = found.H.copy() if self.solver.moves_zeros else first_W.floored(found.H, columns)
        if self.variant.fixed is not None:
            H[: self.variant.n_fixed] = self.variant.fixed  # as they are known, zeros and digits
        return replace(found, H=H)

    def _squares(self, V: Matrix, Q: np.ndarray | None) -> float:
        """‖V‖², or ‖V Qᵀ‖², with the weights of the columns."""
        b = self.variant.column_weights
        if b is None:
            return matrix.squares(V)
        if Q is None:
            return matrix.squares(matrix.scaled(V, np.ones(V.shape[0]), np.sqrt(b)))
        Q64 = Q.astype(np.float64)
        return float(np.vdot(V.T @ V, (Q64.T * b) @ Q64))

    def _penalties(self, n_rows: int) -> Penalties:
        """Penalties for these rows: H's penalty is scaled by their share of all rows."""
        share = n_rows / self.n_rows
        penalty = self.penalties.H
        return replace(self.penalties, H=Penalty(penalty.l1 * share, penalty.l2 * share))

    def _blocks(self, V: Matrix, tally_bytes: int = 0) -> list[Block]:
        """Blocks of rows for several threads, so few that their tallies take no more memory than V."""
        n_rows, n_features = V.shape
        height = max(1, n_rows * max(_BLOCK_BYTES, tally_bytes) // max(1, matrix.nbytes(V)))
        variant = self.variant
        entries = None
        if variant.masked or variant.column_weights is not None:
            entries = EntryWeights(nan=variant.masked, weights=variant.column_weights)
        parts = [V[first : first + height] for first in range(0, n_rows, height)]
        return [
            block_of([part], PanelSpec(part.shape[0], index * height, n_features, self.dtype), entries)
            for index, part in enumerate(parts)
        ]


def _race(pool: ThreadPoolExecutor, courses: Sequence[_Course], passes: int) -> None:
    """Advance courses by `passes` together; those that would not reach the best one end."""
    racing = list(courses)
    while racing and passes > 0:
        stretch = min(_STRETCH, -(-passes // len(racing)))
        passes -= stretch * len(racing)
        before = [course.best.objective for course in racing]
        _advanced(pool, racing, stretch)
        if any(course.exact for course in courses):
            return
        least = min(course.best.objective for course in courses)
        racing = [
            course
            for course, was in zip(racing, before, strict=True)
            if not course.converged and course.may_reach(least, was - course.best.objective)
        ]


def _advanced(pool: ThreadPoolExecutor, courses: Sequence[_Course], passes: int) -> None:
    """Advance courses side by side, or a single one with all threads."""
    if len(courses) == 1:
        courses[0].advance(pool.map, passes)
    else:  # with maps of the same pool, tasks would wait for tasks behind them
        list(pool.map(_Course.advance, courses, repeat(map), repeat(passes)))


def _walked(
    each: Map, phase: Phase, state: State, blocks: Sequence[Block | LowRankBlock], rows: Sequence[Rows]
) -> Tally:
    """One pass over the blocks."""
    small = phase.prepare(state)

    def visited(block: Block | LowRankBlock, rows: Rows) -> Tally:
        return visit(block, [Visitor(phase, small, rows)])[0]

    return add(each(visited, blocks, rows))
