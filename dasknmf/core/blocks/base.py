"""What every storage kind answers, and the block of a phase that does not read V."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dasknmf.core.blocks.matrix import Matrix
from dasknmf.core.blocks.moments import LineMoments


@dataclass(frozen=True)
class Sums:
    """What the survey asks of a tile: all of it adds over tiles."""

    total: float
    squares: float
    n_nan: int
    n_inf: int
    n_negative: int
    n_zero: int
    n_missing: int = 0
    """Entries that are not observed: they have no part in the others."""


class Tile(Protocol):
    """A few hundred rows of V, small enough to stay in cache for every product of a visit."""

    rows: slice
    """Rows of the panel that this tile covers."""
    first: int
    """Index in V of the tile's first row."""
    row_weights: np.ndarray | None
    """How often each row counts, shape (rows,), float64; None: once."""

    def sums(self) -> Sums:
        """Sums over the entries, and counts of the values that no model takes; squares are weighted."""

    def power_sum(self, exponent: float) -> float:
        """Σ v^exponent in float64, weighted."""

    def column_sums(self) -> np.ndarray:
        """Σ over rows, shape (n_features,), float64."""

    def column_moments(self) -> LineMoments:
        """Mean, Σ (v − mean)² and nonzeros of each column, three arrays of shape (n_features,)."""

    def row_moments(self) -> LineMoments:
        """The same of each row, three arrays of shape (rows,)."""

    def take(self, indices: np.ndarray) -> Matrix:
        """A copy of rows at ascending places, shape (len(indices), n_features): sparse where V is."""

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        """V Hᵀ, shape (rows, n_components)."""

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        """A += Wᵀ V, where A has shape (n_components, n_features) and is float64; done when the walk ends."""

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        """½ ‖V − WH‖² entry by entry, weighted; free of the cancellation that the Gram identity suffers."""

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        """V ∘ P^{β−2} and P^{β−1} for P = WH, floored at `eps` where a negative power is taken."""


class Ratio(Protocol):
    """The two weighted matrices of a multiplicative step, held by the tile until its next ratio."""

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        """(V ∘ P^{β−2}) Hᵀ, shape (rows, n_components)."""

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        """P^{β−1} Hᵀ, shape (rows, n_components)."""

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        """A += Wᵀ (V ∘ P^{β−2}), done when the walk ends."""

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        """B += Wᵀ P^{β−1}."""

    def loss(self) -> float:
        """D(V | P) of the tile less the survey's constant of V, weighted, in float64."""


class Block(Protocol):
    """One panel of V, walked in tiles. Each walk reads the panel once."""

    n_rows: int

    def tiles(self) -> Iterator[Tile]:
        """The tiles from the first row to the last."""


_RANGE_ROWS = 4096


@dataclass(frozen=True)
class RowRange:
    """A tile of a phase that only works on factor rows."""

    rows: slice
    first: int


@dataclass(frozen=True)
class RowsOnly:
    """The block of a phase that does not read V: ranges of rows."""

    n_rows: int
    first: int

    def tiles(self) -> Iterator[RowRange]:
        for start in range(0, self.n_rows, _RANGE_ROWS):
            stop = min(start + _RANGE_ROWS, self.n_rows)
            yield RowRange(slice(start, stop), self.first + start)
