"""The evaluation of given H: the best W for each, and the loss, in one read of V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Batching, Outcome, Phase, Rows, SampledRows, Tally, Visitor
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.solvers.packed_grams import lines_bytes
from dasknmf.core.starts.sample import drawn_from
from dasknmf.core.state import FactorState, State

DRAWN_ROWS = 4096
"""Largest number of sampled rows of W."""


@dataclass(frozen=True)
class Draw:
    """A random sample of the rows of W.

    Parameters
    ----------
    n_rows : int
        Number of rows of V.
    seed : int
    rows : PixelIndex
        Numbers of V's rows, to which the random numbers belong.
    """

    n_rows: int
    seed: int
    rows: PixelIndex = InOrder()

    @property
    def share(self) -> float:
        """The share of rows that are drawn; their expected number is three deviations below `DRAWN_ROWS`."""
        if self.n_rows <= DRAWN_ROWS:
            return 1.0
        return (DRAWN_ROWS - 3 * DRAWN_ROWS**0.5) / self.n_rows


@dataclass(frozen=True)
class Evaluation(Phase):
    """The best W for a given H: the loss, the sums of the columns of W, and a sample of its rows or all rows.

    Parameters
    ----------
    coder : Coder
        Holds H, and solves for W.
    dtype : numpy.dtype
    surveyed : State
        The survey of V.
    draw : Draw or None
        The sample of rows of W that the tally holds; None: the pass writes all rows.
    sparse : bool
        Whether V is sparse.
    """

    coder: Coder
    dtype: np.dtype
    surveyed: State
    draw: Draw | None = None
    sparse: bool = False

    name = "final"

    @property
    def k(self) -> int:
        return len(self.coder.H)

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k} if self.draw is None else {}

    @property
    def lines_bytes(self) -> int:
        """Bytes of the packed products of all features, which are needed where entries are missing."""
        return 0 if self.coder.entries is None else lines_bytes(self.coder.H.shape[1], self.k)

    def tally(self) -> Tally:
        tally = Tally.zeros({"loss": (), "usage": (self.k,)})
        if self.draw is not None:
            capacity = int(self.draw.share * self.draw.n_rows) * self.k * self.dtype.itemsize
            tally["drawn"] = SampledRows(self.k, self.dtype, capacity)
        return tally

    @property
    def batching(self) -> Batching:
        return _Evaluations

    def tile(self, tile: Tile, rows: Rows, inputs: None, tally: Tally) -> None:
        N = tile.cross(self.coder.weighted_Ht) if self.coder.loss.quadratic else None
        self.add(tile, rows, N, tally, self.drawn(tile))

    def drawn(self, tile: Tile) -> tuple[np.ndarray, np.ndarray] | None:
        """The sampled rows of a tile, counted within the tile, and their numbers in V."""
        if self.draw is None:
            return None
        return drawn_from(tile, self.draw.rows, self.draw.seed, 0.0, self.draw.share)

    def add(
        self,
        tile: Tile,
        rows: Rows,
        N: np.ndarray | None,
        tally: Tally,
        drawn: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """Visit a tile, given N = V Hᵀ and the sampled rows."""
        n_rows = tile.rows.stop - tile.rows.start
        W = rows["W"] if "W" in rows else np.zeros((n_rows, self.k), self.dtype)
        self.coder.solve(tile, W, N)
        tally["loss"] += self._loss(tile, W, N)
        tally["usage"] += W.sum(axis=0, dtype=np.float64)
        if drawn is not None:
            inside, numbers = drawn
            tally["drawn"] = tally["drawn"].plus(numbers, W[inside])

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


class _Evaluations:
    """The walk of evaluations of several H: one product with V for all, and the same sampled rows."""

    def __init__(self, visitors: Sequence[Visitor], tallies: Sequence[Tally]) -> None:
        self._parts: list[tuple[Evaluation, Visitor, Tally]] = [
            (cast(Evaluation, visitor.phase), visitor, tally)
            for visitor, tally in zip(visitors, tallies, strict=True)
        ]
        self._Ht: np.ndarray | None = None
        if self._parts[0][0].coder.loss.quadratic:
            self._Ht = np.concatenate([phase.coder.weighted_Ht for phase, _, _ in self._parts], axis=1)
        edges = np.cumsum([0, *(phase.k for phase, _, _ in self._parts)]).tolist()
        self._columns = [slice(*part) for part in pairwise(edges)]

    def __call__(self, tile: Tile) -> None:
        N = None if self._Ht is None else tile.cross(self._Ht)
        drawn = self._parts[0][0].drawn(tile)  # once, as random numbers of all rows of V take time
        for (phase, visitor, tally), columns in zip(self._parts, self._columns, strict=True):
            own = None if N is None else np.ascontiguousarray(N[:, columns])
            phase.add(tile, visitor.rows_of(tile), own, tally, drawn)
