"""The first W of a start that gives H alone.

For the quadratic loss it is exact: nonnegative least squares row by row. For another β the divergence
near v is ½ v^{β−2} (v − p)², so with the column shares h = Σ_t H_t in place of v's own, the rows of::

    min ½ ‖(V − W H) diag(h)^{(β−2)/2}‖²      S = (H ∘ h^{β−2}) Hᵀ,   N = V (H ∘ h^{β−2})ᵀ

are a guess from which a few multiplicative steps do what dozens from a constant would: measured on
counts of genes and of words, the guess and two steps are below a constant and ten.
"""

from __future__ import annotations

import numpy as np

from dasknmf.blocks.base import Tile
from dasknmf.losses import Loss
from dasknmf.passes import State
from dasknmf.solvers import nnls

STEPS = 4
"""Multiplicative steps from the guess, before W counts as solved."""

_SHARE = 1e-2
"""Least entry that a multiplicative solver is given, in units of a fair share: zeros could not move."""


def started(state: State, H: np.ndarray) -> State:
    """The state with an H for which the next pass will solve W; what stands until then stays a pair."""
    return state | {"next H": H}


def is_cold(state: State) -> bool:
    """Whether the next pass solves W afresh."""
    return "next H" in state


def entered(state: State) -> State:
    """The state whose H enters the next pass: a fitted one takes the place of what stood."""
    return state | {"H": state["next H"]} if is_cold(state) else state


def warmed(state: State) -> State:
    """The state after W was solved."""
    return {name: value for name, value in state.items() if name != "next H"}


def solve(W: np.ndarray, N: np.ndarray, S: np.ndarray, l1: float, *, positive: bool) -> None:
    """Replace W by the exact solution, where `positive` with no entry below a hundredth of a fair share.

    Parameters
    ----------
    W, N : ndarray of shape (n_rows, n_components)
    S : ndarray of shape (n_components, n_components)
    l1 : float
    positive : bool
    """
    nnls.solve(W, N, S.astype(np.float64), l1)
    if positive:
        # The best constant row, cᵀ = w 1ᵀ with w = Σn / ΣS, is a fair share.
        total = float(S.sum(dtype=np.float64))
        if total > 0:
            fair = N.sum(axis=1, keepdims=True, dtype=np.float64) / total
            np.maximum(W, (_SHARE * fair).astype(W.dtype), out=W)


def floored(H: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """H for a multiplicative solver: a feature that a sample missed must not stay locked at zero.

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


def weighted(H: np.ndarray, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """(H ∘ h^{β−2})ᵀ, contiguous and in H's dtype, and S = (H ∘ h^{β−2}) Hᵀ in float64.

    Weights are in units of the largest.
    """
    H64 = H.astype(np.float64)
    shares = H64.sum(axis=0)
    mean = float(shares.mean()) or 1.0
    powers = (loss.beta - 2.0) * np.log(np.maximum(shares / mean, _SHARE))
    # Only their ratios matter: none overflows, and the least may vanish.
    Hw = H64 * np.exp(powers - powers.max())
    return np.ascontiguousarray(Hw.T).astype(H.dtype), Hw @ H64.T


def guess(W: np.ndarray, tile: Tile, Hwt: np.ndarray, S: np.ndarray) -> None:
    """Replace W by the weighted guess; `Hwt` and `S` are those of `weighted`."""
    solve(W, tile.cross(Hwt), S, 0.0, positive=True)
