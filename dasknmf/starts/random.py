"""The random start: |√(mean(V) / k) · z| with z standard normal, as scikit-learn scales it.

Row r's numbers depend on the seed and on r only, through a counter-based generator: they are the
same for any panels, scheduler or order of tasks. They are not scikit-learn's own numbers, which
come from one sequential stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from dasknmf.blocks.base import RowRange
from dasknmf.passes import Outcome, Rows, State, Tally
from dasknmf.starts import survey

W_STREAM, H_STREAM, OMEGA_STREAM, FILL_W_STREAM, FILL_H_STREAM, DRAW_STREAM = range(6)
TRIAL_STREAM = 16
"""The first of as many streams as a start tries."""
_WORDS = 4  # 64-bit words that one step of Philox's counter gives


def normal_rows(seed: int, stream: int, first: int, n_rows: int, k: int) -> np.ndarray:
    """Standard normal numbers for rows first … first + n_rows − 1.

    Parameters
    ----------
    seed, stream : int
        Together the key of the generator: streams of one seed are independent.
    first, n_rows, k : int

    Returns
    -------
    ndarray of shape (n_rows, k), float64
    """
    steps = -(-k // _WORDS)
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64))
    generator.advance(first * steps)
    words = generator.random_raw(n_rows * steps * _WORDS).reshape(n_rows, steps * _WORDS)[:, :k]
    # The upper 53 bits, centred in their cells: never 0 or 1, where the inverse is infinite.
    return np.asarray(ndtri(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def uniform_rows(seed: int, stream: int, first: int, n_rows: int) -> np.ndarray:
    """One number in [0, 1) for each of rows first … first + n_rows − 1, float64."""
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64))
    generator.advance(first // _WORDS)
    skipped = first % _WORDS
    words = generator.random_raw(skipped + n_rows)[skipped:]
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class RandomStart:
    """Draws W by rows and H at once. Needs the survey, not V."""

    seed: int
    k: int
    n_features: int
    dtype: np.dtype

    name = "start"
    reads_data = False

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k}

    def prepare(self, state: State) -> float:
        return self._scale(state)

    def tally(self) -> Tally:
        return Tally.zeros({})

    def tile(self, tile: RowRange, rows: Rows, small: float, tally: Tally) -> None:
        W = rows["W"]
        W[:] = np.abs(small * normal_rows(self.seed, W_STREAM, tile.first, len(W), self.k))

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        drawn = normal_rows(self.seed, H_STREAM, 0, self.k, self.n_features)
        H = np.abs(self._scale(state) * drawn).astype(self.dtype)
        return survey.kept(state) | {"H": H}, Outcome()

    def _scale(self, state: State) -> float:
        return float(np.sqrt(state["mean"] / self.k))
