"""Blocks of V and their tiles, the only code that indexes V."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice

import scipy.sparse

from dasknmf.core.blocks.base import PanelSpec, RowsOnly, SlabBlock, Tile
from dasknmf.core.blocks.csr import CsrBlock
from dasknmf.core.blocks.dense import DenseBlock
from dasknmf.core.blocks.entries import EntryWeights, Slab, WeightedSlab

__all__ = ["EntryWeights", "PanelSpec", "RowsOnly", "SlabBlock", "Tile", "WeightedSlab", "block_of"]


def block_of(slabs: Iterable[Slab], spec: PanelSpec, entries: EntryWeights | None = None) -> SlabBlock:
    """The block of slabs, dense or sparse as the first of them; parameters as for `SlabBlock`.

    Slabs that are no sequence are walked once.
    """
    rest = iter(slabs)
    head = list(islice(rest, 1))
    slabs = slabs if isinstance(slabs, Sequence) else chain(head, rest)
    values = [slab.values if isinstance(slab, WeightedSlab) else slab for slab in head]
    kind = CsrBlock if any(map(scipy.sparse.issparse, values)) else DenseBlock
    return kind(slabs, spec, entries)
