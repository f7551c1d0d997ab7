"""The first W, n × k, after a start that gives H alone.

For the quadratic loss it is exact: nonnegative least squares row by row. For another β the divergence near v
is ½ v^{β−2} (v − p)². With the sums of H's columns, h = Σ_t H_t, in place of v in the weight, the solution
of::

    min ½ ‖(V − W H) diag(h)^{(β−2)/2}‖²      S = (H ∘ h^{β−2}) Hᵀ,  k × k      N = V (H ∘ h^{β−2})ᵀ,  n × k

is a guess, from which a few multiplicative steps are as good as dozens from a constant W: on counts of
genes and of words, the loss after the guess and two steps was below that after ten steps from a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.losses import Loss
from dasknmf.core.solvers import cd, nnls
from dasknmf.core.solvers.grams import Gram, Grams
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.packed_grams import Packed

STEPS = 4
"""Number of steps from the guess to the first W."""

_MOST_SINGULAR = 64
"""Components up to which exact solutions take no more than some seconds, whatever the number of features."""
_SHARE = 1e-2
"""Smallest entry for a multiplicative solver, in units of an entry's fair share: zeros would stay zero."""


def exact_pays(k: int, n_features: int) -> bool:
    """Whether an exact first W is worth its time.

    With more components than features solutions are not unique, and the search for the zeros of one takes
    thousands of rounds: 18 s for 40 rows, k = 200 and 30 features.
    """
    return k <= max(n_features, _MOST_SINGULAR)


def solve(W: np.ndarray, N: np.ndarray, gram: Gram, l1: float, *, exact: bool, positive: bool) -> None:
    """Replace W by the solution; if `positive`, with entries of at least `_SHARE` of a fair share.

    Parameters
    ----------
    W, N : ndarray of shape (n_rows, n_components)
    gram : ndarray of shape (n_components, n_components) or Packed
    l1 : float
    exact : bool
        Whether the solution is exact; if not, it comes from sweeps of coordinate descent.
    positive : bool
    """
    k = W.shape[1]
    if exact:
        nnls.solve(W, N, gram, l1)
    else:
        W[:] = 0
        cd.move(W, N, gram if isinstance(gram, Packed) else gram.astype(W.dtype), Steps(l1, np.arange(k), k))
    if not positive:
        return
    # The best constant row, cᵀ = w 1ᵀ with w = Σn / ΣS, is a fair share.
    total: float | np.ndarray
    if isinstance(gram, Packed):
        lines = gram.lines.astype(np.float64)
        t, r = np.triu_indices(k)
        total = (lines * np.where(t == r, 1.0, 2.0)).sum(axis=1, keepdims=True)
    else:
        total = gram.sum(dtype=np.float64)
    sums = N.sum(axis=1, keepdims=True, dtype=np.float64)
    fair = np.divide(sums, total, out=np.zeros_like(sums), where=np.greater(total, 0))
    np.maximum(W, (_SHARE * fair).astype(W.dtype), out=W)


def floored(H: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """H without zeros for a multiplicative solver, under which zeros would stay zero.

    Parameters
    ----------
    H : ndarray of shape (n_components, n_features)
    columns : ndarray of shape (n_features,)
        Column means of V: an entry's fair share is in proportion to them.
    """
    mean = float(columns.mean())
    if mean == 0:
        return H
    fair = float(H.mean(dtype=np.float64)) * columns / mean
    return np.maximum(H, (_SHARE * fair).astype(H.dtype))


def weights_of(H: np.ndarray, loss: Loss) -> np.ndarray:
    """h^{β−2} of each feature, shape (n_features,), in units of the largest."""
    shares = H.sum(axis=0, dtype=np.float64)
    mean = float(shares.mean()) or 1.0
    powers = (loss.beta - 2.0) * np.log(np.maximum(shares / mean, _SHARE))
    # Only ratios of weights matter: they are scaled so that none overflows; the smallest may underflow.
    return np.asarray(np.exp(powers - powers.max()))


@dataclass(frozen=True)
class Guess:
    """Matrices for the guess of the first W, computed once for all rows.

    Parameters
    ----------
    Hwt : ndarray of shape (n_features, n_components)
        (H ∘ h^{β−2})ᵀ, contiguous and in H's dtype.
    S : ndarray
        From `Grams.of_H`.
    grams : Grams
    """

    Hwt: np.ndarray
    S: np.ndarray
    grams: Grams

    @classmethod
    def of(cls, H: np.ndarray, loss: Loss, grams: Grams, column_weights: np.ndarray | None = None) -> Guess:
        weights = weights_of(H, loss)
        if column_weights is not None:
            weights = weights * column_weights
        H64 = H.astype(np.float64)
        Hwt = np.ascontiguousarray((H64 * weights).T).astype(H.dtype)
        return cls(Hwt, grams.of_H(H64, weights, 0.0, 0.0), grams)

    def __call__(self, W: np.ndarray, tile: Tile) -> None:
        """Replace W by the guess for a tile's rows."""
        exact = exact_pays(W.shape[1], len(self.Hwt))
        solve(W, tile.cross(self.Hwt), self.grams.of_rows(tile, self.S), 0.0, exact=exact, positive=True)
