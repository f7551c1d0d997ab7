"""Compiled element-wise parts of a multiplicative step, one loop each, and their losses in float64.

With p = max(P, floor), entry by entry::

    β = 1    q = v / p                                          Σ v (log q − 1) + P
    β = 0    r = 1 / p,   q = (v r) r                           Σ v r − log(v r) − 1
    other    q = v p^{β−2},   r = p^{β−1}                       Σ r ((β − 1) p − β v) / (β (β − 1))

where the sums are divergences without their parts that depend on V alone. If P has NaN or infinities, q, r
and the sums have them too.

A loop that calls the C library for logarithms is not compiled to vector code, so the logarithm is implemented
here, with the algorithm of fdlibm: x = 2^e (1 + f) with 1 + f in [√½, √2), and log(1 + f) from an odd series
in f / (2 + f).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from dasknmf.core.kernel import inlined, kernel

Weights: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Weights of entries, of shape (n_rows, n_features), of rows and of columns."""

_LEAST_NORMAL = float(np.finfo(np.float64).tiny)
_MOST = float(np.finfo(np.float64).max)


@inlined
def log(x: float) -> float:
    """log x of a positive normal number; a finite number for 0, infinity and NaN."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    f = np.int64(bits - (exponent << 52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (0.3999999999940941908 + w * (0.2222219843214978396 + w * 0.1531383769920937332))
    odd = z * (
        0.6666666666666735130
        + w * (0.2857142874366239149 + w * (0.1818357216161805012 + w * 0.1479819860511658591))
    )
    half = 0.5 * f * f
    return exponent * 0.6931471805599453 + (f - (half - s * (half + (even + odd))))


@kernel
def kullback_leibler(v: np.ndarray, p: np.ndarray, q: np.ndarray, floor: float) -> None:
    least = v.dtype.type(floor)
    for i in range(v.size):
        q[i] = v[i] / (least if p[i] < least else p[i])


@inlined
def kullback_leibler_loss(v: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    result = 0.0
    for i in range(v.size):
        x = np.float64(q[i])
        # `log` is finite for infinity and NaN; its product with v = 0 is 0.
        lost = 0.0 if x <= _MOST else np.inf
        result += np.float64(v[i]) * (log(x) - 1.0 + lost) + np.float64(p[i])
    return result


@kernel
def kullback_leibler_rows(v: np.ndarray, p: np.ndarray, q: np.ndarray, losses: np.ndarray) -> None:
    """The loss of each row."""
    for i in range(v.shape[0]):
        losses[i] = kullback_leibler_loss(v[i], p[i], q[i])


@kernel
def itakura_saito(v: np.ndarray, p: np.ndarray, q: np.ndarray, r: np.ndarray, floor: float) -> None:
    least = v.dtype.type(floor)
    one = v.dtype.type(1)
    for i in range(v.size):
        r[i] = one / (least if p[i] < least else p[i])
        q[i] = v[i] * r[i]
    # (v / p) / p in a loop of its own: the compiler could square 1 / p, which overflows much earlier.
    for i in range(v.size):
        q[i] *= r[i]


@kernel
def itakura_saito_loss(v: np.ndarray, r: np.ndarray) -> float:
    result = 0.0
    for i in range(v.size):
        x = np.float64(v[i]) * np.float64(r[i])
        result += x - log(x) - 1.0 + (np.inf if x < _LEAST_NORMAL else 0.0)
    return result


@kernel
def raised(p: np.ndarray, floor: float) -> None:
    """p ← max(p, floor)."""
    least = p.dtype.type(floor)
    for i in range(p.size):
        p[i] = least if p[i] < least else p[i]


@kernel
def weighted(v: np.ndarray, p: np.ndarray, q: np.ndarray, r: np.ndarray) -> None:
    """q ← v q and r ← q p, where q holds p^{β−2} before the call: NumPy's power is the fastest."""
    for i in range(v.size):
        power = q[i]
        r[i] = power * p[i]
        q[i] = v[i] * power


@kernel
def weighted_loss(v: np.ndarray, p: np.ndarray, r: np.ndarray, beta: float) -> float:
    result = 0.0
    for i in range(v.size):
        result += np.float64(r[i]) * ((beta - 1.0) * np.float64(p[i]) - beta * np.float64(v[i]))
    return result / (beta * (beta - 1.0))


@kernel
def weighted_entries_loss(
    v: np.ndarray, p: np.ndarray, q: np.ndarray, r: np.ndarray, weights: Weights, beta: float
) -> float:
    """The loss of any β with weights of entries, rows and columns."""
    entries, rows, columns = weights
    total = 0.0
    for i in range(v.shape[0]):
        line = 0.0
        for j in range(v.shape[1]):
            here = np.float64(v[i, j])
            if beta == 1.0:
                x = np.float64(q[i, j])
                lost = 0.0 if x <= _MOST else np.inf
                loss = here * (log(x) - 1.0 + lost) + np.float64(p[i, j])
            elif beta == 0.0:
                x = here * np.float64(r[i, j])
                loss = x - log(x) - 1.0 + (np.inf if x < _LEAST_NORMAL else 0.0)
            else:
                linear = (beta - 1.0) * np.float64(p[i, j]) - beta * here
                loss = np.float64(r[i, j]) * linear / (beta * (beta - 1.0))
            line += columns[j] * np.float64(entries[i, j]) * loss
        total += rows[i] * line
    return total
