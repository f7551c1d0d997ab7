"""Dense panels of which some entries are not observed, or count more than others.

With Ω ≥ 0 the weight of each entry, V is kept as 0 where Ω is, so that V Hᵀ and Wᵀ V are the products
of a tile without missing values. What else a least-squares solver needs is a Gram matrix for each row
and for each column, their upper triangles packed into lines::

    S_i = Σ_j Ω_ij b_j h_j h_jᵀ = (Ω · [b_j h_j ⊗ h_j])_i          T_j = Σ_i a_i Ω_ij w_i w_iᵀ

one product each. Columns with the same weights throughout a tile (the bands of a date, under a cloud)
enter them as one: most masks have far fewer columns than V.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.core.blocks import moments, sums
from dasknmf.core.blocks.base import Ratio, Sums
from dasknmf.core.blocks.decode import along_keys, hide, line_keys, weighted_total
from dasknmf.core.blocks.dense import DenseRatio, DenseTile, Scratch
from dasknmf.core.blocks.entries import Holdout
from dasknmf.core.losses import Loss
from dasknmf.errors import DataError

_NUMBERS = np.random.default_rng(20).integers(0, 2**64, 1024, np.uint64, endpoint=False) | np.uint64(1)
"""One for each row of a tile: two columns that differ have the same key once in 2⁶⁴ draws of them."""


class Hidden:
    """The entries of a tile that a fit does not see.

    Parameters
    ----------
    rows, columns : ndarray of int of shape (n_hidden,)
        Where they are in the tile.
    values : ndarray of shape (n_hidden,)
    """

    __slots__ = ("columns", "rows", "values", "weights")

    def __init__(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        self.rows = rows
        self.columns = columns
        self.values = values
        self.weights: np.ndarray | None = None

    @classmethod
    def taken(cls, holdout: Holdout, V: np.ndarray, seen: np.ndarray, places: np.ndarray) -> Hidden:
        """Take them out of V and of what is seen; `places` are those of its rows."""
        room = V.size if holdout.share > 0.25 else int(V.size * 2 * holdout.share) + 1000
        rows, columns = np.empty(room, np.int32), np.empty(room, np.int32)
        values = np.empty(room, V.dtype)
        drawn: Any = (holdout.n_columns, holdout.transposed, holdout.key, holdout.below)
        taken: Any = (rows, columns, values)
        count = hide(V, seen, places, *drawn, *taken)
        return cls(rows[:count], columns[:count], values[:count])


class MaskedTile:
    """A dense tile with weights; see `dasknmf.core.blocks.base.Tile`."""

    __slots__ = (
        "V",
        "_groups",
        "_scratch",
        "column_weights",
        "first",
        "hidden",
        "row_weights",
        "rows",
        "weights",
    )

    def __init__(
        self,
        V: np.ndarray,
        weights: np.ndarray | None,
        row_weights: np.ndarray | None,
        column_weights: np.ndarray | None,
        rows: slice,
        first: int,
        scratch: Scratch,
        hidden: Hidden | None = None,
    ) -> None:
        self.V = V
        self.weights = weights
        """Of entries: uint8 (0 and 1) or floats; None where all are 1."""
        self.row_weights = row_weights
        self.column_weights = column_weights
        self.rows = rows
        self.first = first
        self.hidden = hidden
        self._scratch = scratch
        self._groups: tuple[np.ndarray, np.ndarray | None] | None = None

    @classmethod
    def of(cls, tile: DenseTile) -> MaskedTile:
        """A tile of which nothing is missing: its values, and room for weights of its rows."""
        return cls(tile.V, None, tile.row_weights, None, tile.rows, tile.first, tile._scratch)

    @property
    def dtype(self) -> np.dtype:
        return self.V.dtype

    @property
    def complete(self) -> bool:
        """Whether every entry counts, and as much as any other of its row and column."""
        return self.weights is None

    def sums(self) -> Sums:
        total, squares, n_nan, n_inf, n_negative, n_zero = sums.survey(flat(self.V))
        n_missing = 0 if self.weights is None else self.weights.size - int(np.count_nonzero(self.weights))
        weighted = not self.complete or self.row_weights is not None or self.column_weights is not None
        if weighted and np.isfinite(squares):
            squares = self._total(self.V, self._weighted(self.V))
        return Sums(total, squares, n_nan, n_inf, n_negative, n_zero - n_missing, n_missing)

    def power_sum(self, exponent: float) -> float:
        powers = np.zeros(self.V.shape)
        np.power(self.V, exponent, out=powers, where=self.observed, dtype=np.float64)
        return self._total(powers, np.ones_like(self.V) if self.weights is None else self.weights)

    @property
    def observed(self) -> np.ndarray:
        """Which entries count, shape (rows, n_features), bool."""
        return np.ones(self.V.shape, bool) if self.weights is None else np.asarray(self.weights != 0)

    def column_sums(self) -> np.ndarray:
        return np.matmul(np.ones(len(self.V), self.V.dtype), self.V).astype(np.float64)

    def column_moments(self) -> moments.LineMoments:
        return moments.of_columns(self.V)

    def row_moments(self) -> moments.LineMoments:
        return moments.of_rows(self.V)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows in memory of their own, NaN where nothing is observed."""
        taken = np.ascontiguousarray(self.V[indices])
        if self.weights is not None:
            taken[self.weights[indices] == 0] = np.nan
        return taken

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self._weighted(self.V), Ht)

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        sums.accumulate(A.reshape(-1), np.matmul(W.T, self._weighted(self.V)).reshape(-1))

    def row_grams(self, HH: np.ndarray) -> np.ndarray:
        """S_i of each row, from packed products of H's columns, which have the columns' weights in them.

        Parameters
        ----------
        HH : ndarray of shape (n_features, size)

        Returns
        -------
        ndarray of shape (rows, size)
        """
        groups, group_of = self._grouped()
        if group_of is not None:
            # Sums over sorted features: a matrix of groups and features may be larger than V.
            order = np.argsort(group_of, kind="stable")
            first = np.searchsorted(group_of[order], np.arange(groups.shape[1]))
            HH = np.add.reduceat(HH[order], first, axis=0, dtype=np.float64).astype(HH.dtype)
        # In Fortran's order, in which rows move side by side.
        return np.matmul(HH.T, groups.T).T

    def add_column_grams(self, WW: np.ndarray, T: np.ndarray) -> None:
        """T_j += Σ_i Ω_ij WW_i: packed products of W's rows, which have the rows' weights in them.

        Parameters
        ----------
        WW : ndarray of shape (rows, size)
        T : ndarray of shape (n_features, size), float64
        """
        groups, group_of = self._grouped()
        part = np.matmul(groups.T, WW)
        T += part if group_of is None else part[group_of]

    def row_is_observed(self) -> np.ndarray:
        """Whether a row has an entry that counts, shape (rows,)."""
        return np.asarray(self._grouped()[0].any(axis=1))

    def observations(self) -> np.ndarray:
        """Σ of the weights of each column's entries, shape (n_features,), float64."""
        groups, group_of = self._grouped()
        a = np.ones(len(self.V)) if self.row_weights is None else self.row_weights
        counts = a @ groups.astype(np.float64)
        return counts if group_of is None else counts[group_of]

    def hidden_whole(self) -> tuple[int, np.ndarray]:
        """Of how many rows all that is observed is hidden, and Σ a_i over what is hidden of each column."""
        n_rows, n_features = self.V.shape
        if self.hidden is None:
            return 0, np.zeros(n_features)
        hides = np.zeros(n_rows, bool)
        hides[self.hidden.rows] = True
        a = None if self.row_weights is None else self.row_weights[self.hidden.rows]
        of_columns = np.bincount(self.hidden.columns, a, n_features).astype(np.float64)
        return int(np.count_nonzero(hides & ~self.row_is_observed())), of_columns

    def completed(self, W: np.ndarray, H: np.ndarray) -> DenseTile:
        """V where it is observed and WH elsewhere, and between the two by the weight of an entry."""
        return self.filled(self._product("P", W, H))

    def filled(self, P: np.ndarray, *, by_weight: bool = True) -> DenseTile:
        """The same for any P."""
        V = self._scratch.get("filled", len(self.V))
        if self.weights is None:
            np.copyto(V, self.V)
        elif self.weights.dtype == np.uint8 or not by_weight:
            # V is 0 where nothing is observed.
            np.multiply(P, self.weights == 0, out=V)
            np.add(V, self.V, out=V)
        else:
            most = float(self.weights.max())
            if most > 1:
                raise DataError(
                    f"weights hold {most:g}; with so many components entries are filled in by their weight, "
                    "which is at most 1 then: divide the weights by the largest."
                )
            np.subtract(self.V, P, out=V)
            np.multiply(V, self.weights, out=V)
            np.add(V, P, out=V)
        return DenseTile(V, self.rows, self.first, self._scratch, self.row_weights)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = self._product("P", W, H)
        np.subtract(self.V, P, out=P)
        return 0.5 * self._total(P, self._weighted(P))

    def hidden_loss(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> tuple[float, int]:
        """D(V | WH) over the entries that are hidden, and how many they are."""
        hidden = self.hidden
        if hidden is None or not len(hidden.values):
            return 0.0, 0
        # A chunk at a time: products of all hidden entries would be as large as k of them.
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

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        self._turn_by_rows()
        if self.weights is not None:
            # Any positive value will do where nothing is observed: its weight is 0.
            V = self._scratch.get("positive", len(self.V))
            np.copyto(V, self.V)
            V[~self.observed] = eps
        else:
            V = self.V
        plain = DenseTile(V, self.rows, self.first, self._scratch).ratio(W, H, beta, eps)
        return MaskedRatio(plain, self)

    def _product(self, name: str, W: np.ndarray, H: np.ndarray) -> np.ndarray:
        """WH in a buffer of V's memory order."""
        P = self._scratch.get(name, len(self.V))
        if P.flags.c_contiguous:
            return np.matmul(W, H, out=P)
        np.matmul(H.T, W.T, out=P.T)
        return P

    def _weighted(self, X: np.ndarray) -> np.ndarray:
        """Ω ∘ X, where X is 0 wherever Ω is not: itself if weights are 0 and 1 and X is V."""
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

    def _turn_by_rows(self) -> None:
        """Put V and its weights in rows, as the element-wise loops walk them."""
        if self.V.flags.c_contiguous:
            return
        self._scratch = self._scratch.by_rows
        V, self.V = self.V, self._scratch.get("values", len(self.V))
        np.copyto(self.V, V)
        if self.weights is not None:
            weights = self.weights
            self.weights = self._scratch.get(f"weights {weights.dtype}", len(V), weights.dtype)
            np.copyto(self.weights, weights)

    def _grouped(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Columns of Ω of which none equals another, in V's dtype, and which of them each feature has."""
        if self._groups is None:
            self._groups = self._found_groups()
        return self._groups

    def _found_groups(self) -> tuple[np.ndarray, np.ndarray | None]:
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


_HIDDEN = 2**16


class MaskedRatio:
    """The two matrices of a multiplicative step with weights in them; see `blocks.base.Ratio`."""

    __slots__ = ("_R", "_loss", "_plain")

    def __init__(self, plain: DenseRatio, tile: MaskedTile) -> None:
        a = None if tile.row_weights is None else tile.row_weights.astype(np.float64)
        self._loss = plain.weighted_loss(tile.weights, a, tile.column_weights)
        self._R = plain.R
        self._plain = plain
        if tile.weights is not None:
            np.multiply(plain.Q, tile.weights, out=plain.Q)
            np.multiply(self._denominators, tile.weights, out=self._R)

    @property
    def _denominators(self) -> np.ndarray:
        """R; for β = 1 and no weights of entries the ones that only a model with missing entries asks for."""
        if self._R is None:
            self._R = np.ones_like(self._plain.Q)
        return self._R

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return self._plain.numerator_rows(Ht)

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self._denominators, Ht)

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        self._plain.add_numerator(W, A)

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        sums.accumulate(B.reshape(-1), np.matmul(W.T, self._denominators).reshape(-1))

    def loss(self) -> float:
        return self._loss


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1) if values.flags.c_contiguous else values.T.reshape(-1)
