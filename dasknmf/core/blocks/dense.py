"""Dense panels: products by BLAS, a tile of rows at a time.

BLAS is slow on tall-skinny operands taken whole; tiles of about 2 MiB keep V in cache from the
cross product to the tally, so that one visit moves V through memory once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from dasknmf.core.blocks import moments, ratios, sums
from dasknmf.core.blocks.base import Sums

_TILE_BYTES = 2**21
_TILE_ROWS = (64, 1024)  # between the fixed cost of a call and the size of the caches


def tile_rows(n_features: int, itemsize: int) -> int:
    """Rows of a tile: depends on the width and dtype of V alone, so tile edges are absolute."""
    least, most = _TILE_ROWS
    rows = _TILE_BYTES // max(1, n_features * itemsize)
    return int(min(most, max(least, rows // 16 * 16)))


def scratch_bytes(n_features: int, dtype: np.dtype) -> int:
    """Most bytes of tile-sized buffers that one walk holds, noisy values of a perturbed model among them."""
    return 6 * tile_rows(n_features, dtype.itemsize) * n_features * dtype.itemsize


class DenseBlock:
    """A panel given as slabs of whole rows.

    Parameters
    ----------
    slabs : iterable of ndarray of shape (slab_rows, n_features)
        Read one after another while the block is walked; each walk iterates it anew.
    n_rows, first : int
        Rows of the panel, and the index in V of its first row.
    dtype : numpy.dtype
        float32 or float64: what tiles are converted to, a tile at a time.
    checked : bool
        Whether a walk sums V, for the comparison with what the first pass read.
    """

    def __init__(
        self,
        slabs: Iterable[np.ndarray],
        *,
        n_rows: int,
        first: int,
        n_features: int,
        dtype: np.dtype,
        checked: bool,
    ) -> None:
        self._slabs = slabs
        self.n_rows = n_rows
        self.first = first
        self._dtype = dtype
        self._height = tile_rows(n_features, dtype.itemsize)
        self._scratch = Scratch(self._height, n_features, dtype)
        self._by_features = Scratch(self._height, n_features, dtype, by_features=True)
        self._checked = checked
        self.total = 0.0
        self.nbytes = 0

    def tiles(self) -> Iterator[DenseTile]:
        self.total = 0.0
        self.nbytes = 0
        row = 0
        for slab in self._slabs:
            for start in range(0, len(slab), self._height):
                values = self._converted(slab[start : start + self._height])
                if self._checked:
                    self.total += sums.total(_flat(values))
                stop = row + len(values)
                yield DenseTile(values, slice(row, stop), self.first + row, self._scratch)
                row = stop
            self.nbytes += slab.nbytes
        if row != self.n_rows:
            raise ValueError(
                f"a panel gave {row} rows; the panel table says {self.n_rows}: "
                "V changed its shape after it was opened, open it again."
            )

    def _converted(self, values: np.ndarray) -> np.ndarray:
        unit = values.itemsize
        if values.dtype == self._dtype and unit in values.strides:
            return values
        # A slab that is stored by features stays so: products take either order, and a turn is dear.
        scratch = self._by_features if values.strides[0] == unit else self._scratch
        converted = scratch.get("values", len(values))
        np.copyto(converted, values, casting="unsafe")
        return converted


class Scratch:
    """Tile-sized buffers that every tile of a walk reuses."""

    def __init__(self, height: int, n_features: int, dtype: np.dtype, *, by_features: bool = False) -> None:
        self._shape = (height, n_features)
        self._dtype = dtype
        self._by_features = by_features
        self._arrays: dict[str, np.ndarray] = {}

    @cached_property
    def by_rows(self) -> Scratch:
        """Other buffers, by rows."""
        return Scratch(*self._shape, self._dtype)

    def get(self, name: str, n_rows: int, dtype: np.dtype | None = None) -> np.ndarray:
        """A buffer of shape (n_rows, n_features), in one piece: by rows or by features."""
        height, n_features = self._shape
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = np.empty(height * n_features, dtype or self._dtype)
        part = array[: n_rows * n_features]
        if self._by_features:
            return part.reshape(n_features, n_rows).T
        return part.reshape(n_rows, n_features)


class DenseTile:
    """A dense tile; see `dasknmf.core.blocks.base.Tile`."""

    __slots__ = ("V", "_scratch", "first", "row_weights", "rows")

    def __init__(
        self,
        V: np.ndarray,
        rows: slice,
        first: int,
        scratch: Scratch,
        row_weights: np.ndarray | None = None,
    ) -> None:
        self.V = V
        self.row_weights = row_weights
        self.rows = rows
        self.first = first
        self._scratch = scratch

    def sums(self) -> Sums:
        return Sums(*sums.survey(_flat(self.V)))

    def power_sum(self, exponent: float) -> float:
        if exponent in (0, 1):
            return float(self.V.size if exponent == 0 else sums.total(_flat(self.V)))
        return float((self.V.astype(np.float64) ** exponent).sum())

    def column_sums(self) -> np.ndarray:
        return np.matmul(np.ones(len(self.V), self.V.dtype), self.V).astype(np.float64)

    def column_moments(self) -> moments.LineMoments:
        return moments.of_columns(self.V)

    def row_moments(self) -> moments.LineMoments:
        return moments.of_rows(self.V)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.V[indices])

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.V, Ht)

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        _accumulate(A, np.matmul(W.T, self.V))

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = np.matmul(W, H, out=self._scratch.get("P", len(self.V)))
        np.subtract(self.V, P, out=P)
        flat = _flat(P)
        return 0.5 * sums.product_total(flat, flat)

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> DenseRatio:
        n_rows = len(self.V)
        P = np.matmul(W, H, out=self._scratch.get("P", n_rows))
        Q = self._scratch.get("Q", n_rows)
        V = self._by_rows()
        v, p, q = V.reshape(-1), P.reshape(-1), Q.reshape(-1)
        if beta == 1:
            ratios.kullback_leibler(v, p, q, eps)
            return DenseRatio(V, Q, None, P, beta)
        R = self._scratch.get("R", n_rows)
        if beta == 0:
            ratios.itakura_saito(v, p, q, R.reshape(-1), eps)
        else:
            if beta < 2:
                ratios.raised(p, eps)
            np.power(P, beta - 2, out=Q)
            ratios.weighted(v, p, q, R.reshape(-1))
        return DenseRatio(V, Q, R, P, beta)

    def _by_rows(self) -> np.ndarray:
        """V with its rows in one piece, as the element-wise loops walk it."""
        if not self.V.flags.c_contiguous:
            rows = self._scratch.get("values by rows", len(self.V))
            np.copyto(rows, self.V)
            self.V = rows
        return self.V


class DenseRatio:
    """Q = V ∘ P^{β−2} and R = P^{β−1} of a dense tile; see `dasknmf.core.blocks.base.Ratio`."""

    __slots__ = ("P", "Q", "R", "V", "beta")

    def __init__(
        self,
        V: np.ndarray,
        Q: np.ndarray,
        R: np.ndarray | None,
        P: np.ndarray,
        beta: float,
    ) -> None:
        self.V = V
        self.Q = Q
        self.R = R
        self.P = P
        self.beta = beta

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return np.matmul(self.Q, Ht)

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        assert self.R is not None  # for β = 1 the denominator is ΣH, which no tile needs to make
        return np.matmul(self.R, Ht)

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        _accumulate(A, np.matmul(W.T, self.Q))

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        assert self.R is not None
        _accumulate(B, np.matmul(W.T, self.R))

    def weighted_loss(
        self, weights: np.ndarray | None, rows: np.ndarray | None, columns: np.ndarray | None
    ) -> float:
        """The loss with weights of entries, of rows and of columns; None: each counts once."""
        rows = np.ones(len(self.V)) if rows is None else rows
        if weights is None and columns is None and self.beta == 1:
            losses = np.empty(len(self.V))
            ratios.kullback_leibler_rows(self.V, self.P, self.Q, losses)
            return float(rows @ losses)
        columns = np.ones(self.V.shape[1]) if columns is None else columns
        weights = np.ones(self.V.shape, np.uint8) if weights is None else weights
        R = self.Q if self.R is None else self.R
        return float(ratios.observed_loss(self.V, self.P, self.Q, R, weights, rows, columns, self.beta))

    def loss(self) -> float:
        v = self.V.reshape(-1)
        if self.beta == 1:
            return float(ratios.kullback_leibler_loss(v, self.P.reshape(-1), self.Q.reshape(-1)))
        assert self.R is not None
        r = self.R.reshape(-1)
        if self.beta == 0:
            return float(ratios.itakura_saito_loss(v, r))
        return float(ratios.weighted_loss(v, self.P.reshape(-1), r, self.beta))


def _accumulate(total: np.ndarray, part: np.ndarray) -> None:
    """total += part, of another precision: NumPy would convert it in a buffer first."""
    sums.accumulate(total.reshape(-1), part.reshape(-1))


def _flat(values: np.ndarray) -> np.ndarray:
    """The values in one contiguous row: a view where the memory is in one piece."""
    return values.reshape(-1) if values.flags.c_contiguous else values.T.reshape(-1)
