"""Compiled sums over contiguous values, accumulated in float64."""

from __future__ import annotations

import numpy as np

from dasknmf.core.kernel import kernel


@kernel
def total(values: np.ndarray) -> float:
    """Σ v."""
    result = 0.0
    for i in range(values.size):
        result += np.float64(values[i])
    return result


@kernel
def product_total(left: np.ndarray, right: np.ndarray) -> float:
    """Σ u v."""
    result = 0.0
    for i in range(left.size):
        result += np.float64(left[i]) * np.float64(right[i])
    return result


@kernel
def _accumulate(total: np.ndarray, part: np.ndarray) -> None:
    """total += part."""
    for i in range(total.size):
        total[i] += part[i]


@kernel
def survey(values: np.ndarray) -> tuple[float, float, int, int, int, int]:
    """Σ v, Σ v², and how many values are NaN, infinite, negative and zero."""
    result = 0.0
    squares = 0.0
    n_nan = 0
    n_inf = 0
    n_negative = 0
    n_zero = 0
    for i in range(values.size):
        v = np.float64(values[i])
        result += v
        squares += v * v
        n_nan += int(v != v)
        n_inf += int(abs(v) == np.inf)
        n_negative += int(v < 0.0)
        n_zero += int(v == 0.0)
    return result, squares, n_nan, n_inf, n_negative, n_zero


def add_to(total: np.ndarray, part: np.ndarray) -> None:
    """total += part, of another precision: NumPy would convert it in a buffer first."""
    _accumulate(total.reshape(-1), part.reshape(-1))
