"""Updates of 64 rows of W at once, one in each lane of a vector: transposition and products.

A row of W is too short to fill a vector, and each step of its sums waits for the step before. So blocks of 64
rows are transposed, shape (k, LANES), and every loop over lanes is a vector loop without remainder. The
result of a row comes from its own lane only, so it does not depend on the other rows.

The entries of a Gram matrix S that all rows share are numbers. If each row has its own S, they are arrays of
64 numbers, and S has the shape (k, k, LANES): with `at`, the same source is compiled for both.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import overload

from dasknmf.core.kernel import inlined
from dasknmf.core.solvers.packed_grams import Packed

LANES = 64
"""With fewer lanes the compiler unrolls loops to scalar code: 16 lanes were four times slower."""


def at(line: np.ndarray | float, lane: int) -> float:
    """The number of a lane: from an array of lanes, or the number that all lanes share."""
    return line[lane] if isinstance(line, np.ndarray) else line


def _at(line, lane):  # type: ignore[no-untyped-def]
    if isinstance(line, types.Array):
        return lambda line, lane: line[lane]
    return lambda line, lane: line


overload(at)(_at)


def grams(S: np.ndarray | Packed, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """Arguments of a kernel for S: the shared matrix and None, or a buffer of 64 matrices and S's lines.

    A kernel that is compiled for None has no code for lines.
    """
    if not isinstance(S, Packed):
        return S, None
    return np.zeros((S.k, S.k, LANES), dtype), S.lines


@inlined
def load_grams(s: np.ndarray, lines: np.ndarray, start: int, width: int) -> None:
    """s[t, r, i] = S_{start + i}[t, r] for i < width."""
    k = len(s)
    here = 0
    for t in range(k):
        for r in range(t, k):
            column = lines.T[here, start : start + width]
            for lane in range(width):
                s[t, r, lane] = column[lane]
            for lane in range(LANES):
                s[r, t, lane] = s[t, r, lane]
            here += 1


@inlined
def load_lanes(lanes: np.ndarray, rows: np.ndarray, start: int, width: int) -> None:
    """lanes[t, i] = rows[start + i, t] for i < width."""
    for lane in range(width):
        for t in range(rows.shape[1]):
            lanes[t, lane] = rows[start + lane, t]


@inlined
def store_lanes(rows: np.ndarray, lanes: np.ndarray, start: int, width: int) -> None:
    """rows[start + i, t] = lanes[t, i] for i < width."""
    for lane in range(width):
        for t in range(rows.shape[1]):
            rows[start + lane, t] = lanes[t, lane]


@inlined
def add_product(g: np.ndarray, s: np.ndarray, w: np.ndarray) -> None:
    """g += Σ_r s_r w_r in every lane; s_r is a number or an array of lanes."""
    k = len(s)
    # Four terms at a time, as g is read from memory and written for each group of terms.
    for r in range(0, k - 3, 4):
        s0, s1, s2, s3 = s[r], s[r + 1], s[r + 2], s[r + 3]
        for lane in range(LANES):
            g[lane] += (at(s0, lane) * w[r, lane] + at(s1, lane) * w[r + 1, lane]) + (
                at(s2, lane) * w[r + 2, lane] + at(s3, lane) * w[r + 3, lane]
            )
    for r in range(k - k % 4, k):
        s0 = s[r]
        for lane in range(LANES):
            g[lane] += at(s0, lane) * w[r, lane]


@inlined
def subtract_product(g: np.ndarray, a: np.ndarray, b: np.ndarray, n: int) -> None:
    """g −= Σ_{r<n} a_r b_r in every lane."""
    for r in range(0, n - 3, 4):
        for lane in range(LANES):
            g[lane] -= (a[r, lane] * b[r, lane] + a[r + 1, lane] * b[r + 1, lane]) + (
                a[r + 2, lane] * b[r + 2, lane] + a[r + 3, lane] * b[r + 3, lane]
            )
    for r in range(n - n % 4, n):
        for lane in range(LANES):
            g[lane] -= a[r, lane] * b[r, lane]


@inlined
def still_going(
    going: np.ndarray, moved: np.ndarray, first_moved: np.ndarray, tolerance: float, step: int
) -> int:
    """Apply the δ rule to every lane after a step; the number of lanes that take another step."""
    left = 0
    for lane in range(LANES):
        if step == 0:
            first_moved[lane] = moved[lane]
        going[lane] = going[lane] and moved[lane] > 0 and moved[lane] >= tolerance * first_moved[lane]
        left += going[lane]
    return left
