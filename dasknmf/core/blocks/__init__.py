"""What can be asked of a block of V. One file per storage kind; the only code that indexes V."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import scipy.sparse

from dasknmf.core.blocks.base import Block, RowsOnly, Tile
from dasknmf.core.blocks.csr import CsrBlock
from dasknmf.core.blocks.csr_masked import MaskedCsrBlock
from dasknmf.core.blocks.dense import DenseBlock
from dasknmf.core.blocks.entries import EntryWeights, WeightedSlab
from dasknmf.core.blocks.masked import MaskedBlock

__all__ = [
    "Block",
    "CsrBlock",
    "DenseBlock",
    "Entries",
    "Observed",
    "ObservedBlock",
    "ObservedCsrBlock",
    "RowsOnly",
    "Tile",
    "block_of",
]


def block_of(slabs: Iterable[Any], *, entries: EntryWeights | None = None, **walk: Any) -> Any:
    """The block of one walk over slabs, as the first of them is stored; parameters as for `MaskedBlock`.

    Without `entries` every entry counts once.
    """
    rest = iter(slabs)
    head = list(islice(rest, 1))
    told = [slab.values if isinstance(slab, WeightedSlab) else slab for slab in head]
    plain = entries is None and not any(isinstance(slab, WeightedSlab) for slab in head)
    slabs = _again(head, rest)
    if any(map(scipy.sparse.issparse, told)):
        return (
            CsrBlock(slabs, **walk)
            if plain
            else MaskedCsrBlock(slabs, entries=entries or EntryWeights(), **walk)
        )
    return (
        DenseBlock(slabs, **walk) if plain else MaskedBlock(slabs, entries=entries or EntryWeights(), **walk)
    )


def _again(head: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    while head:
        yield head.pop()  # nobody else keeps the first slab while the next one is read
    yield from rest
