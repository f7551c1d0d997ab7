"""The evaluation: one read of V for the loss of the returned W and H, if no pass has computed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Outcome, Phase, Rows, Tally
from dasknmf.core.solvers.grams import sum_gap, totals
from dasknmf.core.solvers.quadratic import QuadraticPass
from dasknmf.core.state import FactorState, State


@dataclass(frozen=True)
class EvaluationPhase(Phase):
    """The phase that computes the loss and changes no factor."""

    dtype: np.dtype
    loss: Loss
    penalties: Penalties = Penalties()
    column_weights: np.ndarray | None = None
    sum_to_one: bool = False
    exact: QuadraticPass | None = None
    """The pass that solves for rows of W, if W is not stored."""

    name = "evaluation"

    def prepare(self, state: State) -> tuple[np.ndarray, float, Any]:
        inputs = None if self.exact is None else self.exact.prepare(state)
        H = FactorState.checked(state).factor
        return H.astype(self.dtype, copy=False), state.eps, inputs

    def tally(self) -> Tally:
        return Tally.zeros({"entry": (3,), "gap": ()})

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        H, eps, exact = inputs
        if self.exact is not None:
            rows["W"] = self.exact.solved(tile, exact)
        W = rows["W"]
        beta = self.loss.beta
        loss = tile.residual(W, H) if self.loss.quadratic else tile.ratio(W, H, beta, eps).loss()
        tally["entry"] += (loss, *totals(tile, W))
        if self.sum_to_one:
            tally["gap"] += sum_gap(tile, W, tile.nonempty_rows())

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        divergence, *W_in = (float(part) for part in tally["entry"])
        loss = divergence + state.constant
        H = FactorState.checked(state).factor
        objective = loss + self.penalties.value((W_in[0], W_in[1]), H, self.column_weights)
        if self.sum_to_one:
            objective += 0.5 * state.sum_to_one_weight * float(tally["gap"])
        return state, Outcome(loss, objective, "entry")
