"""coder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.core.blocks import block_of, nonzeros
from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.blocks.csr import CsrTile
from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalty
from dasknmf.core.solvers import first_W, mu, nnls
from dasknmf.core.solvers.grams import ByRow, Grams, Shared
from dasknmf.errors import DataError


@dataclass(frozen=True)
class Coder:
    """Solves rows of W for one H.

    Parameters
    ----------
    H : ndarray of shape (n_components, n_features)
    loss : Loss
    penalty : Penalty
        Of W.
    tol : float
        A row of a multiplicative solve rests once a step moves it by less than this share of itself.
    max_iter : int
        Most multiplicative steps.
    entries : EntryWeights or None
        What is told of entries; only those that are observed count.
    pull : float
        δ² with which rows of W are held to a sum of one; 0: not at all.
    weights : ndarray of shape (n_features,), float64, or None
        How often each feature counts.
    """

    H: np.ndarray
    loss: Loss
    penalty: Penalty
    tol: float
    max_iter: int
    entries: EntryWeights | None = None
    sum_to_one_weight: float = 0.0
    weights: np.ndarray | None = None

    @cached_property
    def weighted_Ht(self) -> np.ndarray:
        """diag(b) Hᵀ, contiguous."""
        return np.ascontiguousarray(
            (self.H if self.weights is None else self.H * self.weights).T, self.H.dtype
        )

    @cached_property
    def gram(self) -> np.ndarray:
        """H diag(b) Hᵀ, float64."""
        H = self.H.astype(np.float64)
        return np.asarray((H if self.weights is None else H * self.weights) @ H.T)

    @cached_property
    def _grams(self) -> tuple[Grams, np.ndarray]:
        grams: Grams = Shared() if self.entries is None else ByRow()
        return grams, grams.of_H(
            self.H.astype(np.float64), self.weights, self.penalty.l2, self.sum_to_one_weight
        )

    @cached_property
    def _guess(self) -> first_W.Guess:
        return first_W.Guess.of(self.H, self.loss, self._grams[0], self.weights)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """W of these rows, in the dtype of H."""
        W = np.zeros((X.shape[0], len(self.H)), self.H.dtype)
        for tile in self._block(X).tiles():
            if self.entries is not None:
                check_values(tile.V)
            self.solve(tile, W[tile.rows])
        return W

    def solve(self, tile: Any, W: np.ndarray, N: np.ndarray | None = None) -> None:
        """Replace the rows of W by the best for those of a tile; N may be given as its `cross`."""
        if self.loss.quadratic:
            grams, S = self._grams
            N = tile.cross(self.weighted_Ht) if N is None else N
            if self.sum_to_one_weight:
                N = N + np.float64(self.sum_to_one_weight)
            nnls.solve(W, N, grams.of_rows(tile, S), self.penalty.l1)
        else:
            self._guess(W, tile)
            W[:] = self._multiplied(tile, self.weighted_Ht, W.astype(np.float64))
        if self.entries is not None:
            W[~tile.row_is_observed()] = 0

    def scores(self, X: np.ndarray) -> np.ndarray:
        """The loss of each row against its best reconstruction, float64."""
        W = self(X)
        H = self.H.astype(np.float64)
        losses = np.empty(X.shape[0])
        for tile in self._block(X).tiles():
            W64 = W[tile.rows].astype(np.float64)
            if isinstance(tile, CsrTile) and self.loss.beta == 1 and self.weights is None:
                q = tile.quotients(W64, self.H, _sparse_floor(tile).astype(self.H.dtype))
                losses[tile.rows] = W64 @ H.sum(axis=1)
                nonzeros.kullback_leibler_rows(tile.pointers, tile.v, q, losses[tile.rows])
            else:
                V, P = _values(tile), W64 @ H
                floor = _floor(V, None if self.entries is None else tile.observed)
                if self.entries is not None:
                    P = np.where(tile.observed, P, np.maximum(P, floor))
                    V = np.where(tile.observed, V, P)  # what is missing costs nothing
                losses[tile.rows] = self.loss.rows(V, P, floor, self.weights)
        return losses

    def _block(self, X: Any) -> Any:
        X = canonical(X) if scipy.sparse.issparse(X) else X
        n_rows, n_features = X.shape
        dtype = self.H.dtype
        return block_of(
            [X],
            n_rows=n_rows,
            first=0,
            n_features=n_features,
            dtype=dtype,
            checked=False,
            entries=self.entries,
        )

    def _multiplied(self, tile: Any, Ht: np.ndarray, W: np.ndarray) -> np.ndarray:
        """Multiplicative steps from W until each row rests."""
        if isinstance(tile, CsrTile) and self.loss.beta == 1:
            return self._multiplied_sparse(tile, Ht, W)
        H = self.H.astype(np.float64)
        bHt = Ht.astype(np.float64)
        V = _values(tile).astype(np.float64)
        seen = None if self.entries is None else tile.observed
        going = np.flatnonzero(W.any(axis=1))
        beta = self.loss.beta
        for _ in range(self.max_iter):
            if not len(going):
                break
            rows, W_going = V[going], W[going]
            eps = _floor(rows, None if seen is None else seen[going])
            P = W_going @ H
            P = np.maximum(P, eps) if beta < 2 else P
            weighted = P ** (beta - 2)
            if seen is not None:
                weighted *= seen[going]
            a = (rows * weighted) @ bHt
            b = (weighted * P) @ bHt
            there = mu.step(W_going, a, b, self.loss, self.penalty, eps, exact=True)
            moved = np.linalg.norm(there - W_going, axis=1)
            W[going] = there
            going = going[moved > self.tol * np.linalg.norm(there, axis=1)]
        return W

    def _multiplied_sparse(self, tile: CsrTile, Ht: np.ndarray, W: np.ndarray) -> np.ndarray:
        """The same at the cost of the nonzeros, for β = 1."""
        sums = Ht.sum(axis=0, dtype=np.float64)
        floors = _sparse_floor(tile)
        going = np.flatnonzero(W.any(axis=1))
        tile = tile.select(going)
        for _ in range(self.max_iter):
            if not len(going):
                break
            q = tile.quotients(W[going], self.H, floors[going].astype(self.H.dtype))
            a = tile.gathered(q, Ht).astype(np.float64)
            there = mu.step(W[going], a, sums, self.loss, self.penalty, floors[going, None], exact=True)
            moved = np.linalg.norm(there - W[going], axis=1)
            W[going] = there
            left = np.flatnonzero(moved > self.tol * np.linalg.norm(there, axis=1))
            if len(left) < len(going):
                going, tile = going[left], tile.select(left)
        return W


def _values(tile: Any) -> np.ndarray:
    """A tile with its zeros: a few MiB."""
    return tile.with_zeros() if isinstance(tile, CsrTile) else tile.V


def _sparse_floor(tile: CsrTile) -> np.ndarray:
    """`_floor` of a sparse tile, shape (n_rows,)."""
    means = tile.row_moments()[0]
    return float(np.finfo(np.float32).eps) * np.where(means > 0, means, 1.0)


def _floor(V: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """scikit-learn's floor of P in units of each row's own mean, of what is seen, shape (n_rows, 1)."""
    counts = V.shape[1] if seen is None else np.maximum(seen.sum(axis=1, keepdims=True), 1)
    means = V.sum(axis=1, keepdims=True, dtype=np.float64) / counts
    return float(np.finfo(np.float32).eps) * np.where(means > 0, means, 1.0)


def check_values(values: np.ndarray) -> None:
    """Refuse new rows that no W is for.

    Raises
    ------
    DataError
    """
    finite = bool(np.isfinite(values).all())
    if not finite or (values < 0).any():
        what = "Negative values in data passed to X in NMF" if finite else "Input X contains NaN or infinity"
        raise DataError(f"{what}; new rows must be finite and nonnegative: mend them first.")
