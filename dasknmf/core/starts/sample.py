"""The sample start: H is fitted to a random sample of V's rows, gathered in one read; exact passes follow.

A row is sampled if its random number, which depends on the seed and the row's place, is below the share of
rows that fits into `sample_bytes`. Rows of a few chunks would not be a fair sample, as real data are ordered
by donor, date or place. The first exact pass audits the sample: it gathers other rows with their losses. If
stretches of V whose rows have far larger losses than the sample hold much of the total loss, H is fitted
again, to both sets of rows, without another read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.core.blocks import matrix
from dasknmf.core.blocks.base import Tile
from dasknmf.core.history import exact_loss
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Outcome, Phase, PhaseWrapper, Rows, SampledRows, Tally
from dasknmf.core.starts import random_start
from dasknmf.core.starts.trial import Trial
from dasknmf.core.state import FactorState, SampledFactorState, SampleState, SingularState, State

_AUDITED = 0.25
"""Number of rows of the audit, relative to the sample."""
_STRETCHES = 256
"""Number of stretches: equal parts of V's rows by place, independent of panels."""
_FAR = 3.0
"""A stretch is unlike the sample if its rows' mean loss is this many times the sample's."""
_MUCH = 0.05
"""H is fitted again if such stretches have at least this share of the loss."""


@dataclass(frozen=True)
class Draw(Phase):
    """One read that draws the sample; its update fits H to it."""

    trial: Trial
    n_features: int
    share: float
    """Expected fraction of V's rows that is sampled."""
    row_bytes: float
    """Bytes of a row in memory: dense, or its nonzeros."""
    rows: PixelIndex = InOrder()

    name = "sample"

    @property
    def whole(self) -> bool:
        """Whether the sample is all of V."""
        return self.share == 1

    def tally(self) -> Tally:
        return Tally({"sample": self.empty(), "columns": np.zeros(self.n_features)})

    def empty(self, share: float | None = None) -> SampledRows:
        """An empty sample, of an expected share of V's rows: by default that of the sample."""
        n_rows = (self.share if share is None else share) * self.trial.n_rows
        return SampledRows(self.n_features, self.trial.dtype, int(n_rows * self.row_bytes))

    def more(self, tile: Tile, sample: SampledRows) -> SampledRows:
        """The sample with the rows of one more tile."""
        drawn, places = drawn_from(tile, self.rows, self.trial.seed, 0.0, self.share)
        if tile.row_weights is not None:
            counts = tile.row_weights[drawn] > 0  # rows of weight 0 do not influence H
            drawn, places = drawn[counts], places[counts]
        return sample.plus(places, tile.take(drawn))

    def tile(self, tile: Tile, rows: Rows, inputs: None, tally: Tally) -> None:
        tally["sample"] = self.more(tile, tally["sample"])
        tally["columns"] += tile.column_sums()

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        V = tally["sample"].in_order().values
        columns = tally["columns"] / self.trial.n_rows
        if not V.shape[0]:  # a V of few rows and a small share
            V = columns[None].astype(self.trial.dtype)
        found = self.trial.of_rows(V, columns)
        expected = found.loss / V.shape[0]
        return SampleState.of(state, chosen=found.H, columns=columns, expected=expected), Outcome()


def drawn_from(
    tile: Tile, rows: PixelIndex, seed: int, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a tile whose numbers are in [low, high): counted within the tile, and their places."""
    places = rows.places(tile.first, tile.first + tile.n_rows)
    numbers = random_start.uniform_rows(seed, random_start.DRAW_STREAM, places)
    drawn = np.flatnonzero((low <= numbers) & (numbers < high))
    return drawn, places[drawn]


@dataclass(frozen=True)
class Audited(PhaseWrapper):
    """The first exact pass after a sample, which also looks for rows that are unlike the sample."""

    draw: Draw

    def prepare(self, state: State) -> Any:
        H = FactorState.checked(state).entering_H.astype(np.float64)
        return self.phase.prepare(state), H, state.eps

    def tally(self) -> Tally:
        # The sample is drawn again: a checkpoint should not hold rows of V.
        drawn = {"sample": self.draw.empty()}
        share = _AUDITED * self.draw.share
        losses = SampledRows(1, np.dtype(np.float64), int(8 * share * self.draw.trial.n_rows))
        audit = {"audit": self.draw.empty(share), "losses": losses}
        return Tally(self.phase.tally() | drawn | audit)

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        inner, H, eps = inputs
        self.phase.tile(tile, rows, inner, tally)
        tally["sample"] = self.draw.more(tile, tally["sample"])
        trial, share = self.draw.trial, self.draw.share
        seen, places = drawn_from(tile, self.draw.rows, trial.seed, share, share + _AUDITED * share)
        if len(seen):
            V = tile.take(seen)
            P = rows["W"][seen].astype(np.float64) @ H
            # Missing entries have no loss.
            values = matrix.dense(V)
            values = np.where(np.isnan(values), np.maximum(P, eps), values)
            losses = trial.loss.rows(values, P, eps, trial.variant.column_weights)
            tally["audit"] = tally["audit"].plus(places, V)
            tally["losses"] = tally["losses"].plus(places, losses[:, None])

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state = SampledFactorState.checked(state)
        after, outcome = self.phase.update(tally, state)
        # In an exact fit all losses are rounding errors, and no stretch is unlike the sample.
        trial = self.draw.trial
        expected = state.expected + exact_loss(trial.dtype, state.scale) / trial.n_rows
        far = self._far(tally["losses"].in_order(), expected)
        if far.any():
            sample = tally["sample"].in_order()
            rows = [sample.values] if sample.parts else []
            rows.append(tally["audit"].in_order().values[far])
            found = trial.of_rows(matrix.stacked(rows), state.columns)
            after = FactorState.of(after, pending_H=found.H)
        return after, outcome

    def _far(self, audited: SampledRows, expected: float) -> np.ndarray:
        """Which audited rows are in stretches unlike the sample; none if their share of the loss is small."""
        losses = audited.values[:, 0]
        stretch = audited.indices * _STRETCHES // self.draw.trial.n_rows
        counts = np.bincount(stretch, minlength=_STRETCHES)
        sums = np.bincount(stretch, losses, minlength=_STRETCHES)
        far = (sums > _FAR * expected * counts)[stretch]
        if losses[far].sum() <= _MUCH * losses.sum():
            far[:] = False
        return far


@dataclass(frozen=True)
class Chosen(Phase):
    """The phase that passes the H that a start has fitted to the first exact pass, which solves W."""

    name = "start"
    reads_data = False

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        if isinstance(state, SampleState):
            return SampledFactorState.of(state, pending_H=state.chosen), Outcome()
        return FactorState.of(state, pending_H=SingularState.checked(state).chosen), Outcome()
