"""Dense panels of which some entries are not observed, or count more than others: read a tile at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dasknmf.core.blocks import sums
from dasknmf.core.blocks.decode import Decoder
from dasknmf.core.blocks.dense import Scratch, tile_rows
from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.blocks.masked_tile import Hidden, MaskedTile, flat
from dasknmf.errors import DataError


def scratch_bytes(n_features: int, dtype: np.dtype) -> int:
    """Most bytes of tile-sized buffers that one walk holds, noisy values of a perturbed model among them."""
    return 10 * tile_rows(n_features, dtype.itemsize) * n_features * dtype.itemsize


class MaskedBlock:
    """A panel given as slabs of whole rows, with what is told about their entries.

    Parameters
    ----------
    slabs : iterable of ndarray of shape (slab_rows, n_features), or of WeightedSlab
        Read one after another while the block is walked; each walk iterates it anew.
    entries : EntryWeights
    n_rows, first, n_features, dtype, checked
        As for `dasknmf.core.blocks.dense.DenseBlock`.
    """

    def __init__(
        self,
        slabs: Iterable[Any],
        *,
        entries: EntryWeights,
        n_rows: int,
        first: int,
        n_features: int,
        dtype: np.dtype,
        checked: bool,
    ) -> None:
        self._slabs = slabs
        self.n_rows = n_rows
        self.first = first
        self._entries = entries
        self._n_features = n_features
        self._dtype = dtype
        self._height = tile_rows(n_features, dtype.itemsize)
        self._scratch = (
            Scratch(self._height, n_features, dtype),
            Scratch(self._height, n_features, dtype, by_features=True),
        )
        self._checked = checked
        self.total = 0.0
        self.nbytes = 0

    def tiles(self) -> Iterator[MaskedTile]:
        self.total = 0.0
        self.nbytes = 0
        row = 0
        for slab in self._slabs:
            told = slab if isinstance(slab, WeightedSlab) else WeightedSlab(slab)
            stored = told.values
            if not (stored.flags.c_contiguous or stored.flags.f_contiguous):
                stored = np.ascontiguousarray(stored)
            decoder = Decoder(self._entries, self._n_features, stored.dtype, self._dtype)
            for start in range(0, len(told), self._height):
                tile = self._tile(told, stored, decoder, start, row)
                row = tile.rows.stop
                yield tile
            self.nbytes += told.nbytes
        if row != self.n_rows:
            raise ValueError(
                f"a panel gave {row} rows; the panel table says {self.n_rows}: "
                "V changed its shape after it was opened, open it again."
            )

    def _tile(
        self, told: WeightedSlab, stored: np.ndarray, decoder: Decoder, start: int, row: int
    ) -> MaskedTile:
        height = min(self._height, len(told) - start)
        scratch = self._scratch[not stored.flags.c_contiguous]
        V = scratch.get("values", height)
        seen = scratch.get("seen", height, np.dtype(np.uint8))
        n_seen = decoder(stored, start, V, seen)
        weights: np.ndarray | None = seen
        if told.weights is not None:
            weights = self._weighed(told.weights[start : start + height], V, seen, scratch)
            n_seen = int(np.count_nonzero(seen))
        if self._checked:
            self.total += sums.total(flat(V))
            if weights is not None and told.weights is not None:
                self.total += float(weights.sum(dtype=np.float64))
        first = self.first + row
        hidden = None
        if self._entries.holdout is not None:
            places = self._entries.holdout.places(first, height)
            hidden = Hidden.taken(self._entries.holdout, V, seen, places)
            n_seen -= len(hidden.values)
            if weights is not None and weights is not seen:
                hidden.weights = weights[hidden.rows, hidden.columns].copy()
                weights[hidden.rows, hidden.columns] = 0
        if n_seen == V.size and told.weights is None:
            weights = None
        rows = None if told.rows is None else told.rows[start : start + height]
        place = slice(row, row + height)
        return MaskedTile(V, weights, rows, self._entries.weights, place, first, scratch, hidden)

    def _weighed(self, given: np.ndarray, V: np.ndarray, seen: np.ndarray, scratch: Scratch) -> np.ndarray:
        """The weights of a tile's entries: 0 where nothing is observed."""
        if given.dtype == bool:
            np.multiply(seen, given, out=seen, casting="unsafe")
            V[seen == 0] = 0  # not a product: NaN under the mask is not observed
            return seen
        smallest = float(given.min(initial=0.0))
        if not (smallest >= 0 and np.isfinite(given).all()):
            raise DataError(
                f"weights hold {smallest:g} or values that are not finite; a weight is how often an entry "
                "counts: give nonnegative, finite weights, 0 where nothing was observed."
            )
        weights = scratch.get("weights", len(V))
        np.multiply(given, seen, out=weights, casting="unsafe")
        np.not_equal(weights, 0, out=seen)
        V[seen == 0] = 0
        return weights
