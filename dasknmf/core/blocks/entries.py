"""Which entries of V count, and what its stored values stand for: told to a block, applied in its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse

from dasknmf.core import rng
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.rng import key_of

Negatives = Literal["error", "clip", "mask"]


@dataclass(frozen=True)
class Holdout:
    """Entries that are hidden from a fit, to be compared with what it makes of them.

    Which they are depends on the seed and on their place in X alone: nothing is stored. Of a sparse X it is a
    block, some of its rows times some of its columns.

    Parameters
    ----------
    share : float
        Of the observed entries, between 0 and 1.
    seed : int
    n_columns : int
        Columns of X.
    transposed : bool
        Whether V is Xᵀ.
    rows : PixelIndex
        Of V's rows.
    """

    share: float
    seed: int
    n_columns: int
    transposed: bool = False
    rows: PixelIndex = InOrder()

    @property
    def key(self) -> np.uint64:
        return key_of(self.seed, _STREAM)

    @property
    def below(self) -> np.uint64:
        return np.uint64(int(self.share * 2.0**64))

    def hidden_rows(self, first: int, n_rows: int) -> np.ndarray:
        """Which rows of V, from `first` on, the hidden block of a sparse V has, shape (n_rows,)."""
        return self._drawn(_COLUMNS if self.transposed else _ROWS, self.places(first, n_rows))

    def hidden_columns(self, n_features: int) -> np.ndarray:
        """Which columns of V it has, shape (n_features,)."""
        return self._drawn(_ROWS if self.transposed else _COLUMNS, np.arange(n_features))

    def places(self, first: int, n_rows: int) -> np.ndarray:
        """Those of rows of V from `first` on, shape (n_rows,), int64."""
        return self.rows.places(first, first + n_rows)

    def _drawn(self, stream: int, places: np.ndarray) -> np.ndarray:
        words = rng.words(self.seed, stream, places)[:, 0]
        return np.asarray(words < np.uint64(int(self.share**0.5 * 2.0**64)))


_STREAM, _ROWS, _COLUMNS = 77, 78, 79
"""Beside those of starts, which draw from the same seed."""


@dataclass(frozen=True)
class EntryWeights:
    """How a tile reads stored values: v = stored · scale + offset, where something was observed.

    Parameters
    ----------
    nan : bool
        Whether NaN stands for nothing observed; else it is refused where V is surveyed.
    nodata : float, ndarray of shape (n_features,) or None
        The stored value that stands for nothing observed, before scale and offset; NaN in an array: none
        in that column.
    scale, offset : float or ndarray of shape (n_features,)
    negatives : "error", "clip" or "mask"
        Values below zero, after scale and offset: refused where V is surveyed, zero, or not observed.
    weights : ndarray of shape (n_features,), float64, or None
        Of each feature.
    groups : int or None
        About how many groups of features there are that have one mask, dates for example; None: unknown.
    holdout : Holdout or None
    """

    nan: bool = False
    nodata: float | np.ndarray | None = None
    scale: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0
    negatives: Negatives = "error"
    weights: np.ndarray | None = None
    groups: int | None = None
    holdout: Holdout | None = None

    @property
    def masks(self) -> bool:
        """Whether entries may be unobserved."""
        told = self.nan or self.nodata is not None or self.holdout is not None
        return told or self.negatives == "mask"


@dataclass(frozen=True)
class WeightedSlab:
    """A slab of rows with the weights of its entries or rows.

    Parameters
    ----------
    values : ndarray or csr_array of shape (n_rows, n_features)
        As they are stored.
    weights : ndarray of shape (n_rows, n_features), bool or float, or None
        Of each entry; 0 and False: not observed.
    rows : ndarray of shape (n_rows,), float64, or None
        Of each row.
    """

    values: np.ndarray | scipy.sparse.csr_array
    weights: np.ndarray | None = None
    rows: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        parts = (self.weights, self.rows)
        return int(self.values.nbytes) + sum(part.nbytes for part in parts if part is not None)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.values.shape[0]), int(self.values.shape[1])

    def __len__(self) -> int:
        return self.shape[0]
