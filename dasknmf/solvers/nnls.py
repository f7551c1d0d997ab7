"""Exact nonnegative least squares by rows: block principal pivoting.

For one row, min ½ w S wᵀ − n wᵀ + l1 Σw over w ≥ 0 is solved by finding which entries are zero. With
F the others, the optimality conditions are [1]_::

    S_FF w_F = n_F − l1,   w_F ≥ 0
    y_G = S_GF w_F − n_G + l1 ≥ 0

All entries that violate them change sides at once, as long as that lowers their number (three more
chances otherwise), then only the one with the largest index, which ends in finitely many steps.

References
----------
.. [1] Kim, J., & Park, H. (2011). Fast nonnegative matrix factorization: an active-set-like method
   and comparisons. SIAM Journal on Scientific Computing, 33(6).
"""

from __future__ import annotations

import numpy as np

from dasknmf.kernel import kernel

_CHANCES = 3


@kernel
def _solve_passive(
    S: np.ndarray, target: np.ndarray, passive: np.ndarray, w: np.ndarray, L: np.ndarray
) -> None:
    """w with S_FF w_F = target_F by Cholesky, zero elsewhere. A collinear entry stays at zero."""
    k = len(target)
    used = np.empty(k, np.int64)
    size = 0
    for t in range(k):
        w[t] = 0.0
        if not passive[t]:
            continue
        for i in range(size):
            value = S[t, used[i]]
            for j in range(i):
                value -= L[size, j] * L[i, j]
            L[size, i] = value / L[i, i]
        pivot = S[t, t]
        for j in range(size):
            pivot -= L[size, j] * L[size, j]
        if pivot <= 1e-13 * S[t, t]:
            continue
        L[size, size] = np.sqrt(pivot)
        used[size] = t
        size += 1
    for i in range(size):
        value = target[used[i]]
        for j in range(i):
            value -= L[i, j] * w[used[j]]
        w[used[i]] = value / L[i, i]
    for i in range(size - 1, -1, -1):
        value = w[used[i]]
        for j in range(i + 1, size):
            value -= L[j, i] * w[used[j]]
        w[used[i]] = value / L[i, i]


@kernel
def _solve_rows(W: np.ndarray, N: np.ndarray, S: np.ndarray, l1: float) -> None:
    n_rows, k = W.shape
    target = np.empty(k, np.float64)
    w = np.empty(k, np.float64)
    y = np.empty(k, np.float64)
    L = np.empty((k, k), np.float64)
    passive = np.zeros(k, np.bool_)
    wrong = np.zeros(k, np.bool_)
    for row in range(n_rows):
        scale = 0.0
        for t in range(k):
            target[t] = np.float64(N[row, t]) - l1
            scale = max(scale, abs(target[t]))
            # A warm start where W holds one; neighbouring rows are often alike.
            passive[t] = W[row, t] > 0
        least = k + 1
        chances = _CHANCES
        for _ in range(20 * k + 20):
            _solve_passive(S, target, passive, w, L)
            largest = 0.0
            for t in range(k):
                largest = max(largest, abs(w[t]))
            count = 0
            last = -1
            for t in range(k):
                y[t] = -target[t]
                for r in range(k):
                    y[t] += S[t, r] * w[r]
                if passive[t]:
                    wrong[t] = w[t] < -1e-12 * largest
                else:
                    wrong[t] = y[t] < -1e-12 * scale
                if wrong[t]:
                    count += 1
                    last = t
            if count == 0:
                break
            if count < least:
                least = count
                chances = _CHANCES
            elif chances > 0:
                chances -= 1
            else:
                for t in range(last):
                    wrong[t] = False
            for t in range(k):
                if wrong[t]:
                    passive[t] = not passive[t]
        for t in range(k):
            W[row, t] = max(0.0, w[t])


def solve(W: np.ndarray, N: np.ndarray, S: np.ndarray, l1: float) -> None:
    """Replace the rows of W by the exact minimisers; solved in float64 whatever their dtype.

    Parameters
    ----------
    W : ndarray of shape (n_rows, n_components)
        Its positive entries are tried first.
    N : ndarray of shape (n_rows, n_components)
        The cross product V Hᵀ.
    S : ndarray of shape (n_components, n_components), float64
        H Hᵀ, with l2 on its diagonal.
    l1 : float
    """
    _solve_rows(W, N, S, l1)
