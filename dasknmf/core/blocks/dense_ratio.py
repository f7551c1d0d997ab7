"""Ratios of dense tiles, plain and weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dasknmf.core.blocks import ratios, sums
from dasknmf.core.blocks.base import Ratio
from dasknmf.core.blocks.scratch import Scratch


@dataclass(frozen=True)
class TileWeights:
    """Weights of a dense tile; None: 1.

    Parameters
    ----------
    entries : ndarray of shape (n_rows, n_features) or None
        uint8 (0 and 1), or floats in the dtype of the tile.
    rows : ndarray of shape (n_rows,), float64, or None
    columns : ndarray of shape (n_features,), float64, or None
    """

    entries: np.ndarray | None = None
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


class DenseRatio(Ratio):
    """Q = V ∘ P^{β−2} and R = P^{β−1} of a dense tile.

    Parameters
    ----------
    V, P : ndarray of shape (n_rows, n_features)
        C-contiguous; P = WH is overwritten with its floored values for β other than 0 and 1.
    beta, eps : float
    scratch : Scratch
        Buffers for Q and R.
    """

    def __init__(self, V: np.ndarray, P: np.ndarray, beta: float, eps: float, scratch: Scratch) -> None:
        n_rows = len(V)
        self.V, self.P, self.beta, self.eps = V, P, beta, eps
        self._scratch = scratch
        self.Q = Q = scratch.get("Q", n_rows)
        self._R: np.ndarray | None = None
        v, p, q = V.reshape(-1), P.reshape(-1), Q.reshape(-1)
        if beta == 1:
            ratios.kullback_leibler(v, p, q, eps)
            return
        self._R = R = scratch.get("R", n_rows)
        if beta == 0:
            ratios.itakura_saito(v, p, q, R.reshape(-1), eps)
            return
        if beta < 2:
            ratios.raised(p, eps)
        np.power(P, beta - 2, out=Q)
        ratios.weighted(v, p, q, R.reshape(-1))

    @property
    def R(self) -> np.ndarray:
        """P^{β−1}; for β = 1 ones, which only a tile with missing entries needs."""
        if self._R is None:
            self._R = np.ones_like(self.Q)
        return self._R

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.Q, Ht)

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.R, Ht)

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        sums.add_to(A, np.matmul(W.T, self.Q))

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        sums.add_to(B, np.matmul(W.T, self.R))

    def curvature_rows(self, HH: np.ndarray) -> np.ndarray:
        # In Fortran's order, in which rows are solved side by side.
        return np.matmul(HH.T, self._curvature.T).T

    def add_curvature(self, WW: np.ndarray, T: np.ndarray) -> None:
        sums.add_to(T, np.matmul(WW.T, self._curvature))

    @property
    def _curvature(self) -> np.ndarray:
        """V ∘ P^{−2}."""
        result = self._scratch.get("curvature", len(self.Q))
        ratios.kullback_leibler(self.Q.reshape(-1), self.P.reshape(-1), result.reshape(-1), self.eps)
        return result

    def loss(self) -> float:
        v = self.V.reshape(-1)
        if self.beta == 1:
            return float(ratios.kullback_leibler_loss(v, self.P.reshape(-1), self.Q.reshape(-1)))
        r = self.R.reshape(-1)
        if self.beta == 0:
            return float(ratios.itakura_saito_loss(v, r))
        return float(ratios.weighted_loss(v, self.P.reshape(-1), r, self.beta))


class MaskedRatio(DenseRatio):
    """A ratio with the weights of entries in Q and R, and all weights in its loss."""

    def __init__(self, plain: DenseRatio, weights: TileWeights) -> None:
        self.Q, self.P, self.eps = plain.Q, plain.P, plain.eps
        self._R, self._scratch = plain._R, plain._scratch
        self._loss = _weighted_loss(plain, weights)
        if weights.entries is not None:
            np.multiply(self.Q, weights.entries, out=self.Q)
            np.multiply(self.R, weights.entries, out=self.R)

    def loss(self) -> float:
        return self._loss


def _weighted_loss(ratio: DenseRatio, weights: TileWeights) -> float:
    V, P, Q, beta = ratio.V, ratio.P, ratio.Q, ratio.beta
    rows = np.ones(len(V)) if weights.rows is None else weights.rows.astype(np.float64)
    if weights.entries is None and weights.columns is None and beta == 1:
        losses = np.empty(len(V))
        ratios.kullback_leibler_rows(V, P, Q, losses)
        return float(rows @ losses)
    columns = np.ones(V.shape[1]) if weights.columns is None else weights.columns
    entries = np.ones(V.shape, np.uint8) if weights.entries is None else weights.entries
    R = Q if beta == 1 else ratio.R
    return float(ratios.weighted_entries_loss(V, P, Q, R, (entries, rows, columns), beta))
