"""Tiles of sparse panels, with operations at the cost of the nonzeros.

With m features and k components::

    N = V Hᵀ         n_rows × k: a loop over the nonzeros, with a row of Hᵀ for each
    A += Wᵀ V        k × m: the same loop with rows of Aᵀ, in V's dtype; added to A every 2048 rows or more
    Q = V / P        β = 1: P = WH is needed only where V is not zero, and Σ P = Σ_i w_i · Σ_j h_j
    V − WH           of every entry: P is made dense, a tile at a time, as the loss by Gram matrices would
                     cancel on fits that are nearly exact
    other β          P^{β−1} matters where V is zero too: V is made dense, a tile at a time
"""

from __future__ import annotations

from copy import copy

import numpy as np
from scipy.sparse import csr_array

from dasknmf.core.blocks import moments, nonzeros, ratios, sums
from dasknmf.core.blocks.base import Ratio, RowRange, Sums, Tile
from dasknmf.core.blocks.csr_walk import CsrRows, CsrWalk
from dasknmf.core.blocks.decode import weighted_total
from dasknmf.core.blocks.dense_ratio import TileWeights
from dasknmf.core.blocks.dense_tile import DenseTile
from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.blocks.noise import Noise
from dasknmf.core.blocks.row_ratios import RowRatios, mean_floors
from dasknmf.core.blocks.simd import filled, padded
from dasknmf.core.losses import Loss


class CsrTile(Tile):
    """A sparse tile. Rows and columns may have weights, and a block of entries may be hidden.

    Hidden entries are a block, rows R times columns C, as lists of single zeros would be as long as V is
    large. The Gram matrices S_i of rows and T_j of columns then have two values each, so products keep the
    cost of the nonzeros::

        S_i = S − [i ∈ R] S_C            T_j = G − [j ∈ C] G_R

    `row_grams` takes two lines, of all columns and of the columns outside of C; `add_column_grams` adds to
    two lines, of all rows and of the rows outside of R. For β other than 1 and 2 tiles are made dense, and
    the block is part of their mask.

    Parameters
    ----------
    rows : CsrRows
        Values in the dtype of the walk, columns as int32.
    at : RowRange
    walk : CsrWalk
    entries : EntryWeights or None
        None: every entry has weight 1, apart from the weights of `rows`.

    Attributes
    ----------
    in_R, in_C : ndarray of bool of shape (n_rows,), (n_features,)
        Rows and columns of the hidden block.

    References
    ----------
    Owen, A. B., & Perry, P. O. (2009). Bi-cross-validation of the SVD and the nonnegative matrix
    factorization. The Annals of Applied Statistics, 3(2).
    """

    def __init__(
        self, rows: CsrRows, at: RowRange, walk: CsrWalk, entries: EntryWeights | None = None
    ) -> None:
        super().__init__(at.rows, at.first)
        self.v, self.columns, self.pointers, self.row_weights = rows
        self.n_features = walk.n_features
        self.dtype = walk.dtype
        self._walk = walk
        self.plain = entries is None and rows.weights is None
        self.column_weights = None if entries is None else entries.weights
        self.in_R, self.in_C = np.zeros(self.n_rows, bool), np.zeros(self.n_features, bool)
        self._places = np.zeros(0, np.intp)
        self._hidden_v = np.zeros(0, self.dtype)
        if entries is not None and (holdout := entries.holdout) is not None:
            self.in_C = walk.once("hidden", holdout, lambda: holdout.hidden_columns(walk.n_features))
            self.in_R = holdout.hidden_rows(self.first, self.n_rows)
            inside = np.repeat(self.in_R, np.diff(self.pointers)) & self.in_C[self.columns]
            self._places = np.flatnonzero(inside)
            self._hidden_v = self.v[self._places]
            self.v = self.v.copy()
            self.v[self._places] = 0

    @property
    def complete(self) -> bool:
        return not self.in_R.any()

    @property
    def _rows(self) -> CsrRows:
        return CsrRows(self.v, self.columns, self.pointers)

    @property
    def _n_absent(self) -> int:
        return self.n_rows * self.n_features - self.v.size

    def values(self) -> np.ndarray:
        V = self._walk.dense.get("values", self.n_rows)
        V[:] = 0
        nonzeros.spread(self.pointers, self.columns, self.v, V, 1.0)
        return V

    def take(self, indices: np.ndarray) -> csr_array:
        return csr_array(self._rows.select(indices)[:3], shape=(len(indices), self.n_features))

    def sums(self) -> Sums:
        total, squares, n_nan, n_inf, n_negative, n_zero = sums.survey(self.v)
        if not self.plain:
            squares = float(self._entry_weights() @ self.v.astype(np.float64) ** 2)
        # Hidden places that are stored count among the zeros of v, others among the absent ones.
        n_zero += self._n_absent - self._n_hidden
        return Sums(total, squares, n_nan, n_inf, n_negative, n_zero, self._n_hidden)

    def power_sum(self, exponent: float) -> float:
        if exponent < 0 and (self._n_absent or (self.v == 0).any()):
            return float("inf")
        if not self.plain:
            return float(self._entry_weights() @ np.power(self.v, exponent, dtype=np.float64))
        return float(sums.total(self.v) if exponent == 1 else nonzeros.power_sum(self.v, exponent))

    def column_sums(self) -> np.ndarray:
        result = np.zeros(self.n_features)
        nonzeros.column_sums(self.columns, self.v, result)
        return result

    def column_moments(self) -> moments.LineMoments:
        return moments.of_sparse_columns(self.v, self.columns, self.n_rows, self.n_features)

    def row_moments(self) -> moments.LineMoments:
        return moments.of_sparse_rows(self.v, self.pointers, self.n_features)

    def _cross(self, Ht: np.ndarray) -> np.ndarray:
        return self.gathered(self.v, Ht)

    def _add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        self.scattered(self.v, W, A)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = np.matmul(W, H, out=self._walk.dense.get("P", self.n_rows))
        nonzeros.spread(self.pointers, self.columns, self.v, P, -1.0)
        if self.plain:
            return 0.5 * float(sums.product_total(P.reshape(-1), P.reshape(-1)))
        P[np.ix_(self.in_R, self.in_C)] = 0
        return 0.5 * float(weighted_total(P, P, self._a, self._b))

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        if beta != 1:
            return self.dense().ratio(W, H, beta, eps)
        q = self.products(W, H, self._walk.buffer(self.v.size))
        ratios.kullback_leibler(self.v, q, q, eps)
        return CsrRatio(self, q, self.product_total(W, H))

    def product_total(self, W: np.ndarray, H: np.ndarray) -> float:
        """Σ P over every entry, zeros of V included, weighted."""
        totals = self._walk.once("totals", H, lambda: H.sum(axis=1, dtype=np.float64))
        if self.plain:
            return float(W.sum(axis=0, dtype=np.float64) @ totals)
        W64 = W.astype(np.float64)
        of_rows = W64 @ (totals if self.column_weights is None else H @ self._b)
        if not self.complete:
            H_C = H[:, self.in_C].astype(np.float64)
            of_rows -= self.in_R * (W64 @ (H_C @ self._b[self.in_C]))
        return float(self._a @ of_rows)

    def dense(self) -> Tile:
        """The same tile with its zeros."""
        if self.plain:
            return DenseTile(self.values(), self, self._walk.dense)
        mask = self.mask()
        entries = None if mask is None else mask.view(np.uint8)
        weights = TileWeights(entries, self.row_weights, self.column_weights)
        return DenseTile(self.values(), self, self._walk.dense, weights)

    def noisy(self, noise: Noise, places: np.ndarray) -> Tile:
        tile = copy(self)
        tile.v = noise.of_nonzeros(self.v, self.columns, self.pointers, places, self.n_features)
        return tile

    def select(self, indices: np.ndarray) -> CsrTile:
        """A tile of some rows without their weights, at ascending places in this one."""
        rows = self._rows.select(indices)
        return CsrTile(rows, RowRange(slice(0, len(indices)), self.first), self._walk)

    def row_losses(
        self, W: np.ndarray, H: np.ndarray, loss: Loss, column_weights: np.ndarray | None
    ) -> np.ndarray:
        if loss.beta != 1 or column_weights is not None:
            return super().row_losses(W, H, loss, column_weights)
        losses = np.asarray(W @ H.sum(axis=1))
        nonzeros.kullback_leibler_rows(self.pointers, self.v, self.quotients(W, H, self.floors()), losses)
        return losses

    def row_ratios(self, H: np.ndarray, bHt: np.ndarray, beta: float) -> RowRatios:
        return CsrRowRatios(self, H, bHt) if beta == 1 else super().row_ratios(H, bHt, beta)

    def floors(self) -> np.ndarray:
        """The floor of P of each row, shape (n_rows,), float64."""
        return mean_floors(self.row_moments()[0])

    def products(self, W: np.ndarray, H: np.ndarray, p: np.ndarray) -> np.ndarray:
        """`p`, overwritten with WH where V is not zero."""
        Ht = self._walk.once("Ht", H, lambda: filled(H.T, self.dtype))
        nonzeros.products(self.pointers, self.columns, p, filled(W, self.dtype), Ht)
        return p

    def quotients(self, W: np.ndarray, H: np.ndarray, floors: np.ndarray) -> np.ndarray:
        """V / max(WH, floor) where V is not zero, with a floor for each row."""
        q = self.products(W, H, np.empty_like(self.v))
        nonzeros.quotients(self.pointers, self.v, q, floors.astype(self.dtype))
        return q

    def gathered(self, q: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """Q Hᵀ, with values q in place of V's."""
        k = Ht.shape[1]
        wide = self._walk.once("padded", Ht, lambda: filled(Ht, self.dtype))
        N = np.zeros((self.n_rows, padded(k)), self.dtype)
        nonzeros.gather(self.pointers, self.columns, q, N, wide)
        return N if k == N.shape[1] else np.ascontiguousarray(N[:, :k])

    def scattered(self, q: np.ndarray, W: np.ndarray, A: np.ndarray) -> None:
        """A += Wᵀ Q, with values q in place of V's."""
        At = self._walk.transposed_sums(A)
        nonzeros.scatter(self.pointers, self.columns, q, filled(W, self.dtype), At)
        self._walk.added()

    def log_total(self, q: np.ndarray) -> float:
        """Σ v (log q − 1), weighted."""
        if self.plain:
            return float(nonzeros.kullback_leibler_loss(self.v, q))
        if self.column_weights is None:
            losses = np.zeros(self.n_rows)
            nonzeros.kullback_leibler_rows(self.pointers, self.v, q, losses)
            return float(self._a @ losses)
        v = self.v.astype(np.float64)
        logs = np.log(np.where(v > 0, q, 1.0), dtype=np.float64)
        return float((self._entry_weights() * v) @ (logs - 1.0))

    @property
    def _a(self) -> np.ndarray:
        return np.ones(self.n_rows) if self.row_weights is None else self.row_weights

    @property
    def _b(self) -> np.ndarray:
        return np.ones(self.n_features) if self.column_weights is None else self.column_weights

    @property
    def _n_hidden(self) -> int:
        return int(self.in_R.sum()) * int(self.in_C.sum())

    def _row_of(self) -> np.ndarray:
        return np.repeat(np.arange(self.n_rows), np.diff(self.pointers))

    def _entry_weights(self) -> np.ndarray:
        """a_i b_j of each stored entry."""
        return self._a[self._row_of()] * self._b[self.columns]

    def column_counts(self) -> np.ndarray:
        return np.asarray(self._a.sum() - self._hidden_weights())

    def _hidden_weights(self) -> np.ndarray:
        """Σ a_i over the hidden entries of each column, shape (n_features,), float64."""
        return np.asarray(self.in_C * self._a[self.in_R].sum(), np.float64)

    def nonempty_rows(self) -> np.ndarray:
        return ~self.in_R | bool((~self.in_C).any())

    def hidden_counts(self) -> tuple[int, np.ndarray]:
        return int(np.count_nonzero(~self.nonempty_rows())), self._hidden_weights()

    def row_grams(self, HH: np.ndarray) -> np.ndarray:
        return np.asarray(HH[self.in_R.astype(np.intp)])

    def add_column_grams(self, WW: np.ndarray, T: np.ndarray) -> None:
        whole = WW.sum(axis=0, dtype=np.float64)
        T[0] += whole
        T[1] += whole - WW[self.in_R].sum(axis=0, dtype=np.float64)

    def hidden_loss(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> tuple[float, int]:
        n_hidden = self._n_hidden
        if not n_hidden:
            return 0.0, 0
        a, b = self._a[self.in_R], self._b[self.in_C]
        W_R, H_C = W[self.in_R].astype(np.float64), H[:, self.in_C].astype(np.float64)
        rows, columns = self._row_of()[self._places], self.columns[self._places]
        v = self._hidden_v.astype(np.float64)
        if beta not in (1, 2):
            V = np.zeros((len(a), len(b)))
            V[(np.cumsum(self.in_R) - 1)[rows], (np.cumsum(self.in_C) - 1)[columns]] = v
            return float(a @ Loss(beta).rows(V, W_R @ H_C, eps, b)), n_hidden
        p = np.einsum("et,te->e", W[rows].astype(np.float64), H[:, columns])
        weights = self._a[rows] * self._b[columns]
        if beta == 2:
            gram = (H_C * b) @ H_C.T
            squares = float(a @ np.einsum("it,tr,ir->i", W_R, gram, W_R))
            return 0.5 * (float(weights @ (v * v - 2.0 * v * p)) + squares), n_hidden
        p = np.maximum(p, eps)
        stored = np.where(v > 0, v * np.log(np.where(v > 0, v / p, 1.0)), 0.0) - v
        return float(weights @ stored + a @ W_R @ (H_C @ b)), n_hidden

    def mask(self) -> np.ndarray | None:
        if self.complete:
            return None
        mask = np.ones((self.n_rows, self.n_features), bool)
        mask[np.ix_(self.in_R, self.in_C)] = False
        return mask


class CsrRatio(Ratio):
    """q = v / p where V is not zero, for β = 1.

    Denominators are needed only where a block is hidden; those of a tile without one are ΣH and ΣW.
    """

    def __init__(self, tile: CsrTile, q: np.ndarray, product_total: float) -> None:
        self._tile = tile
        self._q = q
        self._product_total = product_total

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return self._tile.gathered(self._q, Ht)

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        in_R, in_C = self._tile.in_R, self._tile.in_C
        totals = Ht.sum(axis=0, dtype=np.float64) - in_R[:, None] * Ht[in_C].sum(axis=0, dtype=np.float64)
        return np.asarray(totals.astype(Ht.dtype))

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        self._tile.scattered(self._q, W, A)

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        in_R, in_C = self._tile.in_R, self._tile.in_C
        B += W.sum(axis=0, dtype=np.float64)[:, None]
        B[:, in_C] -= W[in_R].sum(axis=0, dtype=np.float64)[:, None]

    def curvature_rows(self, HH: np.ndarray) -> np.ndarray:
        return self._tile.gathered(self._curvature, HH)

    def add_curvature(self, WW: np.ndarray, T: np.ndarray) -> None:
        self._tile.scattered(self._curvature, WW, T)

    @property
    def _curvature(self) -> np.ndarray:
        """v / p² where V is not zero."""
        v = self._tile.v
        return self._q * np.divide(self._q, v, out=np.zeros_like(v), where=v > 0)

    def loss(self) -> float:
        return self._tile.log_total(self._q) + self._product_total


class CsrRowRatios:
    """`RowRatios` at the cost of the nonzeros, for β = 1."""

    def __init__(self, tile: CsrTile, H: np.ndarray, bHt: np.ndarray) -> None:
        self._tile = tile
        self._rows = np.arange(tile.n_rows)
        self._floors = tile.floors()
        self._H, self._bHt = H, bHt
        self._sums = bHt.sum(axis=0, dtype=np.float64)

    def __call__(self, rows: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(rows) < len(self._rows):
            self._tile = self._tile.select(np.searchsorted(self._rows, rows))
            self._rows = rows
        q = self._tile.quotients(W, self._H, self._floors[rows])
        return self._tile.gathered(q, self._bHt).astype(np.float64), self._sums, self._floors[rows, None]
