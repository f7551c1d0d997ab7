"""Multiplicative steps of single rows of W in float64, with a floor of P for each row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_FLOOR = float(np.finfo(np.float32).eps)


RowRatios = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Numerators and denominators of multiplicative steps of some rows of a tile, for a fixed H, and floors of P.

Parameters
----------
rows : ndarray of int of shape (n_rows,)
    Ascending places in the tile, each among those of the call before.
W : ndarray of shape (n_rows, n_components), float64

Returns
-------
numerators : ndarray of shape (n_rows, n_components), float64
    (V ∘ P^{β−2}) Hᵀ.
denominators : ndarray of that shape, or (n_components,) where all rows share one, float64
    P^{β−1} Hᵀ.
floors : ndarray of shape (n_rows, 1), float64
"""


class DenseRowRatios:
    """`RowRatios` that need every entry of P; `mask` is None where every entry counts."""

    def __init__(
        self, V: np.ndarray, mask: np.ndarray | None, H: np.ndarray, bHt: np.ndarray, beta: float
    ) -> None:
        self._V = V.astype(np.float64)
        self._mask = mask
        self._H = H.astype(np.float64)
        self._bHt = bHt.astype(np.float64)
        self._beta = beta

    def __call__(self, rows: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        V, mask = self._V[rows], None if self._mask is None else self._mask[rows]
        floors = row_floors(V, mask)
        P = W @ self._H
        P = np.maximum(P, floors) if self._beta < 2 else P
        weighted = P ** (self._beta - 2)
        if mask is not None:
            weighted *= mask
        return (V * weighted) @ self._bHt, (weighted * P) @ self._bHt, floors


def row_floors(V: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """scikit-learn's floor of P in units of each row's mean over its entries, shape (n_rows, 1), float64."""
    counts = V.shape[1] if mask is None else np.maximum(mask.sum(axis=1, keepdims=True), 1)
    return mean_floors(V.sum(axis=1, keepdims=True, dtype=np.float64) / counts)


def mean_floors(means: np.ndarray) -> np.ndarray:
    """The floor of P for rows of these means."""
    return np.asarray(_FLOOR * np.where(means > 0, means, 1.0))
