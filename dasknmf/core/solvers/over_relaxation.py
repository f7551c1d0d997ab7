"""Over-relaxation: each update of W and of H moves beyond its minimum, so that fewer passes are needed.

A pass is one Gauss–Seidel iteration with two blocks, W and H. Successive over-relaxation [1]_ extends the
update of each block from x to x' by a factor ω::

    x ← max(0, x' + (ω − 1) (x' − x)),    1 < ω < 2

If x' minimizes the quadratic objective q of the block and no bound is active, then
q(new) − q(x') = (ω − 1)² (q(x) − q(x')): the objective does not rise for ω ≤ 2. Where plain iterations
reduce the error by a factor 1 − ε, those with the best ω reduce it by about 1 − 2 √ε. Where bounds are active
and updates are inexact, q(new) ≤ q(x) is tested for each row, from N and S, which the update has anyway; a
row that fails the test takes x'. Therefore the objective never rises, no read is lost, and no state is kept.

References
----------
.. [1] Young, D. M. (1954). Iterative methods for solving partial difference equations of elliptic type.
   Transactions of the American Mathematical Society, 76(1).
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.kernel import kernel
from dasknmf.core.solvers.grams import Gram
from dasknmf.core.solvers.lanes import LANES, add_product, grams, load_grams, load_lanes, store_lanes


@kernel
def _extend(
    W: np.ndarray,
    before: np.ndarray,
    N: np.ndarray,
    s: np.ndarray,
    lines: np.ndarray | None,
    numbers: tuple[float, float],
) -> None:
    n_rows, k = W.shape
    zero, half = W.dtype.type(0), W.dtype.type(0.5)
    l1, beyond = W.dtype.type(numbers[0]), W.dtype.type(numbers[1])
    w = np.zeros((k, LANES), W.dtype)
    x = np.zeros((k, LANES), W.dtype)
    n = np.zeros((k, LANES), W.dtype)
    further = np.zeros((k, LANES), W.dtype)
    middle = np.zeros((k, LANES), W.dtype)
    slope = np.zeros(LANES, W.dtype)
    change = np.zeros(LANES, W.dtype)
    for start in range(0, n_rows, LANES):
        width = min(LANES, n_rows - start)
        load_lanes(w, W, start, width)
        load_lanes(x, before, start, width)
        load_lanes(n, N, start, width)
        if lines is not None:
            load_grams(s, lines, start, width)
        for t in range(k):
            for lane in range(LANES):
                further[t, lane] = max(w[t, lane] + beyond * (w[t, lane] - x[t, lane]), zero)
                middle[t, lane] = half * (further[t, lane] + x[t, lane])
        for lane in range(LANES):
            change[lane] = zero
        # A quadratic changes between two points by its slope in the middle times their difference.
        for t in range(k):
            for lane in range(LANES):
                slope[lane] = l1 - n[t, lane]
            add_product(slope, s[t], middle)
            for lane in range(LANES):
                change[lane] += slope[lane] * (further[t, lane] - x[t, lane])
        for t in range(k):
            for lane in range(LANES):
                w[t, lane] = further[t, lane] if change[lane] <= zero else w[t, lane]
        store_lanes(W, w, start, width)


def extend(W: np.ndarray, before: np.ndarray, N: np.ndarray, S: Gram, l1: float, omega: float) -> None:
    """Extend the update of each row of W in place if ½ w S wᵀ − n wᵀ + l1 Σw is then at most as before.

    Parameters
    ----------
    W, before : ndarray of shape (n_rows, n_components)
        Rows after and before their update.
    N : ndarray of shape (n_rows, n_components)
        V Hᵀ.
    S : ndarray of shape (n_components, n_components), or Packed
        The Gram matrix of all rows, or of each, with l2 already on its diagonal.
    l1 : float
    omega : float
        The factor ω.
    """
    _extend(W, before, N, *grams(S, W.dtype), (float(l1), float(omega - 1)))
