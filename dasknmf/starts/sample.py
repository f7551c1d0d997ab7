"""The sample start: H is fitted to rows drawn from all over V in one read, and V's own passes finish.

Row r is drawn if a number that depends on the seed and on r alone is below the share that fits into
`sample_bytes`: rows of real data are ordered by donor, date or place, so rows of a few chunks would be
no sample. The first exact pass audits: where fresh rows of a tile fit far worse than those of the
sample did, they come back with the tallies, and if much of the loss is theirs, H is fitted once more,
to both, without another read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.blocks.base import Tile
from dasknmf.passes import Drawn, Outcome, Phase, Rows, State, Tally
from dasknmf.solvers import cold
from dasknmf.starts import random, survey
from dasknmf.starts.trial import Trial

_FAR = 3.0
"""A tile is unlike the sample where its rows cost this many times what the sample's do."""
_MUCH = 0.05
"""H is fitted again where such tiles hold this share of the loss."""


@dataclass(frozen=True)
class Draw:
    """One read that draws the sample; its update fits H to it."""

    trial: Trial
    n_features: int
    share: float
    """Expected part of V's rows."""

    name = "sample"
    reads_data = True

    @property
    def widths(self) -> Mapping[str, int]:
        return {}

    def prepare(self, state: State) -> None:
        return None

    def tally(self) -> Tally:
        return Tally({"sample": self.nothing()})

    def nothing(self) -> Drawn:
        """No rows yet."""
        dtype = self.trial.dtype
        nbytes = int(self.share * self.trial.n_rows * self.n_features * dtype.itemsize)
        return Drawn(self.n_features, dtype, nbytes)

    def tile(self, tile: Tile, rows: Rows, small: None, tally: Tally) -> None:
        drawn = self.rows_of(tile, 0)
        tally["sample"] += self.nothing().plus(drawn + tile.first, tile.take(drawn))

    def rows_of(self, tile: Tile, number: int) -> np.ndarray:
        """Rows of a tile that draw `number` takes, counted within the tile; draws are disjoint."""
        n_rows = tile.rows.stop - tile.rows.start
        numbers = random.uniform_rows(self.trial.seed, random.DRAW_STREAM, tile.first, n_rows)
        return np.flatnonzero((number * self.share <= numbers) & (numbers < (number + 1) * self.share))

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        V = tally["sample"].values
        if not len(V):  # a V of few rows and a small share
            V = np.full((1, self.n_features), float(state["mean"]), self.trial.dtype)
        found = self.trial.of_rows(V)
        after = state | {"chosen": found.H}
        if self.share < 1:
            after |= {"sample": V, "expected": np.asarray(found.loss / len(V))}
        return after, Outcome()


@dataclass(frozen=True)
class Audited:
    """The first exact pass after a sample: it also looks for rows that the sample did not stand for."""

    phase: Phase
    draw: Draw

    reads_data = True

    @property
    def name(self) -> str:
        return self.phase.name

    @property
    def widths(self) -> Mapping[str, int]:
        return self.phase.widths

    def prepare(self, state: State) -> Any:
        H = state["H"].astype(np.float64)
        return self.phase.prepare(state), H, float(state["expected"]), float(state["eps"])

    def tally(self) -> Tally:
        return Tally(self.phase.tally().values | {"far": self.draw.nothing(), "audit": np.zeros(2)})

    def tile(self, tile: Tile, rows: Rows, small: Any, tally: Tally) -> None:
        inner, H, expected, eps = small
        self.phase.tile(tile, rows, inner, tally)
        seen = self.draw.rows_of(tile, 1)
        if not len(seen):
            return
        V = tile.take(seen)
        losses = self.draw.trial.loss.rows(V, rows["W"][seen].astype(np.float64) @ H, eps)
        far = losses.mean() > _FAR * expected
        if far:
            tally["far"] += self.draw.nothing().plus(seen + tile.first, V)
        tally["audit"] += (losses.sum(), losses.sum() * far)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        sample = state["sample"]
        state = {name: value for name, value in state.items() if name not in ("sample", "expected")}
        after, outcome = self.phase.update(tally, state)
        total, far = tally["audit"]
        if far > _MUCH * total:
            found = self.draw.trial.of_rows(np.concatenate([sample, tally["far"].values]))
            after = cold.started(after, found.H)
        return after, outcome


@dataclass(frozen=True)
class Chosen:
    """Hands the H that a start has fitted to the first exact pass, which solves W for it."""

    name = "start"
    reads_data = False

    @property
    def widths(self) -> Mapping[str, int]:
        return {}

    def prepare(self, state: State) -> None:
        return None

    def tally(self) -> Tally:
        return Tally({})

    def tile(self, tile: Any, rows: Rows, small: None, tally: Tally) -> None:
        """Its rows come from the first exact pass."""

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        sample = {name: state[name] for name in ("sample", "expected") if name in state}
        return cold.started(survey.kept(state) | sample, state["chosen"]), Outcome()
