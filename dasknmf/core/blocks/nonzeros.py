"""Compiled loops over the nonzeros of a CSR tile.

Row i of the tile has the columns ``columns[pointers[i]:pointers[i + 1]]``, and values at the same places. W
and Hᵀ are given with rows that are padded to whole vectors (see `dasknmf.core.blocks.simd`), so that a
nonzero needs one contiguous row of each. Three loops have a second version by SciPy, which runs if the vector
code does not compile; the results of the two differ in the last bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numba.core.errors import NumbaError
from scipy.sparse import csr_array

from dasknmf.core.blocks.ratios import log
from dasknmf.core.blocks.simd import LANES, MOST, dots, gathers, scatters
from dasknmf.core.kernel import inlined, kernel

_log = logging.getLogger("dasknmf")
_MOST = float(np.finfo(np.float64).max)

Loop = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


def or_scipy(fast: Loop, by_scipy: Loop) -> Loop:
    """`fast`, or `by_scipy` where this version of numba or LLVM does not compile `fast`."""

    def loop(pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, F: np.ndarray, G: np.ndarray) -> None:
        nonlocal fast
        try:
            fast(pointers, columns, q, F, G)
        except (NumbaError, RuntimeError) as error:  # raised by the compiler; kernels raise nothing
            _log.warning("vector code cannot be compiled, so that sparse products are slower: %s", error)
            fast = by_scipy
            by_scipy(pointers, columns, q, F, G)

    return loop


@kernel
def fast_products(
    pointers: np.ndarray, columns: np.ndarray, p: np.ndarray, W: np.ndarray, Ht: np.ndarray
) -> None:
    blocks = W.shape[1] // LANES
    for i in range(pointers.size - 1):
        start, stop = pointers[i], pointers[i + 1]
        for e in range(start, stop):
            p[e] = 0
        for block in range(0, blocks, MOST):
            dots(W, (i, block, blocks - block), (p, columns, start, stop), Ht)


def scipy_products(
    pointers: np.ndarray, columns: np.ndarray, p: np.ndarray, W: np.ndarray, Ht: np.ndarray
) -> None:
    rows = np.repeat(np.arange(len(W)), np.diff(pointers))
    np.einsum("et,et->e", W[rows], Ht[columns], out=p)


products = or_scipy(fast_products, scipy_products)
"""p ← WH where V is not zero, from (pointers, columns, p, W, Ht)."""


@kernel
def fast_gather(
    pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, N: np.ndarray, Ht: np.ndarray
) -> None:
    blocks = N.shape[1] // LANES
    for i in range(pointers.size - 1):
        nonzeros = q, columns, pointers[i], pointers[i + 1]
        for block in range(0, blocks, MOST):
            gathers(N, (i, block, blocks - block), nonzeros, Ht)


def scipy_gather(
    pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, N: np.ndarray, Ht: np.ndarray
) -> None:
    N += csr_array((q, columns, pointers), shape=(len(N), len(Ht))) @ Ht


gather = or_scipy(fast_gather, scipy_gather)
"""N += Q Hᵀ, Q the sparse matrix with values q, from (pointers, columns, q, N, Ht)."""


@kernel
def fast_scatter(
    pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, W: np.ndarray, At: np.ndarray
) -> None:
    blocks = W.shape[1] // LANES
    for i in range(pointers.size - 1):
        nonzeros = q, columns, pointers[i], pointers[i + 1]
        for block in range(0, blocks, MOST):
            scatters(W, (i, block, blocks - block), nonzeros, At)


def scipy_scatter(
    pointers: np.ndarray, columns: np.ndarray, q: np.ndarray, W: np.ndarray, At: np.ndarray
) -> None:
    At += csr_array((q, columns, pointers), shape=(len(W), len(At))).T @ W


scatter = or_scipy(fast_scatter, scipy_scatter)
"""At += Qᵀ W, Q the sparse matrix with values q, from (pointers, columns, q, W, At)."""


@kernel
def quotients(pointers: np.ndarray, v: np.ndarray, p: np.ndarray, floors: np.ndarray) -> None:
    """p ← v / max(p, floor), each row with a floor of its own."""
    for i in range(pointers.size - 1):
        least = floors[i]
        for e in range(pointers[i], pointers[i + 1]):
            p[e] = v[e] / (least if p[e] < least else p[e])


@inlined
def kullback_leibler_loss(v: np.ndarray, q: np.ndarray) -> float:
    """Σ v (log q − 1): the divergence without Σ P and without its part that depends on V alone."""
    result = 0.0
    for e in range(v.size):
        x = np.float64(q[e])
        # `log` is finite for infinity and NaN; its product with v = 0 is 0.
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
    """Σ v^exponent over stored values that are not zero."""
    result = 0.0
    for e in range(v.size):
        if v[e] != 0:
            result += np.float64(v[e]) ** exponent
    return result


@kernel
def add_transposed(A: np.ndarray, At: np.ndarray) -> None:
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
