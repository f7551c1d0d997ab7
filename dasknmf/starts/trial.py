"""H from rows of V that are in memory, fitted until it stops: then V itself is read a few times only.

A few random starts run a little way on a part of the rows; the lowest goes on to the end on all of
them. A quadratic loss runs exact alternation by coordinate descent. Any other is first made quadratic:
with v near r_i c_j, the row and column means, D is near ½ Σ (r_i c_j)^{β−2} (v − p)², the Frobenius loss
of a V whose rows and columns are scaled. That converges in tens of cheap passes and multiplicative
ones finish. Measured for β = 1 on gene counts, words and a slowly decaying spectrum: after 40 such
passes and 10 to 60 multiplicative ones the loss is within 0.3 % of, or up to 3 % below, that of 200
multiplicative passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dasknmf.blocks import DenseBlock
from dasknmf.blocks.base import Block
from dasknmf.blocks.lowrank import LowRankBlock
from dasknmf.history import gains_end
from dasknmf.losses import Loss
from dasknmf.passes import Phase, State, Visitor, visit
from dasknmf.solvers import cd, cold
from dasknmf.solvers.inner import Inner
from dasknmf.solvers.penalty import Penalties, Penalty
from dasknmf.solvers.quadratic import QuadraticPass
from dasknmf.solvers.ratio import RatioPass
from dasknmf.starts import random
from dasknmf.starts.survey import Survey

_DRAWS, _DRAW_PASSES = 3, 10
_PART, _PART_ROWS = 8, 64
"""Draws run on one row in eight, as long as that leaves 64 for each component."""
_MOST_PASSES = 100
_POLISHING_PASSES = 40
_TOL = 1e-4
_LEAST_MEAN = 1e-2
"""Row and column means below this share of V's mean are taken for it: their weights would be all."""


@dataclass(frozen=True)
class Fitted:
    """What a trial found."""

    H: np.ndarray
    objective: float
    loss: float
    """Of the rows, with the best W that was found for them."""


@dataclass(frozen=True)
class Trial:
    """How H is fitted to rows in memory.

    Parameters
    ----------
    k : int
    dtype : numpy.dtype
    loss : Loss
    penalties : Penalties
        Those of all of V.
    seed : int
    n_rows : int
        Rows of all of V.
    positive : bool
        Whether a multiplicative solver goes on from H, which could not move its zeros.
    """

    k: int
    dtype: np.dtype
    loss: Loss
    penalties: Penalties
    seed: int
    n_rows: int
    positive: bool

    def of_rows(self, V: np.ndarray) -> Fitted:
        """From dense rows, in the model's dtype."""
        if self.loss.quadratic:
            found = self._quadratic(V, None, float(V.mean(dtype=np.float64)), self._penalties(len(V)))
        else:
            found = self._polished(V, self._of_scaled(V))
        return self._safe(found, V.mean(axis=0, dtype=np.float64))

    def of_sketch(self, R: np.ndarray, Q: np.ndarray, mean: float) -> Fitted:
        """From rows of R = V Q, Q with orthonormal columns; `mean` is that of V. Quadratic loss only."""
        found = self._quadratic(R, Q, mean, self._penalties(len(R)))
        return self._safe(found, np.maximum(Q @ R.mean(axis=0, dtype=np.float64), 0.0))

    def _of_scaled(self, V: np.ndarray) -> np.ndarray:
        """H of the quadratic problem that is nearest to this loss."""
        power = (self.loss.beta - 2.0) / 2.0
        mean = float(V.mean(dtype=np.float64))
        if mean == 0:
            return np.zeros((self.k, V.shape[1]), self.dtype)
        by_row, by_column = (
            np.maximum(V.mean(axis=axis, dtype=np.float64) / mean, _LEAST_MEAN) ** power for axis in (1, 0)
        )
        X = V * by_row[:, None].astype(V.dtype)
        X *= by_column.astype(V.dtype)
        found = self._quadratic(X, None, float(X.mean(dtype=np.float64)), Penalties())
        return (found.H / by_column).astype(self.dtype)

    def _quadratic(self, V: np.ndarray, Q: np.ndarray | None, mean: float, penalties: Penalties) -> Fitted:
        """By coordinate descent, from the best of a few draws; V stands for V Qᵀ where Q is given."""
        n_features = V.shape[1] if Q is None else len(Q)
        step = _PART if len(V) >= _PART * _PART_ROWS * self.k else 1
        part = np.ascontiguousarray(V[::step])
        shrunk = replace(penalties, H=Penalty(penalties.H.l1 / step, penalties.H.l2 / step))
        scale = np.sqrt(mean / self.k)
        draws = []
        for draw in range(_DRAWS):
            stream = random.TRIAL_STREAM + draw
            H = np.abs(scale * random.normal_rows(self.seed, stream, 0, self.k, n_features))
            draws.append(self._descended(part, Q, H.astype(self.dtype), mean, shrunk, _DRAW_PASSES))
        best = min(draws, key=lambda fitted: fitted.objective)
        return self._descended(V, Q, best.H, mean, penalties, _MOST_PASSES)

    def _descended(
        self,
        V: np.ndarray,
        Q: np.ndarray | None,
        H: np.ndarray,
        mean: float,
        penalties: Penalties,
        most: int,
    ) -> Fitted:
        inner = Inner.chosen("auto", eagerness=cd.EAGERNESS, shape=(len(V), H.shape[1]), k=self.k)
        phase = QuadraticPass(self.k, H.shape[1], self.dtype, "cd", inner, penalties)
        block = self._block(V) if Q is None else LowRankBlock(V, Q.astype(self.dtype))
        state = {
            "squares": np.asarray(np.einsum("ij,ij->", V, V, dtype=np.float64)),
            "eps": np.asarray(float(np.finfo(np.float32).eps) * (mean or 1.0)),
        }
        return self._repeated(phase, block, cold.started(state, H), most)

    def _polished(self, V: np.ndarray, H: np.ndarray) -> Fitted:
        """By multiplicative passes."""
        survey = Survey((len(V), V.shape[1]), self.loss)
        (tally,) = visit(self._block(V), [Visitor(survey, None, {})])
        state, _ = survey.update(tally, {})
        H = cold.floored(H, V.mean(axis=0, dtype=np.float64))
        phase = RatioPass(self.k, V.shape[1], self.dtype, self.loss, Inner(1, 1), self._penalties(len(V)))
        return self._repeated(phase, self._block(V), cold.started(state, H), _POLISHING_PASSES)

    def _repeated(self, phase: Phase, block: Block | LowRankBlock, state: State, most: int) -> Fitted:
        """Passes until the gains end."""
        rows = {"W": np.zeros((block.n_rows, self.k), self.dtype)}
        objectives: list[float] = []
        loss = 0.0
        while len(objectives) < most and not gains_end(objectives, _TOL):
            (tally,) = visit(block, [Visitor(phase, phase.prepare(state), rows)])
            state, outcome = phase.update(tally, state)
            objectives.append(float(outcome.objective or 0.0))
            loss = float(outcome.loss or 0.0)
        return Fitted(state["H"], objectives[-1], loss)

    def _safe(self, found: Fitted, columns: np.ndarray) -> Fitted:
        return replace(found, H=cold.floored(found.H, columns)) if self.positive else found

    def _penalties(self, n_rows: int) -> Penalties:
        """H's penalty belongs to all rows: these bear their share of it."""
        share = n_rows / self.n_rows
        penalty = self.penalties.H
        return replace(self.penalties, H=Penalty(penalty.l1 * share, penalty.l2 * share))

    def _block(self, V: np.ndarray) -> DenseBlock:
        return DenseBlock([V], n_rows=len(V), first=0, n_features=V.shape[1], dtype=self.dtype, checked=False)
