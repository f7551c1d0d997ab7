"""Means, squared deviations and nonzeros of the rows or columns of a tile.

Deviations are from the tile's own mean, in a second loop: sums of plain squares would lose the variance of
columns whose mean is much larger. Two sets of samples with means μ₁, μ₂ and squared deviations
S₁, S₂ have together, with δ = μ₂ − μ₁ (Chan, Golub & LeVeque 1983)::

    μ = μ₁ + δ n₂ / n          S = S₁ + S₂ + δ² n₁ n₂ / n
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.kernel import kernel

LineMoments = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Mean, Σ (v − mean)² and the number of values that are not zero of each line, three float64 arrays."""


def of_columns(values: np.ndarray) -> LineMoments:
    """The moments of each column of a dense tile."""
    found = empty(values.shape[1])
    if values.flags.c_contiguous:
        _moments_of_columns(values, found)
    else:
        _moments_of_rows(np.ascontiguousarray(values.T), found)
    return found


def of_sparse_columns(v: np.ndarray, columns: np.ndarray, n_rows: int, n_features: int) -> LineMoments:
    """The moments of each column of a sparse tile, from its stored values and their columns."""
    found = empty(n_features)
    _moments_of_sparse_columns(v, columns, n_rows, np.zeros(n_features), found)
    return found


def of_sparse_rows(v: np.ndarray, pointers: np.ndarray, n_features: int) -> LineMoments:
    """The moments of each row of a sparse tile, from its stored values and where rows begin in them."""
    found = empty(len(pointers) - 1)
    _moments_of_sparse_rows(v, pointers, n_features, found)
    return found


def pooled(first: LineMoments, n_first: int, second: LineMoments, n_second: int) -> LineMoments:
    """The moments over `n_first` samples and `n_second` others together."""
    found = empty(len(first[0]))
    _pool(first, float(n_first), second, float(n_second), found)
    return found


def empty(length: int) -> LineMoments:
    """The moments over no samples."""
    return np.zeros(length), np.zeros(length), np.zeros(length)


@kernel
def _moments_of_columns(values: np.ndarray, found: LineMoments) -> None:
    """Write to `found` the moments of each column of C-contiguous values."""
    mean, squares, nonzeros = found
    n_rows, n_columns = values.shape
    for i in range(n_rows):
        for j in range(n_columns):
            mean[j] += values[i, j]
            nonzeros[j] += np.float64(values[i, j] != 0)
    for j in range(n_columns):
        mean[j] /= n_rows
    for i in range(n_rows):
        for j in range(n_columns):
            deviation = values[i, j] - mean[j]
            squares[j] += deviation * deviation


@kernel
def _moments_of_rows(values: np.ndarray, found: LineMoments) -> None:
    """Write to `found` the moments of each row of C-contiguous values."""
    mean, squares, nonzeros = found
    n_rows, n_columns = values.shape
    for i in range(n_rows):
        total = 0.0
        count = 0.0
        for j in range(n_columns):
            total += values[i, j]
            count += np.float64(values[i, j] != 0)
        centre = total / n_columns
        around = 0.0
        for j in range(n_columns):
            deviation = values[i, j] - centre
            around += deviation * deviation
        mean[i], squares[i], nonzeros[i] = centre, around, count


@kernel
def _moments_of_sparse_columns(
    v: np.ndarray, columns: np.ndarray, n_rows: int, stored: np.ndarray, found: LineMoments
) -> None:
    mean, squares, nonzeros = found
    for at in range(v.size):
        j = columns[at]
        stored[j] += 1.0
        mean[j] += v[at]
        nonzeros[j] += np.float64(v[at] != 0)
    for j in range(mean.size):
        mean[j] /= n_rows
        squares[j] = (n_rows - stored[j]) * mean[j] * mean[j]
    for at in range(v.size):
        deviation = v[at] - mean[columns[at]]
        squares[columns[at]] += deviation * deviation


@kernel
def _moments_of_sparse_rows(v: np.ndarray, pointers: np.ndarray, n_features: int, found: LineMoments) -> None:
    mean, squares, nonzeros = found
    for i in range(mean.size):
        total = 0.0
        count = 0.0
        for at in range(pointers[i], pointers[i + 1]):
            total += v[at]
            count += np.float64(v[at] != 0)
        centre = total / n_features
        around = (n_features - (pointers[i + 1] - pointers[i])) * centre * centre
        for at in range(pointers[i], pointers[i + 1]):
            deviation = v[at] - centre
            around += deviation * deviation
        mean[i], squares[i], nonzeros[i] = centre, around, count


@kernel
def _pool(
    first: LineMoments, n_first: float, second: LineMoments, n_second: float, found: LineMoments
) -> None:
    mean, squares, nonzeros = first
    other_mean, other_squares, other_nonzeros = second
    all_mean, all_squares, all_nonzeros = found
    share = n_second / (n_first + n_second)
    for j in range(mean.size):
        delta = other_mean[j] - mean[j]
        all_mean[j] = mean[j] + delta * share
        all_squares[j] = squares[j] + other_squares[j] + delta * delta * n_first * share
        all_nonzeros[j] = nonzeros[j] + other_nonzeros[j]
