"""Sparse tiles with weights of rows and of columns, and with a block of them hidden.

Single entries that are hidden would each need their place in a matrix of zeros. A hidden block, rows R
times columns C, keeps every product at the cost of the nonzeros, since all of R see the same columns::

    S_i = S − [i ∈ R] S_C            T_j = G − [j ∈ C] G_R

For β other than 1 and 2 tiles are made dense, and the block is a mask of theirs.

References
----------
Owen, A. B., & Perry, P. O. (2009). Bi-cross-validation of the SVD and the nonnegative matrix factorization.
The Annals of Applied Statistics, 3(2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dasknmf.core.blocks import nonzeros, ratios, sums
from dasknmf.core.blocks.base import Ratio, Sums, Tile
from dasknmf.core.blocks.csr import CsrBlock, CsrRatio, CsrTile
from dasknmf.core.blocks.decode import weighted_total
from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.blocks.masked_tile import MaskedTile
from dasknmf.core.blocks.simd import filled
from dasknmf.core.losses import Loss


class MaskedCsrBlock(CsrBlock):
    """A panel of sparse slabs with weights of columns and what is hidden; those of rows come with slabs.

    Parameters
    ----------
    slabs : iterable of scipy.sparse.csr_array, or of WeightedSlab
    entries : EntryWeights
    **walk
        As for `dasknmf.core.blocks.csr.CsrBlock`.
    """

    def __init__(self, slabs: Iterable[Any], *, entries: EntryWeights, **walk: Any) -> None:
        super().__init__(slabs, **walk)
        self._entries = entries

    def _told(self, parts: Any, weights: np.ndarray | None) -> MaskedCsrTile:
        return MaskedCsrTile(parts, self._entries, weights)


class MaskedCsrTile(CsrTile):
    """A sparse tile with what is told of its entries; see `dasknmf.core.blocks.base.Tile`."""

    __slots__ = ("_hidden_v", "_in_C", "_in_R", "_places", "column_weights")

    def __init__(self, parts: Any, entries: EntryWeights, row_weights: np.ndarray | None) -> None:
        super().__init__(*parts)
        v, walk, first = self.v, self._walk, self.first
        self.row_weights = row_weights
        self.column_weights = entries.weights
        self._in_R = np.zeros(self._n_rows, bool)
        self._in_C = np.zeros(walk.n_features, bool)
        self._places = np.zeros(0, np.intp)
        self._hidden_v = np.zeros(0, v.dtype)
        if entries.holdout is not None:
            self._in_C = walk.hidden_columns(entries.holdout)
            self._in_R = entries.holdout.hidden_rows(first, self._n_rows)
            inside = np.repeat(self._in_R, np.diff(self.pointers)) & self._in_C[self.columns]
            self._places = np.flatnonzero(inside)
            self._hidden_v = v[self._places]
            self.v = v.copy()
            self.v[self._places] = 0

    @classmethod
    def of(cls, tile: CsrTile) -> MaskedCsrTile:
        """A tile of which nothing is hidden: its values, and room for weights of its rows."""
        parts = (tile.v, tile.columns, tile.pointers, tile.rows, tile.first, tile._walk)
        return cls(parts, EntryWeights(), tile.row_weights)

    @property
    def dtype(self) -> np.dtype:
        return self.v.dtype

    @property
    def complete(self) -> bool:
        """Whether nothing is hidden of these rows."""
        return not self._in_R.any()

    @property
    def _a(self) -> np.ndarray:
        return np.ones(self._n_rows) if self.row_weights is None else self.row_weights

    @property
    def _b(self) -> np.ndarray:
        return np.ones(self._walk.n_features) if self.column_weights is None else self.column_weights

    def _row_of(self) -> np.ndarray:
        return np.repeat(np.arange(self._n_rows), np.diff(self.pointers))

    def _of_entries(self, places: np.ndarray | None = None) -> np.ndarray:
        """a_i b_j of each stored entry, or of some."""
        rows, columns = self._row_of(), self.columns
        if places is not None:
            rows, columns = rows[places], columns[places]
        return self._a[rows] * self._b[columns]

    def sums(self) -> Sums:
        total, _, n_nan, n_inf, n_negative, n_zero = sums.survey(self.v)
        n_hidden = int(self._in_R.sum()) * int(self._in_C.sum())
        squares = float(self._of_entries() @ self.v.astype(np.float64) ** 2)
        # Hidden places that are stored count among the zeros of v, others among the absent ones.
        return Sums(total, squares, n_nan, n_inf, n_negative, n_zero + self._n_absent - n_hidden, n_hidden)

    def power_sum(self, exponent: float) -> float:
        if exponent < 0 and (self._n_absent or (self.v == 0).any()):
            return float("inf")
        return float(self._of_entries() @ np.power(self.v, exponent, dtype=np.float64))

    def observations(self) -> np.ndarray:
        """Σ of the weights of each column's entries, shape (n_features,), float64."""
        return np.asarray(self._a.sum() - self._in_C * self._a[self._in_R].sum())

    def row_is_observed(self) -> np.ndarray:
        """Whether a row has an entry that counts, shape (rows,)."""
        return ~self._in_R | bool((~self._in_C).any())

    def hidden_whole(self) -> tuple[int, np.ndarray]:
        """Of how many rows all that is observed is hidden, and Σ a_i over what is hidden of each column."""
        of_columns = np.asarray(self._in_C * self._a[self._in_R].sum(), np.float64)
        return int(np.count_nonzero(~self.row_is_observed())), of_columns

    def row_grams(self, lines: np.ndarray) -> np.ndarray:
        """S_i of each row, of the line of all columns and that of those outside of the hidden block."""
        return np.asarray(lines[self._in_R.astype(np.intp)])

    def add_column_grams(self, WW: np.ndarray, T: np.ndarray) -> None:
        """Add Σ_i WW_i to the first line of T, and to the second that of rows outside of the hidden block."""
        whole = WW.sum(axis=0, dtype=np.float64)
        T[0] += whole
        T[1] += whole - WW[self._in_R].sum(axis=0, dtype=np.float64)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = np.matmul(W, H, out=self._walk.dense.get("P", self._n_rows))
        nonzeros.spread(self.pointers, self.columns, self.v, P, -1.0)
        P[np.ix_(self._in_R, self._in_C)] = 0
        return 0.5 * float(weighted_total(P, P, self._a, self._b))

    def hidden_loss(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> tuple[float, int]:
        """D(V | WH) over the block that is hidden, and how many entries it has."""
        n_hidden = int(self._in_R.sum()) * int(self._in_C.sum())
        if not n_hidden:
            return 0.0, 0
        a, b = self._a[self._in_R], self._b[self._in_C]
        W_R, H_C = W[self._in_R].astype(np.float64), H[:, self._in_C].astype(np.float64)
        rows, columns = self._row_of()[self._places], self.columns[self._places]
        v = self._hidden_v.astype(np.float64)
        if beta not in (1, 2):
            V = np.zeros((len(a), len(b)))
            V[(np.cumsum(self._in_R) - 1)[rows], (np.cumsum(self._in_C) - 1)[columns]] = v
            return float(a @ Loss(beta).rows(V, W_R @ H_C, eps, b)), n_hidden
        p = np.einsum("et,te->e", W[rows].astype(np.float64), H[:, columns])
        weights = self._of_entries(self._places)
        if beta == 2:
            gram = (H_C * b) @ H_C.T
            squares = float(a @ np.einsum("it,tr,ir->i", W_R, gram, W_R))
            return 0.5 * (float(weights @ (v * v - 2.0 * v * p)) + squares), n_hidden
        p = np.maximum(p, eps)
        stored = np.where(v > 0, v * np.log(np.where(v > 0, v / p, 1.0)), 0.0) - v
        return float(weights @ stored + a @ W_R @ (H_C @ b)), n_hidden

    def dense(self) -> Tile:
        seen = None
        if not self.complete:
            seen = self._walk.dense.get("seen", self._n_rows, np.dtype(np.uint8))
            seen[:] = 1
            seen[np.ix_(self._in_R, self._in_C)] = 0
        told = (seen, self.row_weights, self.column_weights)
        return MaskedTile(self.with_zeros(), *told, self.rows, self.first, self._walk.dense)

    def filled(self, P: np.ndarray, *, by_weight: bool = True) -> MaskedCsrTile:
        """The tile itself, whose hidden entries are zeros, as most of a sparse V are, whatever P is."""
        return self

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        if beta != 1:
            return self.dense().ratio(W, H, beta, eps)
        q = self._walk.buffer("q", self.v.size)
        Ht = self._walk.by_features(H, turned=False)
        nonzeros.products(self.pointers, self.columns, filled(W, self._walk.dtype), Ht, q)
        ratios.kullback_leibler(self.v, q, q, eps)
        W64 = W.astype(np.float64)
        seen = W64 @ (self._walk.totals(H) if self.column_weights is None else H @ self._b)
        if not self.complete:
            H_C = H[:, self._in_C].astype(np.float64)
            seen -= self._in_R * (W64 @ (H_C @ self._b[self._in_C]))
        return MaskedCsrRatio(self, q, float(self._a @ seen))

    @property
    def hidden_block(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows and which columns make the block that is hidden."""
        return self._in_R, self._in_C

    def weighted_logs(self, q: np.ndarray) -> float:
        """Σ a_i b_j v (log q − 1)."""
        if self.column_weights is None:
            losses = np.zeros(self._n_rows)
            nonzeros.kullback_leibler_rows(self.pointers, self.v, q, losses)
            return float(self._a @ losses)
        v = self.v.astype(np.float64)
        logs = np.log(np.where(v > 0, q, 1.0), dtype=np.float64)
        return float((self._of_entries() * v) @ (logs - 1.0))


class MaskedCsrRatio(CsrRatio):
    """q = v / p where V is not zero, for β = 1, with weights; see `dasknmf.core.blocks.base.Ratio`."""

    __slots__ = ()
    _tile: MaskedCsrTile

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        in_R, in_C = self._tile.hidden_block
        sums = Ht.sum(axis=0, dtype=np.float64) - in_R[:, None] * Ht[in_C].sum(axis=0, dtype=np.float64)
        return np.asarray(sums.astype(Ht.dtype))

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        in_R, in_C = self._tile.hidden_block
        B += W.sum(axis=0, dtype=np.float64)[:, None]
        B[:, in_C] -= W[in_R].sum(axis=0, dtype=np.float64)[:, None]

    def loss(self) -> float:
        return self._tile.weighted_logs(self._q) + self._total
