"""Sparse panels: products at the speed of their nonzeros, never densified for β = 1 and β = 2.

::

    N = V Hᵀ         one pass over the nonzeros, a row of Hᵀ for each
    A += Wᵀ V        the same with rows of Aᵀ, m × k in V's dtype, added to A every few thousand rows
    Q = V ∘ P^{−1}   β = 1: P is needed only where V is not zero, and Σ P = Σ_i w_i · Σ_j h_j
    V − WH           needs every entry: tile by tile, P dense. The identity through Grams would cancel
                     where it is asked for, on fits that are nearly exact
    other β          zeros of V have their part in P^{β−1}: tile by tile, V dense
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
import scipy.sparse

from dasknmf.core.blocks import moments, nonzeros, ratios, sums
from dasknmf.core.blocks.base import Ratio, Sums, Tile
from dasknmf.core.blocks.dense import DenseTile, Scratch
from dasknmf.core.blocks.entries import Holdout, WeightedSlab
from dasknmf.core.blocks.simd import filled, padded
from dasknmf.errors import SourceError

_DENSE_BYTES = 2**23
_TILE_ROWS = (64, 1024)  # between the fixed cost of a call and the size of the caches
_FLUSH_ROWS = 2048
"""Rows whose products are added in V's dtype, before they go on in float64."""


def tile_rows(n_features: int, itemsize: int) -> int:
    """Rows of a tile: a dense one would be 8 MiB. Depends on the width and dtype of V alone."""
    least, most = _TILE_ROWS
    rows = _DENSE_BYTES // max(1, n_features * itemsize)
    return int(min(most, max(least, rows // 16 * 16)))


def scratch_bytes(n_features: int, dtype: np.dtype, k: int, *, dense: bool) -> int:
    """Most bytes of buffers that one walk holds.

    Parameters
    ----------
    n_features : int
    dtype : numpy.dtype
    k : int
        Components, of all models together.
    dense : bool
        Whether tiles are made dense, as every β but 1 and 2 asks.
    """
    tile = tile_rows(n_features, dtype.itemsize) * n_features * dtype.itemsize
    factors = 3 * n_features * (k + padded(1)) * dtype.itemsize
    return (6 if dense else 2) * tile + factors


class CsrBlock:
    """A panel given as slabs of whole rows, as `scipy.sparse.csr_array`.

    Tiles begin at whole multiples of their height after the panel's first row, whatever the slabs.

    Parameters
    ----------
    slabs : iterable of scipy.sparse.csr_array of shape (slab_rows, n_features)
        With sorted indices and no duplicates. Read one after another while the block is walked; each walk
        iterates it anew.
    n_rows, first : int
        Rows of the panel, and the index in V of its first row.
    dtype : numpy.dtype
        float32 or float64: what values are converted to, a tile at a time.
    checked : bool
        Whether a walk sums V, for the comparison with what the first pass read.
    """

    def __init__(
        self,
        slabs: Iterable[Any],
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
        self._n_features = n_features
        self._dtype = dtype
        self._height = tile_rows(n_features, dtype.itemsize)
        self._checked = checked
        self.total = 0.0
        self.nbytes = 0

    def tiles(self) -> Iterator[CsrTile]:
        self.total = 0.0
        self.nbytes = 0
        walk = Walk(self._height, self._n_features, self._dtype)
        row = 0
        for pieces in self._in_heights():
            tile = self._tile(pieces, row, walk)
            row = tile.rows.stop
            if row > self.n_rows:  # a kernel would read beyond the rows of W
                self._refuse(row)
            yield tile
            walk.rows_done(row)
        walk.end()
        if row != self.n_rows:
            self._refuse(row)

    def _refuse(self, row: int) -> NoReturn:
        raise ValueError(
            f"a panel gave {row} rows; the panel table says {self.n_rows}: "
            "V changed its shape after it was opened, open it again."
        )

    def _in_heights(self) -> Iterator[list[Piece]]:
        """Pieces of slabs that make one tile each."""
        waiting: list[Piece] = []
        missing, left = self._height, self.n_rows
        for told in self._slabs:
            slab: Any = told.values if isinstance(told, WeightedSlab) else told
            weights = told.rows if isinstance(told, WeightedSlab) else None
            start, n_rows = 0, slab.shape[0]
            while n_rows - start >= missing:
                waiting.append(Piece.of(slab, start, start + missing, weights))
                yield waiting
                start, waiting, missing = start + missing, [], self._height
            left -= n_rows
            if start < n_rows:
                rest = Piece.of(slab, start, n_rows, weights)
                # A copy, lest the whole slab stays while the next one is read.
                waiting.append(rest.copy() if left else rest)
                missing -= n_rows - start
            self.nbytes += slab.data.nbytes + slab.indices.nbytes + slab.indptr.nbytes
        if waiting:
            yield waiting

    def _tile(self, pieces: list[Piece], row: int, walk: Walk) -> CsrTile:
        joined = pieces[0] if len(pieces) == 1 else Piece.joined(pieces)
        columns = np.ascontiguousarray(joined.columns, np.int32)
        stop = row + joined.pointers.size - 1
        # A kernel would write wherever a damaged index points.
        if columns.size and int(columns.view(np.uint32).max()) >= self._n_features:
            raise SourceError(
                f"rows {self.first + row} to {self.first + stop - 1} of V have column indices outside of "
                f"its {self._n_features} columns: V is damaged, write it again."
            )
        values = np.ascontiguousarray(joined.values, self._dtype)
        if self._checked:  # what V holds, whatever of it is hidden
            self.total += sums.total(values)
        place = slice(row, stop), self.first + row
        return self._told((values, columns, joined.pointers, *place, walk), joined.weights)

    def _told(self, parts: Any, weights: np.ndarray | None) -> CsrTile:
        """The tile of these parts and of weights of its rows."""
        return CsrTile(*parts)


class Piece(NamedTuple):
    """Rows of a slab, as views of its values: SciPy's own objects cost as much as a product of theirs."""

    values: np.ndarray
    columns: np.ndarray
    pointers: np.ndarray
    """From 0, int64."""
    weights: np.ndarray | None
    """Of the rows."""

    @classmethod
    def of(
        cls, slab: scipy.sparse.csr_array, start: int, stop: int, weights: np.ndarray | None = None
    ) -> Piece:
        pointers = slab.indptr[start : stop + 1].astype(np.int64)
        low, high = int(pointers[0]), int(pointers[-1])
        rows = None if weights is None else weights[start:stop]
        return cls(slab.data[low:high], slab.indices[low:high], pointers - low, rows)

    @classmethod
    def joined(cls, pieces: list[Piece]) -> Piece:
        lengths = [np.diff(piece.pointers) for piece in pieces]
        return cls(
            np.concatenate([piece.values for piece in pieces]),
            np.concatenate([piece.columns for piece in pieces]),
            np.append(0, np.cumsum(np.concatenate(lengths))),
            None if pieces[0].weights is None else np.concatenate([piece.weights for piece in pieces]),
        )

    def copy(self) -> Piece:
        weights = None if self.weights is None else self.weights.copy()
        return Piece(self.values.copy(), self.columns.copy(), self.pointers.copy(), weights)


class Walk:
    """What the tiles of one walk share: buffers, Hᵀ in whole vectors, and Aᵀ on its way to A."""

    def __init__(self, height: int, n_features: int, dtype: np.dtype) -> None:
        self.n_features = n_features
        self.dtype = dtype
        self.dense = Scratch(height, n_features, dtype)
        self._arrays: dict[str, np.ndarray] = {}
        self._turned: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray]] = {}
        self._totals: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._flushed = 0
        self._ended = False
        self._hidden: np.ndarray | None = None

    def buffer(self, name: str, size: int) -> np.ndarray:
        """A buffer for a value of each nonzero."""
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.empty(size + size // 4, self.dtype)
        return array[:size]

    def by_features(self, H: np.ndarray, *, turned: bool) -> np.ndarray:
        """Hᵀ in whole vectors, from H or, where `turned`, from Hᵀ.

        Made once for each array, which is kept until the walk ends: give the same ones for every tile.
        """
        key = (id(H), turned)
        if key not in self._turned:
            self._turned[key] = (H, filled(H if turned else H.T, self.dtype))
        return self._turned[key][1]

    def hidden_columns(self, holdout: Holdout) -> np.ndarray:
        """Which columns the hidden block has."""
        if self._hidden is None:
            self._hidden = holdout.hidden_columns(self.n_features)
        return self._hidden

    def totals(self, H: np.ndarray) -> np.ndarray:
        """ΣH over features, float64."""
        if id(H) not in self._totals:
            self._totals[id(H)] = (H, H.sum(axis=1, dtype=np.float64))
        return self._totals[id(H)][1]

    def turned_sums(self, A: np.ndarray) -> np.ndarray:
        """What is added to Aᵀ until the next flush."""
        if id(A) not in self._sums:
            self._sums[id(A)] = (A, np.zeros((A.shape[1], padded(A.shape[0])), self.dtype))
        return self._sums[id(A)][1]

    def added(self) -> None:
        """Something was added: after the walk it goes where it belongs at once."""
        if self._ended:
            self._flush()

    def rows_done(self, row: int) -> None:
        if row - self._flushed >= _FLUSH_ROWS:
            self._flushed = row
            self._flush()

    def end(self) -> None:
        self._ended = True
        self._flush()

    def _flush(self) -> None:
        for A, At in self._sums.values():
            nonzeros.add_turned(A, At)


class CsrTile:
    """A sparse tile; see `dasknmf.core.blocks.base.Tile`."""

    __slots__ = ("_walk", "columns", "first", "pointers", "row_weights", "rows", "v")

    def __init__(
        self,
        v: np.ndarray,
        columns: np.ndarray,
        pointers: np.ndarray,
        rows: slice,
        first: int,
        walk: Walk,
    ) -> None:
        self.v = v
        self.columns = columns
        self.pointers = pointers
        self.rows = rows
        self.first = first
        self.row_weights: np.ndarray | None = None
        self._walk = walk

    @property
    def n_features(self) -> int:
        return self._walk.n_features

    @property
    def _n_rows(self) -> int:
        return self.pointers.size - 1

    @property
    def _n_absent(self) -> int:
        return self._n_rows * self._walk.n_features - self.v.size

    def sums(self) -> Sums:
        total, squares, n_nan, n_inf, n_negative, n_zero = sums.survey(self.v)
        return Sums(total, squares, n_nan, n_inf, n_negative, n_zero + self._n_absent)

    def power_sum(self, exponent: float) -> float:
        if exponent < 0 and (self._n_absent or (self.v == 0).any()):
            return float("inf")
        return float(sums.total(self.v) if exponent == 1 else nonzeros.power_sum(self.v, exponent))

    def column_sums(self) -> np.ndarray:
        result = np.zeros(self._walk.n_features)
        nonzeros.column_sums(self.columns, self.v, result)
        return result

    def column_moments(self) -> moments.LineMoments:
        return moments.of_sparse_columns(self.v, self.columns, self._n_rows, self._walk.n_features)

    def row_moments(self) -> moments.LineMoments:
        return moments.of_sparse_rows(self.v, self.pointers, self._walk.n_features)

    def take(self, indices: np.ndarray) -> scipy.sparse.csr_array:
        taken = self.select(indices)
        parts = (taken.v, taken.columns, taken.pointers)
        return scipy.sparse.csr_array(parts, shape=(len(indices), self._walk.n_features))

    def dense(self) -> Tile:
        """The same tile with its zeros."""
        return DenseTile(self.with_zeros(), self.rows, self.first, self._walk.dense)

    def with_zeros(self) -> np.ndarray:
        """V of these rows, in a buffer of the walk."""
        V = self._walk.dense.get("values", self._n_rows)
        V[:] = 0
        nonzeros.spread(self.pointers, self.columns, self.v, V, 1.0)
        return V

    def cross(self, Ht: np.ndarray) -> np.ndarray:
        return self.gathered(self.v, Ht)

    def add_cross(self, W: np.ndarray, A: np.ndarray) -> None:
        self.scattered(self.v, W, A)

    def residual(self, W: np.ndarray, H: np.ndarray) -> float:
        P = np.matmul(W, H, out=self._walk.dense.get("P", self._n_rows))
        nonzeros.spread(self.pointers, self.columns, self.v, P, -1.0)
        flat = P.reshape(-1)
        return 0.5 * float(sums.product_total(flat, flat))

    def ratio(self, W: np.ndarray, H: np.ndarray, beta: float, eps: float) -> Ratio:
        if beta != 1:
            return self.dense().ratio(W, H, beta, eps)
        q = self._walk.buffer("q", self.v.size)
        Ht = self._walk.by_features(H, turned=False)
        nonzeros.products(self.pointers, self.columns, filled(W, self._walk.dtype), Ht, q)
        ratios.kullback_leibler(self.v, q, q, eps)
        # Σ P over every entry, zeros of V included.
        total = float(W.sum(axis=0, dtype=np.float64) @ self._walk.totals(H))
        return CsrRatio(self, q, total)

    def select(self, indices: np.ndarray) -> CsrTile:
        """A tile of some rows, at ascending places in this one."""
        lengths = np.diff(self.pointers)
        kept = np.zeros(self._n_rows, bool)
        kept[indices] = True
        values = np.repeat(kept, lengths)
        pointers = np.append(0, np.cumsum(lengths[kept]))
        rows = slice(0, len(pointers) - 1)
        return CsrTile(self.v[values], self.columns[values], pointers, rows, self.first, self._walk)

    def quotients(self, W: np.ndarray, H: np.ndarray, floors: np.ndarray) -> np.ndarray:
        """V / max(WH, floor) where V is not zero, with a floor for each row."""
        q = np.empty_like(self.v)
        Ht = self._walk.by_features(H, turned=False)
        nonzeros.products(self.pointers, self.columns, filled(W, self._walk.dtype), Ht, q)
        nonzeros.quotients(self.pointers, self.v, q, floors)
        return q

    def gathered(self, q: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """Q Hᵀ, with values q in place of V's."""
        k = Ht.shape[1]
        Ht = self._walk.by_features(Ht, turned=True)
        N = np.zeros((self._n_rows, padded(k)), self._walk.dtype)
        nonzeros.gather(self.pointers, self.columns, q, Ht, N)
        return N if k == N.shape[1] else np.ascontiguousarray(N[:, :k])

    def scattered(self, q: np.ndarray, W: np.ndarray, A: np.ndarray) -> None:
        """A += Wᵀ Q, with values q in place of V's."""
        At = self._walk.turned_sums(A)
        nonzeros.scatter(self.pointers, self.columns, q, filled(W, self._walk.dtype), At)
        self._walk.added()


class CsrRatio:
    """q = v / p where V is not zero, for β = 1; see `dasknmf.core.blocks.base.Ratio`."""

    __slots__ = ("_q", "_tile", "_total")

    def __init__(self, tile: CsrTile, q: np.ndarray, total: float) -> None:
        self._tile = tile
        self._q = q
        self._total = total

    def numerator_rows(self, Ht: np.ndarray) -> np.ndarray:
        return self._tile.gathered(self._q, Ht)

    def denominator_rows(self, Ht: np.ndarray) -> np.ndarray:
        raise NotImplementedError("for β = 1 the denominator is ΣH, which no tile needs to make")

    def add_numerator(self, W: np.ndarray, A: np.ndarray) -> None:
        self._tile.scattered(self._q, W, A)

    def add_denominator(self, W: np.ndarray, B: np.ndarray) -> None:
        raise NotImplementedError("for β = 1 the denominator is ΣW, which no tile needs to make")

    def loss(self) -> float:
        return float(nonzeros.kullback_leibler_loss(self._tile.v, self._q)) + self._total
