"""Tiles of dense panels, whose entries may be missing, hidden or weighted.

With Ω ≥ 0 the weight of each entry, V is 0 wherever Ω is, so V Hᵀ, n_rows × k, and Wᵀ V, k × n_features, are
computed as for a tile without missing values. A least-squares solver also needs a Gram matrix, k × k, for
each row and for each column; their upper triangles are the lines of two matrices, each computed as one
product::

    S_i = Σ_j Ω_ij b_j h_j h_jᵀ = (Ω · [b_j h_j ⊗ h_j])_i          T_j = Σ_i a_i Ω_ij w_i w_iᵀ

Columns with the same weights in all rows of a tile, such as the bands of one date under a cloud, are one
group, and one column of the products: most masks have far fewer groups than V has columns.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from dasknmf.core.blocks import moments, sums
from dasknmf.core.blocks.base import RowRange, Sums, Tile
from dasknmf.core.blocks.decode import Hidden, along_keys, line_keys, weighted_total
from dasknmf.core.blocks.dense_ratio import DenseRatio, MaskedRatio, TileWeights
from dasknmf.core.blocks.noise import Noise
from dasknmf.core.blocks.scratch import Scratch
from dasknmf.core.losses import Loss
from dasknmf.errors import DataError

_NUMBERS = np.random.default_rng(20).integers(0, 2**64, 1024, np.uint64, endpoint=False) | np.uint64(1)
"""A random number for each row of a tile: two different columns have equal keys with probability 2⁻⁶⁴."""

_HIDDEN = 2**16
"""Number of hidden entries handled at a time, which bounds the memory of their products."""


class DenseTile(Tile):
    """A dense tile.

    Parameters
    ----------
    V : ndarray of shape (n_rows, n_features), float32 or float64
        0 where the weight of an entry is.
    at : RowRange
    scratch : Scratch
        Buffers of the walk, in the memory order of V if there are weights.
    weights : TileWeights or None
        None: every entry has weight 1, and V has no mask in any tile.
    hidden : Hidden or None
        Hidden entries, which are missing in V.
    """

    def __init__(
        self,
        V: np.ndarray,
        at: RowRange,
        scratch: Scratch,
        weights: TileWeights | None = None,
        hidden: Hidden | None = None,
    ) -> None:
        super().__init__(at.rows, at.first)
        self.V = V
        self.n_features = V.shape[1]
        self.dtype = V.dtype
        self._scratch = scratch
        self.plain = weights is None
        weights = weights or TileWeights()
        self.weights = weights.entries
        self.row_weights = weights.rows
        self.column_weights = weights.columns
        self.hidden = hidden

    @property
    def complete(self) -> bool:
        return self.weights is None

    def mask(self) -> np.ndarray | None:
        return None if self.weights is None else np.asarray(self.weights != 0)

    def values(self) -> np.ndarray:
        return self.V

    def take(self, indices: np.ndarray) -> np.ndarray:
        taken = np.ascontiguousarray(self.V[indices])
        if self.weights is not None:
            taken[self.weights[indices] == 0] = np.nan
        return taken

    def sums(self) -> Sums:
        found = Sums(*sums.survey(flat(self.V)))
        n_missing = 0 if self.weights is None else self.weights.size - int(np.count_nonzero(self.weights))
        squares = found.squares
        weighted = not self.complete or self.row_weights is not None or self.column_weights is not None
        if weighted and np.isfinite(squares):
            squares = self._total(self.V, self._weighted(self.V))
        return replace(found, squares=squares, n_zero=found.n_zero - n_missing, n_missing=n_missing)

    def power_sum(self, exponent: float) -> float:
        if self.plain and exponent == 1:
            return float(sums.total(flat(self.V)))
        if self.plain:
            return float((self.V.astype(np.float64) ** exponent).sum())
        powers = np.zeros(self.V.shape)
        mask = self.mask()
        where = np.ones(self.V.shape, bool) if mask is None else mask
        np.power(self.V, exponent, out=powers, where=where, dtype=np.float64)
        return self._total(powers, np.ones_like(self.V) if self.weights is None else self.weights)

    def column_sums(self) -> np.ndarray:
        return np.matmul(np.ones(len(self.V), self.V.dtype), self.V).astype(np.float64)

    def column_moments(self) -> moments.LineMoments:
        return moments.of_columns(self.V)

    def row_moments(self) -> moments.LineMoments:
        return moments.of_columns(self.V.T)

    def _cross(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self._weighted(self.V), Ht)

    def _add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        sums.add_to(A, np.matmul(W.T, self._weighted(self.V)))

    def row_grams(self, HH: np.ndarray) -> np.ndarray:
        groups, group_of = self._groups
        if group_of is not None:
            # Sums over sorted features: a matrix of groups times features could be larger than V.
            order = np.argsort(group_of, kind="stable")
            first = np.searchsorted(group_of[order], np.arange(groups.shape[1]))
            HH = np.add.reduceat(HH[order], first, axis=0, dtype=np.float64).astype(HH.dtype)
        # In Fortran's order, for updates of many rows at once.
        return np.matmul(HH.T, groups.T).T

    def add_column_grams(self, WW: np.ndarray, T: np.ndarray) -> None:
        groups, group_of = self._groups
        part = np.matmul(groups.T, WW)
        T += part if group_of is None else part[group_of]

    def nonempty_rows(self) -> np.ndarray:
        return np.asarray(self._groups[0].any(axis=1))

    def column_counts(self) -> np.ndarray:
        groups, group_of = self._groups
        a = np.ones(len(self.V)) if self.row_weights is None else self.row_weights
        counts = a @ groups.astype(np.float64)
        return counts if group_of is None else counts[group_of]

    def hidden_counts(self) -> tuple[int, np.ndarray]:
        if self.hidden is None:
            return super().hidden_counts()
        hides = np.zeros(self.n_rows, bool)
        hides[self.hidden.rows] = True
        a = None if self.row_weights is None else self.row_weights[self.hidden.rows]
        of_columns = np.bincount(self.hidden.columns, a, self.n_features).astype(np.float64)
        return int(np.count_nonzero(hides & ~self.nonempty_rows())), of_columns

    def hidden_loss(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> tuple[float, int]:
        hidden = self.hidden
        if hidden is None or not len(hidden.values):
            return 0.0, 0
        p = np.empty(len(hidden.values))
        for start in range(0, len(p), _HIDDEN):
            some = slice(start, start + _HIDDEN)
            products = W[hidden.rows[some]].astype(np.float64) * H.T[hidden.columns[some]]
            p[some] = products.sum(axis=1)
        losses = Loss(beta).rows(hidden.values[:, None], p[:, None], eps)
        if hidden.weights is not None:
            losses *= hidden.weights
        if self.row_weights is not None:
            losses *= self.row_weights[hidden.rows]
        if self.column_weights is not None:
            losses *= self.column_weights[hidden.columns]
        return float(losses.sum()), len(p)

    def imputed(self, W: np.ndarray, H: np.ndarray) -> Tile:
        return self.imputed_from(self._product(W, H))

    def imputed_from(self, P: np.ndarray, *, by_weight: bool = True) -> Tile:
        V = self._scratch.get("imputed", len(self.V))
        if self.weights is None:
            np.copyto(V, self.V)
        elif self.weights.dtype == np.uint8 or not by_weight:
            # V is 0 where an entry is missing.
            np.multiply(P, self.weights == 0, out=V)
            np.add(V, self.V, out=V)
        else:
            most = float(self.weights.max())
            if most > 1:
                raise DataError(
                    f"the largest weight is {most:g}; with so many components weights must be at most 1: "
                    "divide the weights by the largest."
                )
            np.subtract(self.V, P, out=V)
            np.multiply(V, self.weights, out=V)
            np.add(V, P, out=V)
        tile = DenseTile(V, self, self._scratch)
        tile.row_weights = self.row_weights
        return tile

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = self._product(W, H)
        np.subtract(self.V, P, out=P)
        if self.plain:
            return 0.5 * sums.product_total(flat(P), flat(P))
        return 0.5 * self._total(P, self._weighted(P))

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> DenseRatio:
        self._copy_by_rows()
        V = self.V
        if self.weights is not None:
            # Missing entries take any positive value, as their weight is 0.
            V = self._scratch.get("positive", len(self.V))
            np.copyto(V, self.V)
            V[self.weights == 0] = eps
        P = np.matmul(W, H, out=self._scratch.get("P", len(V)))
        ratio = DenseRatio(V, P, beta, eps, self._scratch)
        if self.plain:
            return ratio
        return MaskedRatio(ratio, TileWeights(self.weights, self.row_weights, self.column_weights))

    def noisy(self, noise: Noise, places: np.ndarray) -> Tile:
        tile = copy(self)
        tile.V = noise.of_dense(self.V, places)
        return tile

    def _product(self, W: np.ndarray, H: np.ndarray) -> np.ndarray:
        """WH in a buffer of V's memory order."""
        P = self._scratch.get("P", len(self.V))
        if P.flags.c_contiguous:
            return np.matmul(W, H, out=P)
        np.matmul(H.T, W.T, out=P.T)
        return P

    def _weighted(self, X: np.ndarray) -> np.ndarray:
        """Ω ∘ X; V itself if X is V and weights are 0 and 1, as V is 0 where they are."""
        if self.weights is None or (X is self.V and self.weights.dtype == np.uint8):
            return X
        return np.multiply(X, self.weights, out=self._scratch.get("weighted", len(self.V)))

    def _total(self, left: np.ndarray, right: np.ndarray) -> float:
        """Σ a_i b_j u_ij v_ij in float64."""
        n_rows, n_features = left.shape
        a = np.ones(n_rows) if self.row_weights is None else self.row_weights.astype(np.float64)
        b = np.ones(n_features) if self.column_weights is None else self.column_weights
        if left.flags.c_contiguous and right.flags.c_contiguous:
            return float(weighted_total(left, right, a, b))
        if left.flags.f_contiguous and right.flags.f_contiguous:
            return float(weighted_total(left.T, right.T, b, a))
        return float(weighted_total(np.ascontiguousarray(left), np.ascontiguousarray(right), a, b))

    def _copy_by_rows(self) -> None:
        """Make V and its weights C-contiguous, as element-wise loops walk them."""
        if self.V.flags.c_contiguous:
            return
        self._scratch = self._scratch.by_rows
        V, self.V = self.V, self._scratch.get("values", len(self.V))
        np.copyto(self.V, V)
        if (weights := self.weights) is not None:
            self.weights = self._scratch.get(f"weights {weights.dtype}", len(weights), weights.dtype)
            np.copyto(self.weights, weights)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Distinct columns of Ω in V's dtype, and the index of each feature's column; None: all columns."""
        n_rows, n_features = self.V.shape
        if self.weights is None:
            return np.ones((n_rows, 1), self.V.dtype), np.zeros(n_features, np.intp)
        bits = self.weights.view(np.dtype(f"u{self.weights.itemsize}"))
        keys = np.empty(n_features, np.uint64)
        if bits.flags.c_contiguous:
            line_keys(bits, _NUMBERS, keys)
        else:
            along_keys(bits.T, _NUMBERS, keys)
        _, first, group_of = np.unique(keys, return_index=True, return_inverse=True)
        if 2 * len(first) > n_features:
            return self.weights.astype(self.V.dtype), None
        return self.weights[:, first].astype(self.V.dtype), group_of


def flat(values: np.ndarray) -> np.ndarray:
    """The values in one contiguous row: a view where the memory is in one piece."""
    return values.reshape(-1) if values.flags.c_contiguous else values.T.reshape(-1)
