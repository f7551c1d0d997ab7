"""A start that takes every entry of V as observed: what is missing is the mean of its column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.passes import Around, Rows, State, Tally


@dataclass(frozen=True)
class MeanFilled(Around):
    """A phase over V with its missing entries filled in; needs what the survey of a masked V found."""

    def prepare(self, state: State) -> Any:
        return self.phase.prepare(state), state["fill"]

    def tile(self, tile: Any, rows: Rows, small: Any, tally: Tally) -> None:
        inner, fill = small
        # Whatever is observed tells a start where to look, if it counts little or more than once.
        shape = tile.rows.stop - tile.rows.start, len(fill)
        filled = tile.filled(np.broadcast_to(fill.astype(tile.dtype), shape), by_weight=False)
        self.phase.tile(filled, rows, inner, tally)
