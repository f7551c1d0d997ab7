"""Means, squared deviations and nonzeros of lines of a tile, in two walks over values in cache.

Deviations are taken from the tile's own mean: sums of plain squares would lose the variance of
columns whose mean is large beside it.
"""

from __future__ import annotations

import numpy as np

from dasknmf.kernel import kernel

Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each line: mean, Σ (v − mean)², and how many values are not zero; float64."""


def of_columns(values: np.ndarray) -> Moments:
    """The moments of each column of a dense tile."""
    found = _empty(values.shape[1])
    if values.flags.c_contiguous:
        _across(values, *found)
    else:
        _along(np.ascontiguousarray(values.T), *found)
    return found


def of_rows(values: np.ndarray) -> Moments:
    """The moments of each row of a dense tile."""
    return of_columns(values.T)


def _empty(length: int) -> Moments:
    return np.zeros(length), np.zeros(length), np.zeros(length)


@kernel
def _across(values: np.ndarray, mean: np.ndarray, squares: np.ndarray, nonzeros: np.ndarray) -> None:
    """Over the rows of C-contiguous values, for each column."""
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
def _along(values: np.ndarray, mean: np.ndarray, squares: np.ndarray, nonzeros: np.ndarray) -> None:
    """Over the columns of C-contiguous values, for each row."""
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
