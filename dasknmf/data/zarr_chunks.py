"""Chunks of a Zarr array, fetched and decoded by the thread that uses them.

zarr-python decodes in other threads and copies every decoded chunk in the thread of its event loop.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.common import concurrent_map
from zarr.core.sync import sync

from dasknmf.data.chunk_encoding import Encoded, Encoding, ShardIndex
from dasknmf.data.stored_chunks import ChunkGrid, Fetched, Piece, Span, bytes_at, chunks_of, runs_of
from dasknmf.io.metered import SourceStore

_GAP_BYTES = 64 * 2**10
"""Largest gap between two chunks of a shard that one request fetches, in bytes."""

Request: TypeAlias = tuple[str, ByteRequest | None]
"""A key, and a range of its bytes or None for all."""


class ZarrChunks:
    """The chunks of a Zarr array.

    Parameters
    ----------
    array : zarr.Array
        An array in a `SourceStore`.
    encoding : Encoding
    """

    def __init__(self, array: zarr.Array, encoding: Encoding) -> None:
        self._array = array
        self._encoding = encoding
        fill = 0 if array.fill_value is None else array.fill_value
        self._grid = ChunkGrid(array.shape, array.chunks, np.dtype(array.dtype), fill, array.order)

    @classmethod
    def of(cls, array: zarr.Array) -> ZarrChunks | None:
        """The chunks of an array; None if their encoding is not supported."""
        encoding = Encoding.of(array)
        return None if encoding is None else cls(array, encoding)

    def read(self, part: slice, axis: int) -> np.ndarray:
        """A slice along `axis`, whole along the other axes, in the memory order that Zarr gives it.

        Raises
        ------
        Exception
            Of any class, if a chunk cannot be decoded.
        """
        return self._grid.read(part, axis, self._fetched)

    def _fetched(self, pieces: list[Piece]) -> Iterator[Fetched]:
        index = self._encoding.index
        if index is not None:
            found = self._fetched_from_shards(pieces, index)
        else:
            requests: list[Request] = [(self._key(piece.chunk), None) for piece in pieces]
            found = zip(pieces, self._get(requests), strict=True)
        return (Fetched(piece, encoded, self._encoding) for piece, encoded in found)

    def _fetched_from_shards(
        self, pieces: list[Piece], index: ShardIndex
    ) -> Iterator[tuple[Piece, Encoded | None]]:
        shards: dict[str, list[Piece]] = defaultdict(list)
        for piece in pieces:
            shards[self._key([at // n for at, n in zip(piece.chunk, index.shape, strict=True)])].append(piece)
        written: list[Span] = []
        indices = self._get([(key, index.request) for key in shards])
        for (key, inner), encoded in zip(shards.items(), indices, strict=True):
            chunks = [piece.chunk for piece in inner]
            spans = [None for _ in chunks] if encoded is None else index.spans(encoded, chunks)
            for piece, span in zip(inner, spans, strict=True):
                if span is None:
                    yield piece, None
                else:
                    written.append(Span(key, span.start, span.end, piece))
        runs = runs_of(written, _GAP_BYTES)
        found = self._get([(run[0].key, RangeByteRequest(run[0].start, run[-1].stop)) for run in runs])
        for run, encoded in zip(runs, found, strict=True):
            yield from chunks_of(run, b"" if encoded is None else encoded)

    def _key(self, chunk: Sequence[int]) -> str:
        key = self._array.metadata.encode_chunk_key(tuple(chunk))
        return f"{self._array.path}/{key}" if self._array.path else key

    def _get(self, requests: Sequence[Request]) -> Iterator[Encoded | None]:
        """The requested bytes; None for keys that do not exist."""
        store = self._array.store
        assert isinstance(store, SourceStore)
        directory = store.directory
        if directory is None:
            return iter(sync(_from_store(store, requests)))
        return (_from_file(directory / key, byte_range) for key, byte_range in requests)


async def _from_store(store: SourceStore, requests: Sequence[Request]) -> list[Encoded | None]:
    """The requested bytes of a store, several requests at a time."""
    kind = default_buffer_prototype()
    found = await concurrent_map(
        [(key, kind, byte_range) for key, byte_range in requests],
        store.get,
        zarr.config.get("async.concurrency"),
    )
    return [None if each is None else each.as_numpy_array() for each in found]


def _from_file(path: Path, byte_range: ByteRequest | None) -> Encoded | None:
    """Bytes of a file; None if there is no such file."""
    try:
        file = path.open("rb", buffering=0)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):  # as for Zarr's own store of files
        return None
    with file:
        start, stop = 0, os.fstat(file.fileno()).st_size
        if isinstance(byte_range, SuffixByteRequest):
            start = stop - byte_range.suffix
        elif isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, min(byte_range.end, stop)
        return bytes_at(file.fileno(), start, stop)
