"""Multiplicative updates: the step that majorises the beta-divergence.

For one row w of W with p = w H, writing [1]_::

    a = (v ∘ p^{β−2}) Hᵀ        b = p^{β−1} Hᵀ
    w ← w ∘ (a / (b + l1 + l2 w))^γ        γ = 1/(2−β), 1, 1/(β−1)  for β < 1, 1 ≤ β ≤ 2, β > 2

For β = 2 both follow from the cross product and the Gram, a = v Hᵀ and b = w H Hᵀ, so the step can
be repeated without V.

With an l2 penalty and 1 ≤ β < 2 that form, scikit-learn's, can raise the objective. The
majoriser's own minimum does not. Setting its derivative to zero and multiplying by x^{2−β} gives,
for x = w'/w, the only positive root of::

    b x + (l1 + l2 w x) x^{2−β} = a

References
----------
.. [1] Févotte, C., & Idier, J. (2011). Algorithms for nonnegative matrix factorization with the
   beta-divergence. Neural Computation, 23(9). https://doi.org/10.1162/NECO_a_00168
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dasknmf.core.kernel import kernel
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalty
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.lanes import (
    LANES,
    add_product,
    grams,
    load_grams,
    load_lanes,
    still_going,
    store_lanes,
)
from dasknmf.core.solvers.packed_grams import Packed

EAGERNESS = 2.0
"""α of Gillis & Glineur (2012) for multiplicative updates."""


@kernel
def _move(
    W: np.ndarray,
    N: np.ndarray,
    s: np.ndarray,
    lines: np.ndarray | None,
    limits: tuple[float, int, float, float],
) -> None:
    n_rows, k = W.shape
    l1, count, delta_squared, eps = limits
    zero = W.dtype.type(0)
    penalty = W.dtype.type(l1)
    tolerance = W.dtype.type(delta_squared)
    floor = W.dtype.type(eps)
    w = np.zeros((k, LANES), W.dtype)
    n = np.zeros((k, LANES), W.dtype)
    b = np.zeros((k, LANES), W.dtype)
    moved = np.zeros(LANES, W.dtype)
    first_moved = np.zeros(LANES, W.dtype)
    going = np.zeros(LANES, np.bool_)
    for start in range(0, n_rows, LANES):
        width = min(LANES, n_rows - start)
        for lane in range(LANES):
            going[lane] = lane < width
        load_lanes(w, W, start, width)
        load_lanes(n, N, start, width)
        if lines is not None:
            load_grams(s, lines, start, width)
        for step in range(count):
            for t in range(k):
                for lane in range(LANES):
                    b[t, lane] = penalty
                add_product(b[t], s[t], w)
            for lane in range(LANES):
                moved[lane] = zero
            for t in range(k):
                for lane in range(LANES):
                    here = w[t, lane]
                    denominator = b[t, lane] if b[t, lane] != zero else floor
                    there = here * n[t, lane] / denominator if going[lane] else here
                    moved[lane] += (there - here) * (there - here)
                    w[t, lane] = there
            if still_going(going, moved, first_moved, tolerance, step) == 0:
                break
        store_lanes(W, w, start, width)


def move(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, steps: Steps) -> float:
    """Quadratic loss: multiply the rows of W in place by N / (W S + l1); see `dasknmf.core.solvers.cd.move`.

    Returns
    -------
    float
        0: the violation is not measured.
    """
    _move(W, N, *grams(S, W.dtype), steps.limits)
    return 0.0


@kernel
def _root(a: np.ndarray, b: np.ndarray, w: np.ndarray, l1: float, l2: float, power: float) -> np.ndarray:
    """x > 0 with b x + (l1 + l2 w x) x^power = a, for 0 < power ≤ 1, entry by entry."""
    result = np.empty(a.size, np.float64)
    for i in range(a.size):
        target = np.float64(a[i])
        linear = np.float64(b[i])
        curve = l2 * np.float64(w[i])
        if target <= 0.0:
            result[i] = 0.0
            continue
        # The left side rises from 0 without bound: bracket the root, then bisect and take Newton steps.
        low = 0.0
        high = 1.0
        while linear * high + (l1 + curve * high) * high**power < target and high < 1e300:
            low = high
            high *= 2.0
        x = 0.5 * (low + high)
        for _ in range(200):
            bent = x**power
            value = linear * x + (l1 + curve * x) * bent - target
            if value > 0.0:
                high = x
            else:
                low = x
            slope = linear + (power * l1 / x + (1.0 + power) * curve) * bent
            step = x - value / slope
            if not (low < step < high):
                step = 0.5 * (low + high)
            if abs(step - x) <= 1e-15 * x:
                x = step
                break
            x = step
        result[i] = x
    return result


@dataclass(frozen=True)
class Objective:
    """The objective that a multiplicative step lowers.

    Parameters
    ----------
    loss : Loss
    penalty : Penalty
    exact : bool
        Whether an l2 penalty with 1 ≤ β < 2 takes the majoriser's minimum, which never raises the
        objective, instead of scikit-learn's form.
    """

    loss: Loss
    penalty: Penalty
    exact: bool = True


def step(
    W: np.ndarray, a: np.ndarray, b: np.ndarray, objective: Objective, eps: float | np.ndarray
) -> np.ndarray:
    """The factor after one multiplicative step from W.

    Parameters
    ----------
    W, a, b : ndarray
        The factor and the two sums of the module's formula, of one shape (b may broadcast).
    objective : Objective
    eps : float or ndarray
        Replaces a denominator of zero.
    """
    loss, penalty = objective.loss, objective.penalty
    if objective.exact and penalty.l2 and 1 <= loss.beta < 2:
        b = np.broadcast_to(b, W.shape)
        if loss.beta == 1:
            # l2 w x² + (b + l1) x − a = 0, in the form that does not cancel.
            linear = b + penalty.l1
            root = linear + np.sqrt(linear**2 + 4 * penalty.l2 * W * a) + eps * (a == 0)
            return np.asarray(W * (2 * a / root), W.dtype)
        a, b, w = (np.ascontiguousarray(part).reshape(-1) for part in (a, b, W))
        x = _root(a, b, w, penalty.l1, penalty.l2, 2.0 - loss.beta)
        return np.asarray(W * x.reshape(W.shape), W.dtype)
    denominator = b + penalty.l1 + penalty.l2 * W if penalty else b
    denominator = np.where(denominator == 0, np.asarray(eps, W.dtype), denominator)
    ratio = a / denominator
    if loss.gamma != 1:
        ratio **= loss.gamma
    return np.asarray(W * ratio, W.dtype)
