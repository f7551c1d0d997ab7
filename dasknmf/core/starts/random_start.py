"""The random start: |√(mean(V) / k) · z| with z standard normal, as scikit-learn scales it.

Numbers of a row depend on the seed and on its place in X only, through a counter-based generator: they
are the same for any panels, tiles, scheduler or order of tasks. They are not scikit-learn's own numbers,
which come from one sequential stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from dasknmf.core import rng
from dasknmf.core.blocks.base import RowRange
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Outcome, Phase, Rows, Tally
from dasknmf.core.state import FactorState, State

W_STREAM, H_STREAM, OMEGA_STREAM, FILL_W_STREAM, FILL_H_STREAM, DRAW_STREAM = range(6)
TRIAL_STREAM = 16
"""The first stream of the trials of a start, each of which has its own stream."""
_ALIGNED = 4
"""Rows begin at multiples of this number of words."""


def normal_rows(seed: int, stream: int, places: np.ndarray, k: int) -> np.ndarray:
    """Standard normal numbers for rows at these places.

    Parameters
    ----------
    seed, stream : int
        Together the key of the generator: streams of one seed are independent.
    places : ndarray of int of shape (n_rows,)
    k : int

    Returns
    -------
    ndarray of shape (n_rows, k), float64
    """
    words = rng.words(seed, stream, places, -(-k // _ALIGNED) * _ALIGNED)[:, :k]
    # The upper 53 bits plus ½: never 0 or 1, where the inverse is infinite.
    return np.asarray(ndtri(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def uniform_rows(seed: int, stream: int, places: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each of the rows at these places, float64."""
    words = rng.words(seed, stream, places)[:, 0]
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class RandomStart(Phase):
    """The phase that draws W, by rows, and H. It needs the survey, and does not read V."""

    seed: int
    k: int
    n_features: int
    dtype: np.dtype
    rows: PixelIndex = InOrder()
    draws_rows: bool = True

    name = "start"
    reads_data = False

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k} if self.draws_rows else {}

    def prepare(self, state: State) -> float:
        return self._scale(state)

    def tile(self, tile: RowRange, rows: Rows, inputs: float, tally: Tally) -> None:
        if not self.draws_rows:
            return
        W = rows["W"]
        places = self.rows.places(tile.first, tile.first + len(W))
        W[:] = np.abs(inputs * normal_rows(self.seed, W_STREAM, places, self.k))

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        drawn = normal_rows(self.seed, H_STREAM, np.arange(self.k), self.n_features)
        H = np.abs(self._scale(state) * drawn).astype(self.dtype)
        return FactorState.of(state, H=H), Outcome()

    def _scale(self, state: State) -> float:
        return float(np.sqrt(state.mean / self.k))
