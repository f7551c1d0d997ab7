"""Chunks of a Zarr array, fetched and decoded by the thread that uses them.

zarr-python decodes in other threads and copies every decoded chunk in the thread of its event loop.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.common import concurrent_map

from dasknmf.data.chunk_encoding import Encoded, Encoding, ShardIndex
from dasknmf.data.read_ahead import MOST_BYTES, Chunk, ReadAhead
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
        store = array.store
        assert isinstance(store, SourceStore)
        self._directory = store.directory
        nbytes = math.prod(array.chunks) * encoding.dtype.itemsize
        self._indices: dict[Request, asyncio.Future[list[Encoded | None]]] = {}
        # The vectors of a sparse matrix share the bound.
        most = MOST_BYTES // (2 if array.ndim == 1 else 1)
        self._ahead = None if self._directory else ReadAhead(self._fetch, nbytes, most)

    @classmethod
    def of(cls, array: zarr.Array) -> ZarrChunks | None:
        """The chunks of an array; None if their encoding is not supported."""
        encoding = Encoding.of(array)
        return None if encoding is None else cls(array, encoding)

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrChunks, (self._array, self._encoding)  # without chunks and indices on their way

    @property
    def answers_late(self) -> bool:
        """Whether chunks are fetched ahead: those of files are fetched by the thread that decodes them."""
        return self._ahead is not None

    def renewed(self) -> ZarrChunks:
        """The same chunks for another read of the array, without those that are on their way."""
        return ZarrChunks(self._array, self._encoding)

    def read(self, part: slice, axis: int, ahead: Iterable[slice] = ()) -> np.ndarray:
        """A slice along `axis`, whole along the other axes, in the memory order that Zarr gives it.

        Parameters
        ----------
        part : slice
        axis : int
        ahead : iterable of slice
            Slices that this process reads next; their chunks are fetched ahead.

        Raises
        ------
        Exception
            Of any class, if a chunk cannot be decoded.
        """
        if self._ahead is not None:
            length = self._array.chunks[axis]
            chunks_of = partial(self._row_of_chunks, axis)
            self._ahead.need(_rows_of_chunks(part, length), chunks_of)
            self._ahead.begin((row for each in ahead for row in _rows_of_chunks(each, length)), chunks_of)
        return self._grid.read(part, axis, self._fetched)

    def _row_of_chunks(self, axis: int, row: int) -> list[Chunk]:
        """Numbers of all chunks with one number along `axis`."""
        lengths = zip(self._array.shape, self._array.chunks, strict=True)
        numbers = [range(-(-length // chunk)) for length, chunk in lengths]
        numbers[axis] = range(row, row + 1)
        return list(product(*numbers))

    def _fetched(self, pieces: list[Piece]) -> Iterator[Fetched]:
        found: Iterable[tuple[Piece, Encoded | None]]
        if self._ahead is not None:
            encoded = self._ahead.take([piece.chunk for piece in pieces])
            found = ((piece, encoded.pop(piece.chunk)) for piece in pieces)
        else:
            located = self._located(pieces, self._from_files(self._index_requests(pieces)))
            found = located.cut(self._from_files(located.requests))
        return (Fetched(*each, self._encoding) for each in found)

    async def _fetch(self, chunks: Sequence[Chunk]) -> dict[Chunk, Encoded | None]:
        """Encoded chunks by their numbers; None for those that were never written."""
        store = self._array.store
        assert isinstance(store, SourceStore)
        pieces = [Piece(chunk, (), ()) for chunk in chunks]
        located = self._located(pieces, await self._kept_indices(store, self._index_requests(pieces)))
        found = located.cut(await _from_store(store, located.requests))
        return {piece.chunk: encoded for piece, encoded in found}

    async def _kept_indices(self, store: SourceStore, requests: list[Request]) -> list[Encoded | None]:
        """Indices of shards, each of which is fetched once."""
        for request in requests:
            if request not in self._indices:
                self._indices[request] = asyncio.ensure_future(_from_store(store, [request]))
        try:
            found = await asyncio.gather(*(self._indices[request] for request in requests))
            return [index for (index,) in found]
        except BaseException:
            self._indices.clear()
            raise

    def _index_requests(self, pieces: list[Piece]) -> list[Request]:
        """Requests for the indices of shards; none without shards."""
        index = self._encoding.index
        return [] if index is None else [(key, index.request) for key in self._shards(pieces, index)]

    def _shards(self, pieces: list[Piece], index: ShardIndex) -> dict[str, list[Piece]]:
        """The pieces in each shard, by the shard's key."""
        shards: dict[str, list[Piece]] = defaultdict(list)
        for piece in pieces:
            shards[self._key([at // n for at, n in zip(piece.chunk, index.shape, strict=True)])].append(piece)
        return shards

    def _located(self, pieces: list[Piece], indices: Iterable[Encoded | None]) -> _Located:
        """The places of chunks in the store."""
        index = self._encoding.index
        if index is None:
            return _Located([], [(self._key(piece.chunk), None) for piece in pieces], pieces)
        unwritten: list[Piece] = []
        written: list[Span] = []
        for (key, inner), encoded in zip(self._shards(pieces, index).items(), indices, strict=True):
            chunks = [piece.chunk for piece in inner]
            spans = [None for _ in chunks] if encoded is None else index.spans(encoded, chunks)
            for piece, span in zip(inner, spans, strict=True):
                if span is None:
                    unwritten.append(piece)
                else:
                    written.append(Span(key, span.start, span.end, piece))
        runs = runs_of(written, _GAP_BYTES)
        requests = [(run[0].key, RangeByteRequest(run[0].start, run[-1].stop)) for run in runs]
        return _Located(unwritten, requests, runs)

    def _key(self, chunk: Sequence[int]) -> str:
        key = self._array.metadata.encode_chunk_key(tuple(chunk))
        return f"{self._array.path}/{key}" if self._array.path else key

    def _from_files(self, requests: Sequence[Request]) -> Iterator[Encoded | None]:
        """The requested bytes, each read when it is needed; None for keys that do not exist."""
        assert self._directory is not None
        return (_from_file(self._directory / key, byte_range) for key, byte_range in requests)


def _rows_of_chunks(part: slice, length: int) -> range:
    """Numbers along an axis of the chunks, of `length` each, that hold a slice."""
    return range(part.start // length, -(-part.stop // length))


class _Located(NamedTuple):
    """The places of chunks in a store."""

    unwritten: list[Piece]
    """Pieces of chunks that were never written."""
    requests: Sequence[Request]
    contents: Sequence[Piece | list[Span]]
    """What each request fetches: a chunk, or a run of chunks of a shard."""

    def cut(self, found: Iterable[Encoded | None]) -> Iterator[tuple[Piece, Encoded | None]]:
        """The pieces, each with its chunk, from the requested bytes."""
        yield from ((piece, None) for piece in self.unwritten)
        for content, encoded in zip(self.contents, found, strict=True):
            if isinstance(content, Piece):
                yield content, encoded
            else:
                yield from chunks_of(content, b"" if encoded is None else encoded)


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
