"""The moments of V's features in one read of V, pooled over tiles and panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dasknmf.core.blocks import moments as lines
from dasknmf.core.blocks.base import Tile
from dasknmf.core.phase import Outcome, Phase, Rows, Tally
from dasknmf.core.state import Array1, State


@dataclass(frozen=True)
class Pooled:
    """Moments of each feature over a set of samples; ``+`` pools those of two disjoint sets."""

    count: int
    moments: lines.LineMoments

    @classmethod
    def none(cls, n_features: int) -> Pooled:
        return cls(0, lines.empty(n_features))

    def __add__(self, other: Pooled) -> Pooled:
        if not self.count:
            return other
        if not other.count:
            return self
        pooled = lines.pooled(self.moments, self.count, other.moments, other.count)
        return Pooled(self.count + other.count, pooled)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.moments)


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentsState(State):
    """Moments of V's features.

    Parameters
    ----------
    feature_means, feature_squares, feature_nonzeros : ndarray of shape (n_features,), float64
        Mean, sum of squared deviations from it, and number of nonzeros.
    """

    feature_means: Array1
    feature_squares: Array1
    feature_nonzeros: Array1


@dataclass(frozen=True)
class MomentsPhase(Phase):
    """Mean, squared deviations and nonzeros of each feature.

    Parameters
    ----------
    shape : tuple of int
        Numbers of rows and columns of the matrix that is read.
    transposed : bool
        Whether rows of the matrix are features, because V is stored by columns.
    """

    shape: tuple[int, int]
    transposed: bool

    name = "moments"

    def tally(self) -> Tally:
        if self.transposed:
            return Tally.zeros({"features": (3, self.shape[0])})
        return Tally({"features": Pooled.none(self.shape[1])})

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        if self.transposed:
            tally["features"][:, tile.first : tile.first + tile.n_rows] = tile.row_moments()
        else:
            tally["features"] += Pooled(tile.n_rows, tile.column_moments())

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        found = tally["features"]
        values = found if self.transposed else found.moments
        names = ("feature_means", "feature_squares", "feature_nonzeros")
        return MomentsState.of(state, **dict(zip(names, values, strict=True))), Outcome()
