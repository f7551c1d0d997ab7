"""The sketch start: H is fitted to V̂ = R Qᵀ, which three reads of V give, for the Frobenius loss.

Q holds an orthonormal basis of V's leading row space and R = V Q, both from the reads that the nndsvd
starts make. V̂ is thin, so exact alternation on it costs no read of V: ½ ‖V̂ − WH‖² differs from the
true loss by a constant and by the part of WH outside Q's span. H is fitted to a part of R's rows, and the
first exact pass solves W.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Outcome, PhaseWrapper, Rows, SampledRows, Tally
from dasknmf.core.starts.nndsvd import Projection
from dasknmf.core.starts.sample import drawn_from
from dasknmf.core.starts.trial import Trial
from dasknmf.core.state import BasisState, State

_ROWS = (8192, 256)
"""Rows of R that H is fitted to: at least so many, and so many for each component."""


@dataclass(frozen=True)
class Sketch(PhaseWrapper):
    """The third read, which also gathers rows of R; its update fits H to them."""

    phase: Projection
    trial: Trial
    rows: PixelIndex = InOrder()

    name = "sketch"

    @property
    def _share(self) -> float:
        least, each = _ROWS
        return min(1.0, max(least, each * self.trial.k) / self.trial.n_rows)

    def tally(self) -> Tally:
        width, dtype = self.phase.width, self.trial.dtype
        expected = int(self._share * self.trial.n_rows * width * dtype.itemsize)
        return Tally(self.phase.tally() | {"rows": SampledRows(width, dtype, expected)})

    def tile(self, tile: Tile, rows: Rows, inputs: np.ndarray, tally: Tally) -> None:
        self.phase.tile(tile, rows, inputs, tally)
        drawn, places = drawn_from(tile, self.rows, self.trial.seed, 0.0, self._share)
        tally["rows"] = tally["rows"].plus(places, rows["R"][drawn])

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        found = self.trial.of_sketch(tally["rows"].in_order().values, BasisState.checked(state).Q, state.mean)
        return replace(after, chosen=found.H), outcome
