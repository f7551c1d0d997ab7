"""A start with some rows of H known: whatever it finds for them is put aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dasknmf.passes import Around, Outcome, State, Tally


@dataclass(frozen=True)
class Pinned(Around):
    """A phase that makes an H, whose first rows become those that are known.

    Parameters
    ----------
    fixed : ndarray of shape (n_fixed, n_features)
    """

    fixed: np.ndarray

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        for name in {"H", "next H"} & after.keys():
            H = after[name].copy()
            H[: len(self.fixed)] = self.fixed
            after = after | {name: H}
        return after, outcome
