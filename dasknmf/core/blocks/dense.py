"""Panels of dense slabs: products by BLAS, a tile of rows at a time.

BLAS is slow on tall-skinny operands taken whole; tiles of about 2 MiB keep V in cache from the
first product to the last, so that one visit reads V from memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from dasknmf.core.blocks import sums
from dasknmf.core.blocks.base import PanelSpec, RowRange, SlabBlock
from dasknmf.core.blocks.decode import Decoder, hide
from dasknmf.core.blocks.dense_ratio import TileWeights
from dasknmf.core.blocks.dense_tile import DenseTile, flat
from dasknmf.core.blocks.entries import EntryWeights, Slab, WeightedSlab
from dasknmf.core.blocks.scratch import Scratch, tile_rows
from dasknmf.errors import DataError


class DenseBlock(SlabBlock):
    """A panel of dense slabs; parameters as for `SlabBlock`."""

    def __init__(self, slabs: Iterable[Slab], spec: PanelSpec, entries: EntryWeights | None = None) -> None:
        super().__init__(slabs, spec, entries)
        self._height = tile_rows(spec.n_features, spec.dtype.itemsize)
        size = self._height, spec.n_features, spec.dtype
        self._by_rows, self._by_features = Scratch(*size), Scratch(*size, by_features=True)

    def tiles(self) -> Iterator[DenseTile]:
        self.total, self.nbytes, row = 0.0, 0, 0
        for slab in self._slabs:
            make = self._maker(slab)
            for start in range(0, slab.shape[0], self._height):
                at = self._at(row, min(self._height, slab.shape[0] - start))
                row = at.rows.stop
                yield make(start, at)
            self.nbytes += slab.nbytes
        if row != self.n_rows:
            self._refuse(row)

    def _maker(self, slab: Slab) -> Callable[[int, RowRange], DenseTile]:
        """A function that makes the tile of a slab's rows from `start` on."""
        if self._entries is None and isinstance(slab, np.ndarray):
            return partial(self._plain, slab)
        entries = self._entries or EntryWeights()
        if not isinstance(slab, WeightedSlab):
            slab = WeightedSlab(slab)
        stored = np.asarray(slab.values)
        if not (stored.flags.c_contiguous or stored.flags.f_contiguous):
            stored = np.ascontiguousarray(stored)
        decoder = Decoder(entries, self._spec.n_features, stored.dtype, self._spec.dtype)
        return partial(self._masked, entries, slab, stored, decoder)

    def _plain(self, slab: np.ndarray, start: int, at: RowRange) -> DenseTile:
        V = slab[start : start + at.n_rows]
        unit = V.itemsize
        if V.dtype != self._spec.dtype or unit not in V.strides:
            # Slabs keep their memory order: products support both, and a change of order is expensive.
            scratch = self._by_features if V.strides[0] == unit else self._by_rows
            values, V = V, scratch.get("values", at.n_rows)
            np.copyto(V, values, casting="unsafe")
        if self._spec.checked:
            self.total += sums.total(flat(V))
        return DenseTile(V, at, self._by_rows)

    def _masked(
        self,
        entries: EntryWeights,
        slab: WeightedSlab,
        stored: np.ndarray,
        decoder: Decoder,
        start: int,
        at: RowRange,
    ) -> DenseTile:
        scratch = self._by_rows if stored.flags.c_contiguous else self._by_features
        V = scratch.get("values", at.n_rows)
        mask = scratch.get("mask", at.n_rows, np.dtype(np.uint8))
        count = decoder(stored, start, V, mask)
        weights = mask
        rows = slice(start, start + at.n_rows)
        if slab.weights is not None:
            weights = _weighted(slab.weights[rows], V, mask, scratch)
            count = int(np.count_nonzero(mask))
        if self._spec.checked:
            self.total += sums.total(flat(V))
            if slab.weights is not None:
                self.total += float(weights.sum(dtype=np.float64))
        hidden = None
        if entries.holdout is not None:
            hidden = hide(entries.holdout, V, mask, entries.holdout.places(at.first, at.n_rows))
            count -= len(hidden.values)
            if weights is not mask:
                hidden = hidden._replace(weights=weights[hidden.rows, hidden.columns].copy())
                weights[hidden.rows, hidden.columns] = 0
        whole = count == V.size and slab.weights is None
        of_rows = None if slab.rows is None else slab.rows[rows]
        tile_weights = TileWeights(None if whole else weights, of_rows, entries.weights)
        return DenseTile(V, at, scratch, tile_weights, hidden)


def _weighted(given: np.ndarray, V: np.ndarray, mask: np.ndarray, scratch: Scratch) -> np.ndarray:
    """The weights of a tile's entries: 0 where an entry is missing."""
    if given.dtype == bool:
        np.multiply(mask, given, out=mask, casting="unsafe")
        V[mask == 0] = 0  # not a product with the mask, as NaN times 0 is NaN
        return mask
    smallest = float(given.min(initial=0.0))
    if not (smallest >= 0 and np.isfinite(given).all()):
        raise DataError(
            f"weights are negative or not finite (the smallest is {smallest:g}); a weight says how often an "
            "entry counts: give nonnegative, finite weights, and 0 for missing entries."
        )
    weights = scratch.get("weights", len(V))
    np.multiply(given, mask, out=weights, casting="unsafe")
    np.not_equal(weights, 0, out=mask)
    V[mask == 0] = 0
    return weights
