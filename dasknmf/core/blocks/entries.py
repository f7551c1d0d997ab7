"""Decoding of stored values of V, weights of entries, and entries hidden from a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from dasknmf.core import rng
from dasknmf.core.blocks.matrix import Matrix
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.rng import key_of

Negatives = Literal["error", "clip", "mask"]


@dataclass(frozen=True)
class Holdout:
    """Entries that are hidden from a fit, so that its loss over them can be measured.

    The seed and the place of an entry in X decide whether the entry is hidden: nothing is stored. Of a
    sparse X the hidden entries are a block, some of its rows times some of its columns.

    Parameters
    ----------
    share : float
        Share of the entries of positive weight that is hidden, between 0 and 1.
    seed : int
    n_columns : int
        Columns of X.
    transposed : bool
        Whether V is Xᵀ.
    rows : PixelIndex
        Places of V's rows in X.
    """

    share: float
    seed: int
    n_columns: int
    transposed: bool = False
    rows: PixelIndex = InOrder()

    @property
    def draw(self) -> tuple[np.uint64, bool, np.uint64, np.uint64]:
        """`n_columns`, `transposed`, the key of random words and the word below which an entry is hidden."""
        below = np.uint64(int(self.share * 2.0**64))
        return np.uint64(self.n_columns), self.transposed, key_of(self.seed, _STREAM), below

    def hidden_rows(self, first: int, n_rows: int) -> np.ndarray:
        """Which rows from `first` on belong to the hidden block of a sparse V, shape (n_rows,), bool."""
        return self._drawn(_COLUMNS if self.transposed else _ROWS, self.places(first, n_rows))

    def hidden_columns(self, n_features: int) -> np.ndarray:
        """Which columns of V belong to the hidden block of a sparse V, shape (n_features,), bool."""
        return self._drawn(_ROWS if self.transposed else _COLUMNS, np.arange(n_features))

    def places(self, first: int, n_rows: int) -> np.ndarray:
        """Places in X of rows of V from `first` on, shape (n_rows,), int64."""
        return self.rows.places(first, first + n_rows)

    def _drawn(self, stream: int, places: np.ndarray) -> np.ndarray:
        words = rng.words(self.seed, stream, places)[:, 0]
        return np.asarray(words < np.uint64(int(self.share**0.5 * 2.0**64)))


_STREAM, _ROWS, _COLUMNS = 77, 78, 79
"""Streams of random words; starts use other streams of the same seed."""


@dataclass(frozen=True)
class EntryWeights:
    """The decoding of stored values, v = stored · scale + offset, and their masks and weights.

    Parameters
    ----------
    nan : bool
        Whether NaN is a missing value; else the survey of V refuses NaN.
    nodata : float, ndarray of shape (n_features,) or None
        The stored value, before scale and offset, that marks a missing value; NaN in an array: no such value
        in that column.
    scale, offset : float or ndarray of shape (n_features,)
    negatives : "error", "clip" or "mask"
        What values below zero become, after scale and offset: refused by the survey of V, zero, or missing.
    weights : ndarray of shape (n_features,), float64, or None
        Weight of each feature; None: 1.
    groups : int or None
        About how many groups of features share one mask, dates for example; None: unknown.
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
        """Whether entries may be missing or hidden."""
        missing = self.nan or self.nodata is not None or self.negatives == "mask"
        return missing or self.holdout is not None


@dataclass(frozen=True)
class WeightedSlab:
    """A slab of rows with the weights of its entries or rows.

    Parameters
    ----------
    values : ndarray or csr_array of shape (n_rows, n_features)
        Stored values.
    weights : ndarray of shape (n_rows, n_features), bool or float, or None
        Weight of each entry; 0 and False: missing.
    rows : ndarray of shape (n_rows,), float64, or None
        Weight of each row.
    """

    values: Matrix
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


Slab: TypeAlias = Matrix | WeightedSlab
"""Some whole rows of V as a source reads them."""
