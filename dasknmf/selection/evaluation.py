"""The evaluation of given H: the best W for each, and the loss, in one read of V."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Batching, Outcome, Phase, Rows, SampledRows, Tally
from dasknmf.core.solvers.batched import Batched
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.solvers.packed_grams import lines_bytes
from dasknmf.core.starts.sample import drawn_from
from dasknmf.core.state import FactorState, State

MOST_SAMPLED_ROWS = 4096
"""Largest number of sampled rows of W."""


@dataclass(frozen=True)
class RowSample:
    """A random sample of the rows of W.

    Parameters
    ----------
    n_rows : int
        Number of rows of V.
    seed : int
    rows : PixelIndex
        Places of V's rows, which determine the random numbers.
    """

    n_rows: int
    seed: int
    rows: PixelIndex = InOrder()

    @property
    def share(self) -> float:
        """The share of sampled rows: their expected number is three deviations below `MOST_SAMPLED_ROWS`."""
        if self.n_rows <= MOST_SAMPLED_ROWS:
            return 1.0
        return (MOST_SAMPLED_ROWS - 3 * MOST_SAMPLED_ROWS**0.5) / self.n_rows


@dataclass(frozen=True)
class Evaluation(Phase):
    """The phase that computes the best W for a given H: the loss, column sums of W, and rows of W.

    Parameters
    ----------
    coder : Coder
        The coder of H, which solves for W.
    dtype : numpy.dtype
    surveyed : State
        The survey of V.
    sample : RowSample or None
        The rows of W that the tally holds; None: the pass writes all rows.
    sparse : bool
        Whether V is sparse.
    """

    coder: Coder
    dtype: np.dtype
    surveyed: State
    sample: RowSample | None = None
    sparse: bool = False

    name = "final"

    @property
    def k(self) -> int:
        return len(self.coder.H)

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k} if self.sample is None else {}

    @property
    def lines_bytes(self) -> int:
        """Bytes of the packed products of all features, which are needed where entries are missing."""
        return 0 if self.coder.entries is None else lines_bytes(self.coder.H.shape[1], self.k)

    def tally(self) -> Tally:
        tally = Tally.zeros({"loss": (), "usage": (self.k,)})
        if self.sample is not None:
            capacity = int(self.sample.share * self.sample.n_rows) * self.k * self.dtype.itemsize
            tally["rows"] = SampledRows(self.k, self.dtype, capacity)
        return tally

    @property
    def batching(self) -> Batching | None:
        return Batched if self.coder.loss.quadratic else None

    def prepare(self, state: State) -> Coder:
        return self.coder

    def tile(self, tile: Tile, rows: Rows, inputs: Coder, tally: Tally) -> None:
        N = tile.cross(inputs.Ht) if inputs.loss.quadratic else None
        W = rows["W"] if "W" in rows else np.zeros((tile.n_rows, self.k), self.dtype)
        inputs.solve(tile, W, N)
        tally["loss"] += self._loss(tile, W, N)
        tally["usage"] += W.sum(axis=0, dtype=np.float64)
        if self.sample is not None:
            inside, numbers = drawn_from(tile, self.sample.rows, self.sample.seed, 0.0, self.sample.share)
            tally["rows"] = tally["rows"].plus(numbers, W[inside])

    def _loss(self, tile: Tile, W: np.ndarray, N: np.ndarray | None) -> float:
        H = self.coder.H
        if N is None:
            return float(tile.ratio(W, H, self.coder.loss.beta, self.surveyed.eps).loss())
        if not self._by_gram:
            return float(tile.residual(W, H))
        # ½‖V − WH‖² without ½‖V‖², which `loss_of` adds.
        a = np.ones(len(W)) if tile.row_weights is None else tile.row_weights
        W64 = W.astype(np.float64)
        return float(a @ (((0.5 * W64) @ self.coder.gram - N) * W64).sum(axis=1))

    @property
    def _by_gram(self) -> bool:
        """Whether the loss is computed without WH, which is dense. Its terms cancel in nearly exact fits."""
        return self.sparse and self.coder.loss.quadratic and self.coder.entries is None

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after = FactorState.of(State.of(self.surveyed), H=self.coder.H, usage=tally["usage"])
        loss = self.loss_of(tally)
        return after, Outcome(loss, loss, "end")

    def loss_of(self, tally: Tally) -> float:
        """D(V | WH) of all rows."""
        loss = float(tally["loss"]) + self.surveyed.constant
        if self._by_gram:
            loss += 0.5 * self.surveyed.squares
        return max(loss, 0.0)
