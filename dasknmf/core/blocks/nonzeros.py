"""Compiled loops over the nonzeros of a tile: rows `pointers[i]` to `pointers[i + 1]` of `columns`.

Factors come as rows of whole vectors (see `dasknmf.core.blocks.simd`), H as Hᵀ, so that what a nonzero
needs of either lies in one piece.
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.blocks.ratios import log
from dasknmf.core.blocks.simd import LANES, MOST, dots, gathers, scatters
from dasknmf.core.kernel import inlined, kernel

_MOST = float(np.finfo(np.float64).max)


_dot_1, _dot_2, _dot_3, _dot_4 = dots
_gather_1, _gather_2, _gather_3, _gather_4 = gathers
_scatter_1, _scatter_2, _scatter_3, _scatter_4 = scatters


@kernel
def products(pointers: np.ndarray, columns: np.ndarray, W: np.ndarray, Ht: np.ndarray, p: np.ndarray) -> None:
    """p ← WH where V is not zero."""
    blocks = W.shape[1] // LANES
    for i in range(pointers.size - 1):
        start, stop = pointers[i], pointers[i + 1]
        for e in range(start, stop):
            p[e] = 0
        for block in range(0, blocks, MOST):
            if blocks - block >= 4:
                _dot_4(W, i, block, p, columns, start, stop, Ht)
            elif blocks - block == 3:
                _dot_3(W, i, block, p, columns, start, stop, Ht)
            elif blocks - block == 2:
                _dot_2(W, i, block, p, columns, start, stop, Ht)
            else:
                _dot_1(W, i, block, p, columns, start, stop, Ht)


@kernel
def gather(pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, Ht: np.ndarray, N: np.ndarray) -> None:
    """N += Q Hᵀ, Q the sparse matrix with values q."""
    blocks = N.shape[1] // LANES
    for i in range(pointers.size - 1):
        start, stop = pointers[i], pointers[i + 1]
        for block in range(0, blocks, MOST):
            if blocks - block >= 4:
                _gather_4(N, i, block, q, columns, start, stop, Ht)
            elif blocks - block == 3:
                _gather_3(N, i, block, q, columns, start, stop, Ht)
            elif blocks - block == 2:
                _gather_2(N, i, block, q, columns, start, stop, Ht)
            else:
                _gather_1(N, i, block, q, columns, start, stop, Ht)


@kernel
def scatter(pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, W: np.ndarray, At: np.ndarray) -> None:
    """At += Qᵀ W, Q the sparse matrix with values q."""
    blocks = W.shape[1] // LANES
    for i in range(pointers.size - 1):
        start, stop = pointers[i], pointers[i + 1]
        for block in range(0, blocks, MOST):
            if blocks - block >= 4:
                _scatter_4(W, i, block, q, columns, start, stop, At)
            elif blocks - block == 3:
                _scatter_3(W, i, block, q, columns, start, stop, At)
            elif blocks - block == 2:
                _scatter_2(W, i, block, q, columns, start, stop, At)
            else:
                _scatter_1(W, i, block, q, columns, start, stop, At)


@kernel
def quotients(pointers: np.ndarray, v: np.ndarray, p: np.ndarray, floors: np.ndarray) -> None:
    """p ← v / max(p, floor), each row with a floor of its own."""
    for i in range(pointers.size - 1):
        least = floors[i]
        for e in range(pointers[i], pointers[i + 1]):
            p[e] = v[e] / (least if p[e] < least else p[e])


@inlined
def kullback_leibler_loss(v: np.ndarray, q: np.ndarray) -> float:
    """Σ v (log q − 1): the divergence less Σ P and what depends on V alone."""
    result = 0.0
    for e in range(v.size):
        x = np.float64(q[e])
        # `log` does not see an x that left its range; v = 0 takes its 0 to 0.
        lost = 0.0 if x <= _MOST else np.inf
        result += np.float64(v[e]) * (log(x) - 1.0 + lost)
    return result


@kernel
def kullback_leibler_rows(pointers: np.ndarray, v: np.ndarray, q: np.ndarray, losses: np.ndarray) -> None:
    """losses += Σ v log q − v, row by row."""
    for i in range(pointers.size - 1):
        row = slice(pointers[i], pointers[i + 1])
        losses[i] += kullback_leibler_loss(v[row], q[row])


@kernel
def spread(pointers: np.ndarray, columns: np.ndarray, v: np.ndarray, D: np.ndarray, sign: float) -> None:
    """D += sign · V."""
    factor = D.dtype.type(sign)
    for i in range(pointers.size - 1):
        for e in range(pointers[i], pointers[i + 1]):
            D[i, columns[e]] += factor * v[e]


@kernel
def column_sums(columns: np.ndarray, v: np.ndarray, sums: np.ndarray) -> None:
    """sums += Σ over rows."""
    for e in range(columns.size):
        sums[columns[e]] += np.float64(v[e])


@kernel
def power_sum(v: np.ndarray, exponent: float) -> float:
    """Σ v^exponent over what is stored and is not zero."""
    result = 0.0
    for e in range(v.size):
        if v[e] != 0:
            result += np.float64(v[e]) ** exponent
    return result


@kernel
def add_turned(A: np.ndarray, At: np.ndarray) -> None:
    """A += Atᵀ, and At ← 0, in squares that stay in cache."""
    k, m = A.shape
    zero = At.dtype.type(0)
    for start in range(0, m, 64):
        stop = min(start + 64, m)
        for t in range(k):
            for j in range(start, stop):
                A[t, j] += At[j, t]
        for j in range(start, stop):
            for t in range(At.shape[1]):
                At[j, t] = zero
