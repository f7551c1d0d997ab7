"""A check that no codec of V's arrays runs code from the data: pickles are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zarr

from dasknmf.errors import SourceError


def refuse_pickles(node: zarr.Array | zarr.Group) -> None:
    """Raise an error if an array, or an array in a group, is stored as pickles.

    Only metadata is read. Pickles are filters of Zarr format 2, and may hold numbers, too.

    Raises
    ------
    SourceError
    """
    for array in _arrays_in(node):
        if any(getattr(codec, "codec_id", None) == "pickle" for codec in _codecs_of(array)):
            raise SourceError(
                f"{array.store_path} is stored as pickles, which can run any program when they are decoded, "
                "and is refused: if you trust it, write it again as numbers or strings."
            )


def _arrays_in(node: zarr.Array | zarr.Group) -> Iterator[zarr.Array]:
    if isinstance(node, zarr.Array):
        yield node
        return
    yield from (each for _, each in node.members(max_depth=None) if isinstance(each, zarr.Array))


def _codecs_of(array: zarr.Array) -> list[Any]:
    metadata = array.metadata
    if metadata.zarr_format == 3:
        return []  # format 3 has no codec for pickles
    return [*(metadata.filters or ()), metadata.compressor]
