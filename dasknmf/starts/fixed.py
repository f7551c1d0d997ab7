"""A start with some rows of H known: whatever it finds for them is put aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.passes import Outcome, Phase, Rows, State, Tally


@dataclass(frozen=True)
class Pinned:
    """A phase that makes an H, whose first rows become those that are known.

    Parameters
    ----------
    phase : Phase
    fixed : ndarray of shape (n_fixed, n_features)
    """

    phase: Phase
    fixed: np.ndarray

    @property
    def name(self) -> str:
        return self.phase.name

    @property
    def reads_data(self) -> bool:
        return self.phase.reads_data

    @property
    def widths(self) -> Mapping[str, int]:
        return self.phase.widths

    def prepare(self, state: State) -> Any:
        return self.phase.prepare(state)

    def tally(self) -> Tally:
        return self.phase.tally()

    def tile(self, tile: Any, rows: Rows, small: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, small, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        for name in {"H", "next H"} & after.keys():
            H = after[name].copy()
            H[: len(self.fixed)] = self.fixed
            after = after | {name: H}
        return after, outcome
