"""The closing read: the loss of the pair that a fit returns, where the last pass could not know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.blocks.base import Tile
from dasknmf.losses import Loss
from dasknmf.passes import Outcome, Rows, State, Tally
from dasknmf.solvers.penalty import Penalties


@dataclass(frozen=True)
class Closing:
    """One read of V that changes nothing."""

    dtype: np.dtype
    loss: Loss
    penalties: Penalties = Penalties()

    name = "closing"
    reads_data = True

    @property
    def widths(self) -> Mapping[str, int]:
        return {}

    def prepare(self, state: State) -> tuple[np.ndarray, float]:
        return state["H"].astype(self.dtype, copy=False), float(state["eps"])

    def tally(self) -> Tally:
        return Tally.zeros({"entry": (3,)})

    def tile(self, tile: Tile, rows: Rows, small: Any, tally: Tally) -> None:
        H, eps = small
        W = rows["W"]
        beta = self.loss.beta
        loss = tile.residual(W, H) if self.loss.quadratic else tile.ratio(W, H, beta, eps).loss()
        W64 = W.astype(np.float64)
        tally["entry"] += (loss, W64.sum(), (W64 * W64).sum())

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        divergence, *W_in = (float(part) for part in tally["entry"])
        loss = divergence + float(state["constant"])
        objective = loss + self.penalties.value((W_in[0], W_in[1]), state["H"])
        return state, Outcome(loss, objective, "entry")
