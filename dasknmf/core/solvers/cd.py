"""Coordinate descent (HALS) for the quadratic loss: one exact step per entry, in turn.

For one row w of W, with n = v Hᵀ, S = H Hᵀ + l2 I and the other entries fixed, the objective is a
parabola in w_t, and its minimum over w_t ≥ 0 is [1]_::

    g_t = (S w)_t − n_t + l1
    w_t ← max(0, w_t − g_t / S_tt)

which is scikit-learn's ``cd``. H is updated by
the same step on Hᵀ, with A = Wᵀ V and G = Wᵀ W.

References
----------
.. [1] Cichocki, A., & Phan, A. H. (2009). Fast local algorithms for large scale nonnegative matrix
   and tensor factorizations. IEICE Transactions, E92-A(3).
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.kernel import kernel
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.lanes import (
    LANES,
    add_product,
    at,
    grams,
    load_grams,
    load_lanes,
    still_going,
    store_lanes,
)
from dasknmf.core.solvers.packed_grams import Packed

EAGERNESS = 0.5
"""α of Gillis & Glineur (2012) for coordinate descent."""
OMEGA = 1.6
"""ω of over-relaxation. Reads of fits whose sample is an eighth of V, with 1, 1.5, 1.6, 1.7, 1.8:
medulloblastoma 40, 20, 19, 17, 19; leukemia 14, 10, 17, 17, 16; eight other sets 6 to 15.
Passes in memory to 1e-3 above the minimum, with 1 and 1.6: medulloblastoma 33, 10; leukemia 28, 10;
digits 51, 16; Indian Pines 24, 12; from 1.7 on, some sets need more again."""


@kernel
def _move(
    W: np.ndarray,
    N: np.ndarray,
    s: np.ndarray,
    lines: np.ndarray | None,
    order: np.ndarray,
    limits: tuple[float, int, float, float],
) -> float:
    n_rows, k = W.shape
    l1, count, delta_squared, _ = limits
    zero = W.dtype.type(0)
    penalty = W.dtype.type(l1)
    tolerance = W.dtype.type(delta_squared)
    w = np.zeros((k, LANES), W.dtype)
    n = np.zeros((k, LANES), W.dtype)
    g = np.zeros(LANES, W.dtype)
    moved = np.zeros(LANES, W.dtype)
    first_moved = np.zeros(LANES, W.dtype)
    going = np.zeros(LANES, np.bool_)
    free = np.zeros(LANES, np.bool_)
    violation = 0.0
    for start in range(0, n_rows, LANES):
        width = min(LANES, n_rows - start)
        for lane in range(LANES):
            going[lane] = lane < width
        load_lanes(w, W, start, width)
        load_lanes(n, N, start, width)
        if lines is not None:
            load_grams(s, lines, start, width)
        for step in range(count):
            for lane in range(LANES):
                moved[lane] = zero
            for t in order:
                curvature = s[t, t]
                for lane in range(LANES):
                    free[lane] = going[lane] and at(curvature, lane) != zero
                for lane in range(LANES):
                    g[lane] = penalty - n[t, lane]
                add_product(g, s[t], w)
                if step == 0:
                    # scikit-learn's measure of optimality: the projected gradient before each step.
                    for lane in range(LANES):
                        slope = min(zero, g[lane]) if w[t, lane] == zero else g[lane]
                        violation += abs(np.float64(slope)) if free[lane] else 0.0
                for lane in range(LANES):
                    here = w[t, lane]
                    there = max(here - g[lane] / at(curvature, lane), zero)
                    there = there if free[lane] else here
                    moved[lane] += (there - here) * (there - here)
                    w[t, lane] = there
            if still_going(going, moved, first_moved, tolerance, step) == 0:
                break
        store_lanes(W, w, start, width)
    return violation


def move(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, steps: Steps) -> float:
    """Update the rows of W in place towards min ½ w S wᵀ − n wᵀ + l1 Σw over w ≥ 0.

    Parameters
    ----------
    W, N : ndarray of shape (n_rows, n_components)
        N is V Hᵀ.
    S : ndarray of shape (n_components, n_components), or Packed
        The Gram matrix of all rows, or of each, with l2 already on its diagonal. An entry whose
        curvature S_tt is zero stays as it is.
    steps : Steps

    Returns
    -------
    float
        Sum of the absolute projected gradients met during the first sweep.
    """
    return float(_move(W, N, *grams(S, W.dtype), steps.order, steps.limits))
