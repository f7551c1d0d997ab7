"""A pass with the loss over entries hidden from the fit, for the W and H at the start of the pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.losses import Loss
from dasknmf.core.phase import Batching, Outcome, PhaseWrapper, Rows, Tally
from dasknmf.core.state import FactorState, State


@dataclass(frozen=True)
class HeldOutInputs:
    """Inputs of the wrapped phase, and H at the start of the pass; None if there is no W yet."""

    inputs: Any
    H: np.ndarray | None
    eps: float

    @property
    def Ht(self) -> np.ndarray:
        """The matrix by which the wrapped phase multiplies V."""
        return np.asarray(self.inputs.Ht)


@dataclass(frozen=True)
class HeldOut(PhaseWrapper):
    """An exact pass, or an evaluation, with the loss over hidden entries."""

    loss: Loss

    @property
    def batching(self) -> Batching | None:
        return self.phase.batching

    def prepare(self, state: State) -> HeldOutInputs:
        state = FactorState.checked(state)
        H = None if state.needs_first_W else state.factor.astype(np.float64)
        return HeldOutInputs(self.phase.prepare(state), H, state.eps)

    def tally(self) -> Tally:
        return Tally(self.phase.tally() | {"hidden": np.zeros(2)})

    def tile(self, tile: Tile, rows: Rows, inputs: HeldOutInputs, tally: Tally) -> None:
        solved = "W" not in rows
        if not solved:
            self._add_hidden_loss(tile, rows, inputs, tally)
        self.phase.tile(tile, rows, inputs.inputs, tally)
        if solved:
            self._add_hidden_loss(tile, rows, inputs, tally)

    def _add_hidden_loss(self, tile: Tile, rows: Rows, inputs: HeldOutInputs, tally: Tally) -> None:
        """Add the loss over hidden entries of the pair at the start of the pass.

        If W is not stored, it is the W that the wrapped phase solves for this H.
        """
        if inputs.H is not None:
            tally["hidden"] += tile.hidden_loss(rows["W"], inputs.H, self.loss.beta, inputs.eps)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        loss, count = (float(part) for part in tally["hidden"])
        if count:
            outcome = replace(outcome, measures=outcome.measures | {"holdout": loss, "hidden": count})
        return after, outcome
