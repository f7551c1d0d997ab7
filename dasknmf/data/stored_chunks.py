"""Chunks of a Zarr array, fetched and decoded by the thread that uses them.

zarr-python decodes in other threads and copies every decoded chunk in the thread of its event loop. Here a
chunk is decoded at its place if it is contiguous there, as rows of whole width are.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.common import concurrent_map
from zarr.core.sync import sync

from dasknmf.data import warm_memory
from dasknmf.data.chunk_encoding import Encoded, Encoding, ShardIndex, TruncatedChunk
from dasknmf.io.counts import count
from dasknmf.io.metered import SourceStore

_GAP_BYTES = 64 * 2**10
"""Largest gap between two chunks of a shard that one request fetches, in bytes."""

Request: TypeAlias = tuple[str, ByteRequest | None]
"""A key, and a range of its bytes or None for all."""


class Piece(NamedTuple):
    """The part of a chunk that belongs to a read."""

    chunk: tuple[int, ...]
    """Number of the chunk along each axis."""
    place: tuple[slice, ...]
    """Place of the part in the result."""
    inside: tuple[slice, ...]
    """Place of the part in the chunk."""


class StoredChunks:
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

    @classmethod
    def of(cls, array: zarr.Array) -> StoredChunks | None:
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
        array = self._array
        window = [slice(0, length) for length in array.shape]
        window[axis] = part
        shape = [each.stop - each.start for each in window]
        memory = warm_memory.empty(math.prod(shape) * array.dtype.itemsize)
        values = memory.view(array.dtype).reshape(shape, order=array.order)
        for piece, encoded in self._fetched(pieces_of(window, array.chunks)):
            if encoded is None:
                values[piece.place] = 0 if array.fill_value is None else array.fill_value
            else:
                self._put(encoded, values[piece.place], piece.inside)
        return values

    def _put(self, encoded: Encoded, place: np.ndarray, inside: tuple[slice, ...]) -> None:
        """Decode a chunk, whose part `inside` belongs at a place."""
        encoding, shape = self._encoding, self._array.chunks
        target = place.transpose(encoding.axes)
        if place.shape == shape and place.dtype == encoding.dtype and target.flags.c_contiguous:
            encoding.decode(encoded, target.reshape(-1).view(np.uint8))
            return
        decoded = warm_memory.empty(math.prod(shape) * encoding.dtype.itemsize)
        encoding.decode(encoded, decoded)
        chunk = decoded.view(encoding.dtype).reshape([shape[axis] for axis in encoding.axes])
        target[...] = chunk[tuple(inside[axis] for axis in encoding.axes)]

    def _fetched(self, pieces: list[Piece]) -> Iterator[tuple[Piece, Encoded | None]]:
        """The pieces, each with its chunk; None if the chunk was never written."""
        index = self._encoding.index
        if index is not None:
            yield from self._fetched_from_shards(pieces, index)
            return
        requests: list[Request] = [(self._key(piece.chunk), None) for piece in pieces]
        yield from zip(pieces, self._get(requests), strict=True)

    def _fetched_from_shards(
        self, pieces: list[Piece], index: ShardIndex
    ) -> Iterator[tuple[Piece, Encoded | None]]:
        shards: dict[str, list[Piece]] = defaultdict(list)
        for piece in pieces:
            shards[self._key([at // n for at, n in zip(piece.chunk, index.shape, strict=True)])].append(piece)
        written: list[_Written] = []
        indices = self._get([(key, index.request) for key in shards])
        for (key, inner), encoded in zip(shards.items(), indices, strict=True):
            chunks = [piece.chunk for piece in inner]
            spans = [None for _ in chunks] if encoded is None else index.spans(encoded, chunks)
            for piece, span in zip(inner, spans, strict=True):
                if span is None:
                    yield piece, None
                else:
                    written.append(_Written(key, span.start, span.end, piece))
        runs = _runs(written)
        found = self._get([(run[0].key, RangeByteRequest(run[0].start, run[-1].stop)) for run in runs])
        for run, encoded in zip(runs, found, strict=True):
            for _, start, stop, piece in run:
                chunk = b"" if encoded is None else encoded[start - run[0].start : stop - run[0].start]
                if len(chunk) != stop - start:
                    raise TruncatedChunk(f"chunk {piece.chunk} ends beyond its shard")
                yield piece, chunk

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


class _Written(NamedTuple):
    """A piece of a shard: the shard's key, and the place of the chunk in the shard."""

    key: str
    start: int
    stop: int
    piece: Piece


def _runs(written: list[_Written]) -> list[list[_Written]]:
    """Pieces grouped by the requests that fetch them: neighbours in a shard are fetched together."""
    runs: list[list[_Written]] = []
    for each in sorted(written):
        before = runs[-1][-1] if runs else None
        if before and each.key == before.key and 0 <= each.start - before.stop <= _GAP_BYTES:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def pieces_of(window: Sequence[slice], chunks: tuple[int, ...]) -> list[Piece]:
    """The parts of all chunks in a window, in C order."""
    along = [_parts(part, length) for part, length in zip(window, chunks, strict=True)]
    return [Piece(*zip(*corner, strict=True)) for corner in product(*along)]


def _parts(part: slice, length: int) -> Iterator[tuple[int, slice, slice]]:
    """The chunks along one axis: number, place in the part, and place in the chunk."""
    for number in range(part.start // length, -(-part.stop // length)):
        begin = number * length
        first, last = max(begin, part.start), min(begin + length, part.stop)
        yield number, slice(first - part.start, last - part.start), slice(first - begin, last - begin)


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
        file.seek(start)
        encoded = warm_memory.empty(max(0, stop - start))
        if file.readinto(encoded.data) != len(encoded):
            raise TruncatedChunk(f"{path} became shorter while it was read")
    count(nbytes=len(encoded))
    return encoded
