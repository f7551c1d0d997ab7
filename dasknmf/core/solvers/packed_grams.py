"""Gram matrices that differ from row to row, as with missing values, stored as their upper triangles.

With weights M, row i of W has the Gram matrix S_i = Σ_j M_ij h_j h_jᵀ. It is symmetric, so its k (k + 1) / 2
entries on and above the diagonal, in the order of ``np.triu_indices(k)``, are stored as one line of an array;
all lines together are one product, of M with the lines of the h_j h_jᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from dasknmf.core.kernel import kernel


@dataclass(frozen=True)
class Packed:
    """A Gram matrix for each row of a factor.

    Parameters
    ----------
    lines : ndarray of shape (n_rows, k (k + 1) / 2), float32 or float64
        Line i is the upper triangle of S_i. With Fortran's memory order a sweep is up to a third faster.
    """

    lines: np.ndarray

    @property
    def k(self) -> int:
        return _size(self.lines)

    @property
    def diagonals(self) -> np.ndarray:
        """The diagonals, shape (n_rows, k)."""
        t, r = np.triu_indices(self.k)
        return self.lines[:, t == r]

    def times(self, F: np.ndarray) -> np.ndarray:
        """S_i f_i for every row f_i of F, shape (n_rows, k) and F's dtype."""
        products = np.zeros_like(F, order="C")
        _times(self.lines, np.ascontiguousarray(F), products)
        return products

    def at(self, rows: np.ndarray | slice) -> Packed:
        """The matrices of some rows, by their numbers, a mask or a slice."""
        return Packed(self.lines[rows])


def _size(lines: np.ndarray) -> int:
    """k, of lines of k (k + 1) / 2 numbers."""
    return (isqrt(8 * lines.shape[-1] + 1) - 1) // 2


MOST_BYTES = 2**27
"""Largest size of the lines of all features, in bytes; above it, missing entries are imputed instead."""


def lines_bytes(n_rows: int, k: int) -> int:
    """Bytes of one line in float64 for each row."""
    return n_rows * (k * (k + 1) // 2) * 8


def packed(S: np.ndarray) -> np.ndarray:
    """The lines of symmetric matrices, shape (..., k, k): an array of shape (..., k (k + 1) / 2)."""
    upper = np.triu_indices(S.shape[-1])
    return np.ascontiguousarray(S[..., upper[0], upper[1]])


def unpacked(lines: np.ndarray) -> np.ndarray:
    """The symmetric matrices, shape (..., k, k), of lines of shape (..., k (k + 1) / 2)."""
    k = _size(lines)
    t, r = np.triu_indices(k)
    S = np.empty((*lines.shape[:-1], k, k), lines.dtype)
    S[..., t, r] = lines
    S[..., r, t] = lines
    return S


def add_to_diagonals(lines: np.ndarray, ridge: float | np.ndarray) -> None:
    """S_i += ridge I in place; `ridge` is a number, or one for each entry of each diagonal, (..., k)."""
    t, r = np.triu_indices(_size(lines))
    lines[..., t == r] += np.asarray(ridge, lines.dtype)


@kernel
def _times(lines: np.ndarray, F: np.ndarray, products: np.ndarray) -> None:
    n_rows, k = F.shape
    for i in range(n_rows):
        here = 0
        for t in range(k):
            products[i, t] += lines[i, here] * F[i, t]
            here += 1
            for r in range(t + 1, k):
                products[i, t] += lines[i, here] * F[i, r]
                products[i, r] += lines[i, here] * F[i, t]
                here += 1


@kernel
def _products(columns: np.ndarray, f: np.ndarray) -> None:
    k, n_rows = f.shape
    here = 0
    for t in range(k):
        for r in range(t, k):
            for i in range(n_rows):
                columns[here, i] = f[t, i] * f[r, i]
            here += 1


def packed_products(F: np.ndarray) -> np.ndarray:
    """The lines of f fᵀ for every row f of F.

    Parameters
    ----------
    F : ndarray of shape (n_rows, n_components)
        H transposed, or a tile's rows of W.

    Returns
    -------
    ndarray of shape (n_rows, k (k + 1) / 2) and F's dtype, in Fortran's order
        Long vector loops make it column by column, several times as fast as row by row.
    """
    f = np.ascontiguousarray(F.T)
    k, n_rows = f.shape
    columns = np.empty((k * (k + 1) // 2, n_rows), f.dtype)
    _products(columns, f)
    return columns.T
