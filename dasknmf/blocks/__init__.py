"""What can be asked of a block of V. One file per storage kind; the only code that indexes V."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import scipy.sparse

from dasknmf.blocks.base import Block, RowsOnly, Tile
from dasknmf.blocks.csr import CsrBlock
from dasknmf.blocks.dense import DenseBlock

__all__ = ["Block", "CsrBlock", "DenseBlock", "RowsOnly", "Tile", "block_of"]


def block_of(
    slabs: Iterable[Any], *, n_rows: int, first: int, n_features: int, dtype: np.dtype, checked: bool
) -> CsrBlock | DenseBlock:
    """The block of one walk over slabs, as the first of them is stored; parameters as for `DenseBlock`."""
    rest = iter(slabs)
    head = list(islice(rest, 1))
    kind = CsrBlock if any(map(scipy.sparse.issparse, head)) else DenseBlock
    return kind(
        _again(head, rest), n_rows=n_rows, first=first, n_features=n_features, dtype=dtype, checked=checked
    )


def _again(head: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    while head:
        yield head.pop()  # nobody else keeps the first slab while the next one is read
    yield from rest
