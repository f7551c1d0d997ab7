"""The coder, which computes rows of W for a given H: the exact minimum for the quadratic loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse

from dasknmf.core.blocks import EntryWeights, PanelSpec, SlabBlock, Tile, block_of
from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.blocks.matrix import Matrix
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalty
from dasknmf.core.solvers import first_W, mu, nnls
from dasknmf.core.solvers.grams import ByRow, Grams
from dasknmf.errors import DataError


@dataclass(frozen=True)
class Coder:
    """The solver of rows of W for one H.

    Parameters
    ----------
    H : ndarray of shape (n_components, n_features)
    loss : Loss
    penalty : Penalty
        Penalty of W.
    tol : float
        Multiplicative steps on a row end when a step changes it by less than this share of the row's 2-norm.
    max_iter : int
        Largest number of multiplicative steps.
    entries : EntryWeights or None
        Masks and weights of entries; only observed entries count.
    sum_to_one_weight : float
        Weight δ² of the penalty that draws sums of rows of W to one; 0: no penalty.
    weights : ndarray of shape (n_features,), float64, or None
        Weights of the features; None: 1.
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
    def Ht(self) -> np.ndarray:
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
        grams = Grams() if self.entries is None else ByRow()
        return grams, grams.of_H(
            self.H.astype(np.float64), self.weights, self.penalty.l2, self.sum_to_one_weight
        )

    @cached_property
    def _guess(self) -> first_W.Guess:
        return first_W.Guess.of(self.H, self.loss, self._grams[0], self.weights)

    def transform(self, X: Matrix) -> np.ndarray:
        """W of some rows of V, in the dtype of H."""
        return self._rows(X)

    def maps(self, X: Matrix) -> np.ndarray:
        """W of some rows of V as for `transform`, with NaN in rows without an observed entry."""
        return self._rows(X, with_gaps=self.entries is not None)

    def _rows(self, X: Matrix, *, with_gaps: bool = False) -> np.ndarray:
        W = np.zeros((X.shape[0], len(self.H)), self.H.dtype)
        for tile in self._block(X).tiles():
            if self.entries is not None:
                check_values(tile.values())
            self.solve(tile, W[tile.rows])
            if with_gaps:
                W[tile.rows][~tile.nonempty_rows()] = np.nan
        return W

    def solve(self, tile: Tile, W: np.ndarray, N: np.ndarray | None = None) -> None:
        """Replace the rows of W by the minimizers for the rows of a tile.

        N = V diag(b) Hᵀ, shape (n_rows, n_components), may be given for the quadratic loss.
        """
        if self.loss.quadratic:
            grams, S = self._grams
            N = tile.cross(self.Ht) if N is None else N
            if self.sum_to_one_weight:
                N = N + np.float64(self.sum_to_one_weight)
            nnls.solve(W, N, grams.of_rows(tile, S), self.penalty.l1)
        else:
            self._guess(W, tile)
            W[:] = self._multiplied(tile, W.astype(np.float64))
        if self.entries is not None:
            W[~tile.nonempty_rows()] = 0

    def score_samples(self, X: Matrix) -> np.ndarray:
        """The loss of each row against its best reconstruction, float64."""
        W = self.transform(X)
        H = self.H.astype(np.float64)
        losses = np.empty(X.shape[0])
        for tile in self._block(X).tiles():
            W64 = W[tile.rows].astype(np.float64)
            losses[tile.rows] = tile.row_losses(W64, H, self.loss, self.weights)
        return losses

    def _block(self, X: Matrix) -> SlabBlock:
        X = canonical(X) if scipy.sparse.issparse(X) else X
        return block_of([X], PanelSpec(X.shape[0], 0, X.shape[1], self.H.dtype), self.entries)

    def _multiplied(self, tile: Tile, W: np.ndarray) -> np.ndarray:
        """W after multiplicative steps until every row has converged."""
        ratios = tile.row_ratios(self.H, self.Ht, self.loss.beta)
        going = np.flatnonzero(W.any(axis=1))
        objective = mu.Objective(self.loss, self.penalty)
        for _ in range(self.max_iter):
            if not len(going):
                break
            numerators, denominators, floors = ratios(going, W[going])
            there = mu.step(W[going], numerators, denominators, objective, floors)
            moved = np.linalg.norm(there - W[going], axis=1)
            W[going] = there
            going = going[moved > self.tol * np.linalg.norm(there, axis=1)]
        return W


def check_values(values: np.ndarray) -> None:
    """Raise an error for new rows with values that are negative or not finite.

    Raises
    ------
    DataError
    """
    finite = bool(np.isfinite(values).all())
    if not finite or (values < 0).any():
        what = "Negative values in data passed to X in NMF" if finite else "Input X contains NaN or infinity"
        raise DataError(f"{what}; new rows must be finite and nonnegative: correct them first.")
