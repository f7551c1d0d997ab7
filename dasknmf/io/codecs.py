"""A check that no codec of V's arrays runs code from the data: pickles are refused."""

from __future__ import annotations

import zarr

from dasknmf.errors import SourceError


def refuse_pickles(node: zarr.Array | zarr.Group) -> None:
    """Raise an error if an array, or an array in a group, is stored as pickles.

    Only metadata is read. Pickles are filters of Zarr format 2, and may hold numbers, too.

    Raises
    ------
    SourceError
    """
    nodes = [node] if isinstance(node, zarr.Array) else [each for _, each in node.members(max_depth=None)]
    for each in nodes:
        metadata = each.metadata if isinstance(each, zarr.Array) else None
        if metadata is None or metadata.zarr_format == 3:
            continue  # format 3 has no codec for pickles
        codecs = (*(metadata.filters or ()), metadata.compressor)
        if any(getattr(codec, "codec_id", None) == "pickle" for codec in codecs):
            raise SourceError(
                f"{each.store_path} is stored as pickles, which can run any program when they are decoded, "
                "and is refused: if you trust it, write it again as numbers or strings."
            )
