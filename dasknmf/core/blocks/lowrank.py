"""The tile of a low-rank matrix V̂ = R Qᵀ, such as a sketch: products with the thin factors.

V̂ may have negative entries, so its tile has the products of a quadratic pass only, and no ratios.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dasknmf.core.blocks.base import Block, Tile


class LowRankBlock(Block):
    """R Qᵀ as one tile: R is small.

    Parameters
    ----------
    R : ndarray of shape (n_rows, width)
    Q : ndarray of shape (n_features, width)
        With orthonormal columns.
    """

    def __init__(self, R: np.ndarray, Q: np.ndarray) -> None:
        self.n_rows = len(R)
        self._tile = LowRankTile(R, Q)

    def tiles(self) -> Iterator[Tile]:
        yield self._tile


class LowRankTile(Tile):
    """The rows of R Qᵀ; parameters as for `LowRankBlock`."""

    def __init__(self, R: np.ndarray, Q: np.ndarray) -> None:
        super().__init__(slice(0, len(R)), 0)
        self.R = R
        self.Q = Q
        self.n_features = len(Q)
        self.dtype = R.dtype

    def _cross(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.R, self.Q.T @ Ht)

    def _add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        A += np.matmul(np.matmul(W.T, self.R), self.Q.T)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        """½ ‖(R − W H Q) Qᵀ‖² + ½ ‖W H (I − Q Qᵀ)‖², both from products with the thin factors."""
        H64, Q64 = H.astype(np.float64), self.Q.astype(np.float64)
        HQ = H64 @ Q64
        inside = self.R - W @ HQ
        gram = H64 @ H64.T - HQ @ HQ.T
        W64 = W.astype(np.float64)
        outside = max(float(np.vdot(W64.T @ W64, gram)), 0.0)
        return 0.5 * (float((inside * inside).sum()) + outside)
