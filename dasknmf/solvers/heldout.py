"""A pass that also tells what the pair which entered makes of the entries that are hidden from the fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasknmf.losses import Loss
from dasknmf.passes import Around, Outcome, Rows, State, Tally
from dasknmf.solvers import cold


@dataclass(frozen=True)
class HeldOut(Around):
    """An exact or closing pass, with the loss over hidden entries."""

    loss: Loss

    def prepare(self, state: State) -> Any:
        H = None if cold.is_cold(state) else state["H"].astype(np.float64)
        return self.phase.prepare(state), H, float(state["eps"])

    def tally(self) -> Tally:
        return Tally(self.phase.tally().values | {"hidden": np.zeros(2)})

    def tile(self, tile: Any, rows: Rows, small: Any, tally: Tally) -> None:
        inner, H, eps = small
        recomputed = "W" not in rows  # and solved for the H that entered, which makes them a pair
        if recomputed:
            self.phase.tile(tile, rows, inner, tally)
        if H is not None:  # else there is no pair yet
            tally["hidden"] += tile.hidden_loss(rows["W"], H, self.loss.beta, eps)
        if not recomputed:
            self.phase.tile(tile, rows, inner, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        loss, count = (float(part) for part in tally["hidden"])
        if count:
            outcome = replace(outcome, measures=outcome.measures | {"holdout": loss, "hidden": count})
        return after, outcome
