"""A matrix known by its sketch, V̂ = R Qᵀ: products through the thin factors.

Only what a quadratic pass asks for: V̂ has negative entries, so there are no ratios of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class LowRankBlock:
    """R Qᵀ as one tile: R is small.

    Parameters
    ----------
    R : ndarray of shape (n_rows, width)
    Q : ndarray of shape (n_features, width)
        With orthonormal columns.
    """

    def __init__(self, R: np.ndarray, Q: np.ndarray) -> None:
        self.n_rows = len(R)
        self._R = R
        self._Q = Q

    def tiles(self) -> Iterator[LowRankTile]:
        yield LowRankTile(self._R, self._Q)


class LowRankTile:
    """The products of a quadratic pass; see `dasknmf.core.blocks.base.Tile`."""

    row_weights: np.ndarray | None = None

    __slots__ = ("Q", "R", "first", "rows")

    def __init__(self, R: np.ndarray, Q: np.ndarray) -> None:
        self.R = R
        self.Q = Q
        self.rows = slice(0, len(R))
        self.first = 0

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.R, self.Q.T @ Ht)

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        A += np.matmul(np.matmul(W.T, self.R), self.Q.T)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        """½ ‖(R − W H Q) Qᵀ‖² + ½ ‖W H (I − Q Qᵀ)‖², both from products with the thin factors."""
        H64, Q64 = H.astype(np.float64), self.Q.astype(np.float64)
        seen = H64 @ Q64
        inside = self.R - W @ seen
        unseen = H64 @ H64.T - seen @ seen.T
        W64 = W.astype(np.float64)
        outside = max(float(np.vdot(W64.T @ W64, unseen)), 0.0)
        return 0.5 * (float((inside * inside).sum()) + outside)
