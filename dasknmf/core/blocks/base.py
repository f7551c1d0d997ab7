"""The interfaces of blocks, tiles and ratios, with defaults for a V whose entries all have weight 1.

A block is one panel of V, walked in tiles; a tile is a few hundred rows; a ratio holds the matrices of a
multiplicative step for one tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import NoReturn, Self

import numpy as np

from dasknmf.core.blocks.entries import EntryWeights, Slab
from dasknmf.core.blocks.matrix import Matrix
from dasknmf.core.blocks.moments import LineMoments
from dasknmf.core.blocks.noise import Noise
from dasknmf.core.blocks.row_ratios import DenseRowRatios, RowRatios, row_floors
from dasknmf.core.losses import Loss


@dataclass(frozen=True)
class Sums:
    """Sums and counts over the entries of a tile; those of several tiles add."""

    total: float
    squares: float
    n_nan: int
    n_inf: int
    n_negative: int
    n_zero: int
    n_missing: int = 0
    """Entries of weight 0, which no other field includes."""


@dataclass(frozen=True)
class PanelSpec:
    """Size and dtype of the panel that a block walks.

    Parameters
    ----------
    n_rows, first : int
        Rows of the panel, and the index in V of the first one.
    n_features : int
    dtype : numpy.dtype
        float32 or float64: the dtype of tiles, to which values are converted a tile at a time.
    checked : bool
        Whether a walk sums V, to be compared with the sum of the first pass.
    """

    n_rows: int
    first: int
    n_features: int
    dtype: np.dtype
    checked: bool = False


class RowRange:
    """A range of rows of V: the tile of a phase that does not read V.

    Parameters
    ----------
    rows : slice
        Rows of the panel.
    first : int
        Index in V of the first row.
    """

    def __init__(self, rows: slice, first: int) -> None:
        self.rows = rows
        self.first = first

    @property
    def n_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)


@dataclass
class SharedProducts:
    """The part of one model in the products of a tile that several models share.

    Parameters
    ----------
    VHt : ndarray of shape (n_rows, n_components)
        V Hᵀ.
    W : ndarray of shape (n_rows, n_components)
        The rows of the model's W for Wᵀ V, set by its visit.
    """

    VHt: np.ndarray
    W: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


class Tile(RowRange, ABC):
    """A few hundred rows of V, small enough to stay in cache for every product of a visit.

    Defaults are those of a tile whose entries all have weight 1. For a quadratic pass a tile needs only
    products with V and a residual; operations that raise NotImplementedError are for tiles of data.
    """

    n_features: int
    dtype: np.dtype
    row_weights: np.ndarray | None = None
    """Weight of each row, shape (n_rows,), float64; None: 1."""
    plain: bool = True
    """Whether V has neither a mask nor weights, so that sums are plain loops."""

    shared: SharedProducts | None = None
    """The shared products of the model that visits the tile; None if models do not share products."""

    @property
    def complete(self) -> bool:
        """Whether entries have no weights except those of their rows and columns."""
        return True

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        """V Hᵀ, shape (n_rows, n_components)."""
        return self._cross(Ht) if self.shared is None else self.shared.VHt

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        """Add Wᵀ V to A, float64 of shape (n_components, n_features); complete when the walk ends."""
        if self.shared is None:
            self._add_cross(W, A)
        else:
            self.shared.W = W

    @abstractmethod
    def _cross(self, Ht: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _add_cross(self, W: np.ndarray, A: np.ndarray) -> None: ...

    @abstractmethod
    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        """½ ‖V − WH‖² entry by entry, weighted; from Gram matrices it would cancel on nearly exact fits."""

    def values(self) -> np.ndarray:
        """V with its zeros, shape (n_rows, n_features), valid until the next tile is made."""
        raise NotImplementedError

    def take(self, indices: np.ndarray) -> Matrix:
        """A copy of rows at ascending places, shape (len(indices), n_features), sparse where V is.

        Missing entries of a dense tile are NaN.
        """
        raise NotImplementedError

    def sums(self) -> Sums:
        """Sums over the entries (of squares, weighted), and counts of values that models do not support."""
        raise NotImplementedError

    def power_sum(self, exponent: float) -> float:
        """Σ v^exponent in float64, weighted."""
        raise NotImplementedError

    def column_sums(self) -> np.ndarray:
        """Σ over rows, shape (n_features,), float64."""
        raise NotImplementedError

    def column_moments(self) -> LineMoments:
        """Mean, Σ (v − mean)² and nonzeros of each column, three arrays of shape (n_features,)."""
        raise NotImplementedError

    def row_moments(self) -> LineMoments:
        """Mean, Σ (v − mean)² and nonzeros of each row, three arrays of shape (n_rows,)."""
        raise NotImplementedError

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        """V ∘ P^{β−2} and P^{β−1} for P = WH, floored at `eps` where a negative power is taken."""
        raise NotImplementedError

    def reweighted(self, a: np.ndarray) -> Self:
        """A copy of the tile with row weights multiplied by `a`, shape (n_rows,), float64."""
        tile = copy(self)
        tile.plain = False
        tile.row_weights = a if self.row_weights is None else a * self.row_weights
        return tile

    def noisy(self, noise: Noise, places: np.ndarray) -> Tile:
        """A copy of the tile with noise in its values; missing and hidden entries stay missing and hidden.

        `places` are the places of the rows, shape (n_rows,), int64.
        """
        raise NotImplementedError

    def mask(self) -> np.ndarray | None:
        """Mask of the entries with a positive weight, shape (n_rows, n_features), bool; None: all."""
        return None

    def nonempty_rows(self) -> np.ndarray:
        """Whether each row has an entry of positive weight, shape (n_rows,), bool."""
        return np.ones(self.n_rows, bool)

    def column_counts(self) -> np.ndarray:
        """Σ of the weights of each column's entries, shape (n_features,), float64."""
        a = self.row_weights
        return np.full(self.n_features, float(self.n_rows) if a is None else a.sum())

    def row_grams(self, HH: np.ndarray) -> np.ndarray:
        """Packed Gram matrices Σ_j Ω_ij h_j h_jᵀ of the rows, shape (n_rows, size).

        `HH`, shape (n_features, size), holds the packed products of H's columns with the columns' weights.
        """
        return np.broadcast_to(HH.sum(axis=0), (self.n_rows, HH.shape[1]))

    def add_column_grams(self, WW: np.ndarray, T: np.ndarray) -> None:
        """Add Σ_i Ω_ij WW_i to each line of T, float64 of shape (n_features, size).

        `WW`, shape (n_rows, size), holds the packed products of W's rows with the rows' weights.
        """
        T += WW.sum(axis=0)

    def imputed(self, W: np.ndarray, H: np.ndarray) -> Tile:
        """A complete tile: Ω ∘ V + (1 − Ω) ∘ WH."""
        return self

    def imputed_from(self, P: np.ndarray, *, by_weight: bool = True) -> Tile:
        """A complete tile: Ω ∘ V + (1 − Ω) ∘ P, or V wherever Ω is not 0 if not `by_weight`."""
        return self

    def hidden_counts(self) -> tuple[int, np.ndarray]:
        """Number of rows whose entries are all hidden, and each column's sum of a_i over hidden entries."""
        return 0, np.zeros(self.n_features)

    def hidden_loss(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> tuple[float, int]:
        """D(V | WH) over the hidden entries, and their number."""
        return 0.0, 0

    def row_losses(
        self, W: np.ndarray, H: np.ndarray, loss: Loss, column_weights: np.ndarray | None
    ) -> np.ndarray:
        """D(v_i | w_i H) of each row, shape (n_rows,), float64, with a floor of P for each row.

        W and H are float64; the same H for every tile of a walk.
        """
        V, P, mask = self.values(), W @ H, self.mask()
        floors = row_floors(V, mask)
        if mask is not None:
            P = np.where(mask, P, np.maximum(P, floors))
            V = np.where(mask, V, P)  # a missing entry has no loss
        return loss.rows(V, P, floors, column_weights)

    def row_ratios(self, H: np.ndarray, bHt: np.ndarray, beta: float) -> RowRatios:
        """The multiplicative steps of single rows, for one H and (H diag(b))ᵀ, both in the tile's dtype."""
        return DenseRowRatios(self.values(), self.mask(), H, bHt, beta)


class Ratio(ABC):
    """The two weighted matrices of a multiplicative step, held by the tile until its next ratio."""

    @abstractmethod
    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        """(V ∘ P^{β−2}) Hᵀ, shape (n_rows, n_components)."""

    @abstractmethod
    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        """P^{β−1} Hᵀ, shape (n_rows, n_components)."""

    @abstractmethod
    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        """Add Wᵀ (V ∘ P^{β−2}) to A, float64; complete when the walk ends."""

    @abstractmethod
    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        """Add Wᵀ P^{β−1} to B, float64."""

    @abstractmethod
    def curvature_rows(self, HH: np.ndarray) -> np.ndarray:
        """(V ∘ P^{−2}) HH for β = 1, shape (n_rows, size); `HH` as for `Tile.row_grams`."""

    @abstractmethod
    def add_curvature(self, WW: np.ndarray, T: np.ndarray) -> None:
        """Add WWᵀ (V ∘ P^{−2}) to T, float64 of shape (size, n_features), for β = 1; complete after the walk.

        `WW` as for `Tile.add_column_grams`.
        """

    @abstractmethod
    def loss(self) -> float:
        """D(V | P) of the tile less the survey's constant of V, weighted, in float64."""


class Block(ABC):
    """One panel of V, walked in tiles. Each walk reads the panel once."""

    n_rows: int
    total = 0.0
    """Σ of V's stored values, once a walk of a `checked` panel is complete."""
    nbytes = 0
    """Bytes of the slabs that the last walk read."""

    @abstractmethod
    def tiles(self) -> Iterator[RowRange]:
        """The tiles from the first row to the last."""


class SlabBlock(Block):
    """A panel given as slabs of whole rows.

    Parameters
    ----------
    slabs : iterable of Slab, each of shape (slab_rows, n_features)
        Slabs of the panel, read one after another; each walk over the block iterates it anew.
    spec : PanelSpec
    entries : EntryWeights or None
        None: every entry has weight 1.
    """

    def __init__(self, slabs: Iterable[Slab], spec: PanelSpec, entries: EntryWeights | None = None) -> None:
        self._slabs = slabs
        self._spec = spec
        self._entries = entries
        self.n_rows = spec.n_rows

    @abstractmethod
    def tiles(self) -> Iterator[Tile]:
        """The tiles from the first row to the last, each valid until the next is made."""

    def _at(self, row: int, n_rows: int) -> RowRange:
        """The range of a tile of `n_rows` rows that begins at a row of the panel."""
        return RowRange(slice(row, row + n_rows), self._spec.first + row)

    def _refuse(self, row: int) -> NoReturn:
        raise ValueError(
            f"a panel has {row} rows instead of {self.n_rows}; the shape of V changed after V was opened: "
            "open V again."
        )


_RANGE_ROWS = 4096


class RowsOnly(Block):
    """The block of a phase that does not read V: ranges of rows."""

    def __init__(self, n_rows: int, first: int) -> None:
        self.n_rows = n_rows
        self.first = first

    def tiles(self) -> Iterator[RowRange]:
        for start in range(0, self.n_rows, _RANGE_ROWS):
            stop = min(start + _RANGE_ROWS, self.n_rows)
            yield RowRange(slice(start, stop), self.first + start)
