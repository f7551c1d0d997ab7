"""The fit of given spectra to V: one read for those of many factorizations."""

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
"""Most rows of W that are drawn for each."""


@dataclass(frozen=True)
class Draw:
    """Which rows of W are kept.

    Parameters
    ----------
    n_rows : int
        Of V.
    seed : int
    rows : PixelIndex
        Of V's rows.
    """

    n_rows: int
    seed: int
    rows: PixelIndex = InOrder()

    @property
    def share(self) -> float:
        """Such that hardly ever more than `DRAWN_ROWS` are drawn: three standard deviations below."""
        if self.n_rows <= DRAWN_ROWS:
            return 1.0
        return (DRAWN_ROWS - 3 * DRAWN_ROWS**0.5) / self.n_rows


@dataclass(frozen=True)
class Evaluation(Phase):
    """W for an H that is given: its loss, the sum of its columns, and either some of its rows or all.

    Parameters
    ----------
    coder : Coder
        With H.
    dtype : numpy.dtype
    surveyed : State
        What the survey of V found.
    draw : Draw or None
        Rows of W that the tally keeps; None: the pass leaves all rows behind.
    sparse : bool
        Whether V is.
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
        """Of the packed products of all features, which it has where entries are missing."""
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
        """Which rows of a tile are kept, counted within it, and their places."""
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
        """The same, given V Hᵀ and the rows that are kept."""
        n_rows = tile.rows.stop - tile.rows.start
        W = rows["W"] if "W" in rows else np.zeros((n_rows, self.k), self.dtype)
        self.coder.solve(tile, W, N)
        tally["loss"] += self._loss(tile, W, N)
        tally["usage"] += W.sum(axis=0, dtype=np.float64)
        if drawn is not None:
            kept, places = drawn
            tally["drawn"] = tally["drawn"].plus(places, W[kept])

    def _loss(self, tile: Tile, W: np.ndarray, N: np.ndarray | None) -> float:
        H = self.coder.H
        if N is None:
            return float(tile.ratio(W, H, self.coder.loss.beta, self.surveyed.eps).loss())
        if not self._by_gram:
            return float(tile.residual(W, H))
        # ‖V − WH‖² less ‖V‖², which the survey knows.
        a = np.ones(len(W)) if tile.row_weights is None else tile.row_weights
        W64 = W.astype(np.float64)
        return float(a @ (((0.5 * W64) @ self.coder.gram - N) * W64).sum(axis=1))

    @property
    def _by_gram(self) -> bool:
        """Whether the loss is computed without WH, which would be dense; it cancels on nearly exact fits."""
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
    """Evaluations of several H, whose products with V are one, and which keep the same rows."""

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
        drawn = self._parts[0][0].drawn(tile)  # once: a number for each row of V is not free
        for (phase, visitor, tally), columns in zip(self._parts, self._columns, strict=True):
            own = None if N is None else np.ascontiguousarray(N[:, columns])
            phase.add(tile, visitor.rows_of(tile), own, tally, drawn)
