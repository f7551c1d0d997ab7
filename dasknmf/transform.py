"""W for a given H: the nonnegative coefficients of new rows, one read and no iteration over V.

Every row is solved on its own, so the answer does not depend on how X is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import zarr

from dasknmf import inputs
from dasknmf.blocks import DenseBlock
from dasknmf.errors import DataError
from dasknmf.losses import Loss
from dasknmf.solvers import cold, mu, nnls
from dasknmf.solvers.penalty import Penalty


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
    """

    H: np.ndarray
    loss: Loss
    penalty: Penalty
    tol: float
    max_iter: int

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """W of these rows, in the dtype of H."""
        if hasattr(X, "toarray"):
            X = X.toarray()
        W = np.zeros((len(X), len(self.H)), self.H.dtype)
        Ht = np.ascontiguousarray(self.H.T)
        H64 = self.H.astype(np.float64)
        S = H64 @ H64.T + self.penalty.l2 * np.eye(len(self.H))
        weighted = None if self.loss.quadratic else cold.weighted(self.H, self.loss)
        for tile in self._block(X).tiles():
            if weighted is None:
                nnls.solve(W[tile.rows], tile.cross(Ht), S, self.penalty.l1)
            else:
                cold.guess(W[tile.rows], tile, *weighted)
                W[tile.rows] = self._multiplied(tile.V, W[tile.rows].astype(np.float64))
        return W

    def scores(self, X: np.ndarray) -> np.ndarray:
        """The loss of each row against its best reconstruction, float64."""
        if hasattr(X, "toarray"):
            X = X.toarray()
        W = self(X)
        H = self.H.astype(np.float64)
        losses = np.empty(len(X))
        for tile in self._block(X).tiles():
            P = W[tile.rows].astype(np.float64) @ H
            losses[tile.rows] = self.loss.rows(tile.V, P, _floor(tile.V))
        return losses

    def _block(self, X: np.ndarray) -> DenseBlock:
        return DenseBlock(
            [X],
            n_rows=len(X),
            first=0,
            n_features=X.shape[1],
            dtype=self.H.dtype,
            checked=False,
        )

    def _multiplied(self, V: np.ndarray, W: np.ndarray) -> np.ndarray:
        """Multiplicative steps from W until each row rests."""
        H = self.H.astype(np.float64)
        V = V.astype(np.float64)
        going = np.flatnonzero(W.any(axis=1))
        beta = self.loss.beta
        for _ in range(self.max_iter):
            if not len(going):
                break
            rows, W_going = V[going], W[going]
            eps = _floor(rows)
            P = W_going @ H
            P = np.maximum(P, eps) if beta < 2 else P
            weighted = P ** (beta - 2)
            a = (rows * weighted) @ H.T
            b = (weighted * P) @ H.T
            there = mu.step(W_going, a, b, self.loss, self.penalty, eps, exact=True)
            moved = np.linalg.norm(there - W_going, axis=1)
            W[going] = there
            going = going[moved > self.tol * np.linalg.norm(there, axis=1)]
        return W


def _floor(V: np.ndarray) -> np.ndarray:
    """scikit-learn's floor of P in units of each row's own mean, shape (n_rows, 1)."""
    means = V.mean(axis=1, keepdims=True, dtype=np.float64)
    return float(np.finfo(np.float32).eps) * np.where(means > 0, means, 1.0)


def by_rows(coder: Coder, X: Any, method: str) -> Any:
    """Apply a method of the coder to rows of X: at once in memory, lazily where X is chunked."""
    if not inputs.is_chunked(X):
        return getattr(coder, method)(_prepared(X))
    X = _lazily(X)
    k = len(coder.H)
    dtype = coder.H.dtype
    columns = {"k": k} if method == "__call__" else {}
    return da.blockwise(
        _code,
        "ik" if columns else "i",
        X,
        "ij",
        # H is one task of the graph, not an argument of every one.
        da.from_array(coder.H, chunks=-1, name=False),
        "hj",
        coder=replace(coder, H=np.empty((0, 0), dtype)),
        method=method,
        new_axes=columns,
        concatenate=True,
        dtype=dtype if columns else np.float64,
        meta=np.empty((0,) * (1 + bool(columns)), dtype if columns else np.float64),
    )


def _prepared(X: Any) -> Any:
    """X in memory, with its steps done."""
    return X.preparation(_prepared(X.X)) if isinstance(X, inputs.Prepared) else X


def _lazily(X: Any) -> da.Array:
    """X as a Dask array of whole rows."""
    if isinstance(X, inputs.Prepared):
        rows = _lazily(X.X)
        return rows.map_blocks(
            X.preparation,
            dtype=X.dtype,
            chunks=(rows.chunks[0], (X.shape[1],)),
            meta=np.empty((0, 0), X.dtype),
        )
    if isinstance(X, zarr.Array):
        edges = inputs.grid_of(inputs.source_of(X)).edges
        return da.from_array(X, chunks=(tuple(np.diff(edges).tolist()), -1))
    return X.rechunk({1: -1})


def _code(X: np.ndarray, H: np.ndarray, *, coder: Coder, method: str) -> np.ndarray:
    """One chunk of a lazy transform: the values are checked here, where they are first seen."""
    if hasattr(X, "toarray"):
        X = X.toarray()
    if not np.isfinite(X).all() or (X < 0).any():
        kind = (
            "Negative values in data passed to X in NMF"
            if np.isfinite(X).all()
            else ("Input X contains NaN or infinity")
        )
        raise DataError(f"{kind}; new rows must be finite and nonnegative: mend them first.")
    return np.asarray(getattr(replace(coder, H=np.ascontiguousarray(H)), method)(X))
