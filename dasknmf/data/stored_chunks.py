"""Arrays that are stored in chunks, which the thread that uses them fetches and decodes.

A chunk is decoded directly into the result if its place there is contiguous, as that of whole rows is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dasknmf.data import warm_memory
from dasknmf.data.chunk_encoding import Encoded, Encoding, TruncatedChunk
from dasknmf.io.counts import count


class Piece(NamedTuple):
    """The part of a chunk that belongs to a read."""

    chunk: tuple[int, ...]
    """Number of the chunk along each axis."""
    place: tuple[slice, ...]
    """Place of the part in the result."""
    inside: tuple[slice, ...]
    """Place of the part in the chunk."""


class Fetched(NamedTuple):
    """A piece and its encoded chunk."""

    piece: Piece
    encoded: Encoded | None
    """None if the chunk was never written."""
    encoding: Encoding


Fetch: TypeAlias = Callable[[list[Piece]], Iterable[Fetched]]
"""A function that locates and fetches the chunks of pieces, in any order."""


@dataclass(frozen=True)
class ChunkGrid:
    """An array in chunks of one shape.

    Parameters
    ----------
    shape, chunks : tuple of int
        Shapes of the array and of a chunk. Chunks at the edges of the array are stored whole.
    dtype : numpy.dtype
        Dtype of what is read.
    fill_value : scalar
        Value of the elements of chunks that were never written.
    order : {"C", "F"}
        Memory order of what is read.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    fill_value: Any
    order: Any = "C"

    def read(self, part: slice, axis: int, fetch: Fetch) -> np.ndarray:
        """A slice along `axis`, whole along the other axes.

        Raises
        ------
        Exception
            Of any class, if a chunk cannot be decoded.
        """
        window = [slice(0, length) for length in self.shape]
        window[axis] = part
        shape = [each.stop - each.start for each in window]
        memory = warm_memory.empty(math.prod(shape) * self.dtype.itemsize)
        values = memory.view(self.dtype).reshape(shape, order=self.order)
        for piece, encoded, encoding in fetch(pieces_of(window, self.chunks)):
            if encoded is None:
                values[piece.place] = self.fill_value
            else:
                self._put(encoded, encoding, values[piece.place], piece.inside)
        return values

    def _put(
        self, encoded: Encoded, encoding: Encoding, place: np.ndarray, inside: tuple[slice, ...]
    ) -> None:
        """Decode a chunk, whose part `inside` belongs at a place."""
        target = place.transpose(encoding.axes)
        if place.shape == self.chunks and place.dtype == encoding.dtype and target.flags.c_contiguous:
            encoding.decode(encoded, target.reshape(-1).view(np.uint8))
            return
        decoded = warm_memory.empty(math.prod(self.chunks) * encoding.dtype.itemsize)
        encoding.decode(encoded, decoded)
        chunk = decoded.view(encoding.dtype).reshape([self.chunks[axis] for axis in encoding.axes])
        target[...] = chunk[tuple(inside[axis] for axis in encoding.axes)]


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


class Span(NamedTuple):
    """The bytes of a piece's chunk in a file or shard that holds several chunks."""

    key: str
    """Key of the shard; any string where there is one file."""
    start: int
    stop: int
    piece: Piece


def runs_of(spans: Iterable[Span], gap: int, most: float = math.inf) -> list[list[Span]]:
    """Spans grouped by the requests that fetch them: neighbours are fetched together.

    Parameters
    ----------
    spans : iterable of Span
    gap : int
        Largest gap between two chunks that one request fetches, in bytes.
    most : int, optional
        Largest size of a request for several chunks, in bytes.
    """
    runs: list[list[Span]] = []
    for each in sorted(spans):
        if runs and _follows(each, runs[-1], gap, most):
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _follows(span: Span, run: list[Span], gap: int, most: float) -> bool:
    is_near = span.key == run[-1].key and 0 <= span.start - run[-1].stop <= gap
    return is_near and span.stop - run[0].start <= most


def chunks_of(run: list[Span], encoded: Encoded) -> Iterator[tuple[Piece, Encoded]]:
    """The pieces of a run, each with its chunk, from the bytes of the run.

    Raises
    ------
    TruncatedChunk
        If the bytes end before a chunk does.
    """
    for _, start, stop, piece in run:
        chunk = encoded[start - run[0].start : stop - run[0].start]
        if len(chunk) != stop - start:
            raise TruncatedChunk(f"chunk {piece.chunk} ends beyond its file")
        yield piece, chunk


def bytes_at(descriptor: int, start: int, stop: int) -> np.ndarray:
    """Bytes [start, stop) of an open file, uint8. Threads may read from one descriptor.

    Raises
    ------
    TruncatedChunk
        If the file is shorter.
    """
    found = warm_memory.empty(max(0, stop - start))
    at = 0
    while at < len(found):  # one call reads at most 2 GiB
        nbytes = os.preadv(descriptor, [found[at:].data], start + at)
        if not nbytes:
            raise TruncatedChunk(f"the file ends after {start + at} bytes, and a chunk after {stop}")
        at += nbytes
    count(nbytes=len(found))
    return found
