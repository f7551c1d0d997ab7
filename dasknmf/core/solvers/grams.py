"""The Gram matrices of a least-squares step: one for all rows, or one for each row if entries have weights.

::

    shared     S = H diag(b) Hᵀ                      G = Wᵀ diag(a) W
    by row     S_i = Σ_j Ω_ij b_j h_j h_jᵀ           T_j = Σ_i a_i Ω_ij w_i w_iᵀ

with a and b the weights of rows and columns, Ω those of entries. S, S_i, G and T_j are k × k. A sample of
weight 2 counts as two equal samples, penalties of its row of W included. So a_i does not enter the update of
row i of W, nor b_j the update of column j of H.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.solvers.packed_grams import Packed, add_to_diagonals, packed, packed_products, unpacked

Gram = np.ndarray | Packed
"""A Gram matrix that all rows of a factor share, or one for each row."""
Parts = Sequence[tuple[slice | np.ndarray, Gram]]
"""Pairs of a subset of H's columns and their Gram matrix; the subsets cover all columns."""


class Grams:
    """The Gram matrices of a quadratic pass: here one for all rows; subclasses have one for each row."""

    by_row = False

    def shape(self, k: int, n_features: int) -> tuple[int, ...]:
        """Shape of the array G of a tally."""
        return (k, k)

    def of_H(self, H: np.ndarray, b: np.ndarray | None, l2: float, around: float) -> np.ndarray:
        """The matrix from which `of_rows` computes the Gram matrices of W's rows, from H in float64.

        `around` is added to every entry of a Gram matrix, and l2 to its diagonal.
        """
        S = (H if b is None else H * b) @ H.T
        S[np.diag_indices(len(H))] += l2
        if around:
            S += around
        return S

    def of_rows(self, tile: Tile, prepared: np.ndarray) -> Gram:
        """The Gram matrices S of a tile's rows of W."""
        return prepared

    def add(self, tile: Tile, W: np.ndarray, aW: np.ndarray, G: np.ndarray) -> None:
        """Add a tile's share of the Gram matrices of H's columns, from W and diag(a) W."""
        G += aW.T @ W

    def of_columns(self, G: np.ndarray, l2: float) -> Parts:
        """The Gram matrices of H's columns, with l2 on their diagonals."""
        return [(slice(None), G + l2 * np.eye(len(G)))]

    def product(self, G: np.ndarray, H: np.ndarray, b: np.ndarray | None) -> float:
        """Σ_j b_j h_jᵀ G_j h_j."""
        return float(np.vdot(G, (H if b is None else H * b) @ H.T))


class ByRow(Grams):
    """A packed Gram matrix for each row of either factor, for V with masks or weights of entries."""

    by_row = True

    def shape(self, k: int, n_features: int) -> tuple[int, ...]:
        return (n_features, k * (k + 1) // 2)

    def of_H(self, H: np.ndarray, b: np.ndarray | None, l2: float, around: float) -> np.ndarray:
        HH = packed_products(np.ascontiguousarray(H.T))
        if b is not None:
            HH *= b[:, None]
        # Below the products, the line that is added to every Gram.
        last = packed(np.full((len(H), len(H)), around) + l2 * np.eye(len(H)))
        return np.vstack([HH, last])

    def of_rows(self, tile: Tile, prepared: np.ndarray) -> Gram:
        HH, last = prepared[:-1], prepared[-1]
        if tile.complete:
            return unpacked(HH.sum(axis=0, dtype=np.float64) + last).astype(prepared.dtype)
        lines = tile.row_grams(HH)
        lines += last
        return Packed(lines)

    def add(self, tile: Tile, W: np.ndarray, aW: np.ndarray, G: np.ndarray) -> None:
        WW = packed_products(W)
        if tile.row_weights is not None:
            WW *= tile.row_weights[:, None].astype(WW.dtype)
        tile.add_column_grams(WW, G)

    def of_columns(self, G: np.ndarray, l2: float) -> Parts:
        lines = G.copy()
        add_to_diagonals(lines, l2)
        return [(slice(None), Packed(lines))]

    def product(self, G: np.ndarray, H: np.ndarray, b: np.ndarray | None) -> float:
        k = len(H)
        t, r = np.triu_indices(k)
        lines = packed_products(np.ascontiguousarray(H.T))
        lines *= np.where(t == r, 1.0, 2.0)
        if b is not None:
            lines *= b[:, None]
        return float(np.vdot(G, lines))


class ByGroup(ByRow):
    """One of two Gram matrices for each row, for a sparse V with a hidden block.

    A sparse V has too many features for packed products of each feature.

    Parameters
    ----------
    hidden : ndarray of bool of shape (n_features,)
        Columns of the block.
    """

    def __init__(self, hidden: np.ndarray) -> None:
        self._hidden = hidden

    def shape(self, k: int, n_features: int) -> tuple[int, ...]:
        return (2, k * (k + 1) // 2)

    def of_H(self, H: np.ndarray, b: np.ndarray | None, l2: float, around: float) -> np.ndarray:
        bH = H if b is None else H * b
        seen = ~self._hidden
        # A sum over the columns that are not hidden: a difference of sums would cancel.
        S = np.stack([bH @ H.T, bH[:, seen] @ H[:, seen].T]) + around
        return packed(S + l2 * np.eye(len(H)))

    def of_rows(self, tile: Tile, prepared: np.ndarray) -> Gram:
        if tile.complete:
            return unpacked(prepared[0])
        return Packed(tile.row_grams(prepared))

    def of_columns(self, G: np.ndarray, l2: float) -> Parts:
        lines = G.copy()
        add_to_diagonals(lines, l2)
        whole, outside = unpacked(lines)
        return [(~self._hidden, whole), (self._hidden, outside)]

    def product(self, G: np.ndarray, H: np.ndarray, b: np.ndarray | None) -> float:
        bH = H if b is None else H * b
        parts = zip((~self._hidden, self._hidden), unpacked(G), strict=True)
        return float(sum(np.vdot(S, bH[:, columns] @ H[:, columns].T) for columns, S in parts))


def weighted_rows(tile: Tile, W: np.ndarray) -> np.ndarray:
    """diag(a) W for the rows of a tile."""
    a = tile.row_weights
    return W if a is None else W * a[:, None].astype(W.dtype)


def totals(tile: Tile, W: np.ndarray) -> tuple[float, float]:
    """Σ a_i w_it and Σ a_i w_it², in float64."""
    W64 = W.astype(np.float64)
    if tile.row_weights is None:
        return float(W64.sum()), float((W64 * W64).sum())
    a = tile.row_weights
    return float(a @ W64.sum(axis=1)), float(a @ (W64 * W64).sum(axis=1))


def sum_gap(tile: Tile, W: np.ndarray, observed: np.ndarray | None) -> float:
    """Σ a_i (1 − Σ_t w_it)² over the rows with observed entries; None: all."""
    gaps = (1.0 - W.sum(axis=1, dtype=np.float64)) ** 2
    if observed is not None:
        gaps *= observed
    return float(gaps.sum() if tile.row_weights is None else tile.row_weights @ gaps)


def without_fixed(F: np.ndarray, cross: np.ndarray, gram: Gram, n_fixed: int) -> tuple[np.ndarray, Gram]:
    """The cross products and Gram matrices of F without its first `n_fixed` columns, which are fixed."""
    if isinstance(gram, Packed):
        whole = unpacked(gram.lines)
        known = np.einsum("nt,ntr->nr", F[:, :n_fixed], whole[:, :n_fixed, n_fixed:])
        return cross[:, n_fixed:] - known, Packed(packed(whole[:, n_fixed:, n_fixed:]))
    known = F[:, :n_fixed] @ gram[:n_fixed, n_fixed:]
    return cross[:, n_fixed:] - known, np.ascontiguousarray(gram[n_fixed:, n_fixed:])
