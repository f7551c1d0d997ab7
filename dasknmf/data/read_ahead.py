"""Encoded chunks that are fetched before a task needs them, from stores that answer late.

A request to an object store takes 20 to 500 ms, whatever its size. While a task decodes and multiplies the
chunks of some rows, Zarr's event loop fetches those of the next rows. The bytes of an array that are on their
way or wait for their task are bounded. Sizes of chunks are known once they have arrived: until then a chunk
counts as the mean of earlier ones, and as its decoded size before the first has arrived. So the first rows
are fetched with few requests, and later ones with as many as fill the bound.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeAlias

from zarr.core.sync import _get_loop

from dasknmf.data.chunk_encoding import Encoded
from dasknmf.io.counts import Counts, count, counting

MOST_BYTES = 128 * 2**20
"""Encoded bytes of a matrix that a process has on the way or waiting: 200 MB/s for .6 s."""
_BATCH_BYTES = 4 * 2**20
"""Encoded bytes of neighbouring rows of chunks that are fetched together: requests to shards are large."""
_MOST_RATIO = 16
"""Chunks that have not arrived count as at least this part of their decoded size: earlier ones may have been
constant."""

Chunk: TypeAlias = tuple[int, ...]
"""Number of a chunk along each axis."""
Fetch: TypeAlias = "Callable[[Sequence[Chunk]], Awaitable[Mapping[Chunk, Encoded | None]]]"
"""A function that fetches chunks; those that were never written are None."""


@dataclass(frozen=True)
class Visits:
    """The panels that this process visits, in their order.

    Parameters
    ----------
    parts : tuple of slice
        Rows of each panel, or the entries of a vector that belong to it.
    """

    parts: tuple[slice, ...] = ()

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {part.start: number for number, part in enumerate(self.parts)}

    def after(self, start: int) -> Iterator[slice]:
        """The panels after the one that begins at `start`; none if there is no such panel."""
        return islice(self.parts, self._numbers.get(start, len(self.parts)) + 1, None)


@dataclass
class _Batch:
    """Chunks that are fetched together."""

    future: Future[tuple[dict[Chunk, Encoded | None], Counts]]
    reserved: int | None
    """Estimated bytes; None once the sizes are known."""
    is_counted: bool = False


class ReadAhead:
    """The encoded chunks that are on their way, or wait for their task, during one read of an array.

    Parameters
    ----------
    fetch : callable
        Coroutine function of numbers of chunks; returns their encoded bytes.
    chunk_bytes : int
        Decoded size of a chunk.
    most : int
        Bound of the bytes that are on their way or wait, apart from those for which a task waits.
    """

    def __init__(self, fetch: Fetch, chunk_bytes: int, most: int) -> None:
        self._fetch = fetch
        self._chunk_bytes = chunk_bytes
        self._most = most
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._batches: dict[Chunk, _Batch] = {}
        self._written, self._written_bytes = 0, 0
        self.held = 0
        """Bytes on their way, by estimate, and waiting."""

    def begin(self, rows: Iterable[int], chunks_of: Callable[[int], list[Chunk]]) -> None:
        """Begin to fetch rows of chunks that were not begun before, as long as there is room for their bytes.

        Parameters
        ----------
        rows : iterable of int
            Numbers of the rows of chunks, in the order in which they will be needed.
        chunks_of : callable
            The chunks of a row.
        """
        batch: dict[int, list[Chunk]] = {}
        n_chunks = 0
        for row in rows:
            if row in self._begun:
                continue
            batch[row] = chunks_of(row)
            n_chunks += len(batch[row])
            if n_chunks * self._estimate >= _BATCH_BYTES:
                if not self._begin(batch):
                    return
                batch, n_chunks = {}, 0
        self._begin(batch)

    def need(self, rows: Iterable[int], chunks_of: Callable[[int], list[Chunk]]) -> None:
        """Begin to fetch rows of chunks for which the task waits."""
        self._begin({row: chunks_of(row) for row in rows}, waits=True)

    def _begin(self, rows: dict[int, list[Chunk]], *, waits: bool = False) -> bool:
        """Begin to fetch the chunks of some rows; False if there is no room for their bytes."""
        with self._lock:
            missing = [
                chunk
                for row, chunks in rows.items()
                if waits or row not in self._begun  # another task may have begun the row in the meantime
                for chunk in chunks
                if chunk not in self._batches
            ]
            if not missing:
                return True
            reserved = int(len(missing) * self._estimate)
            if not waits and self.held and self.held + reserved > self._most:
                return False
            self._begun.update(rows)
            self.held += reserved
            self._batches.update(dict.fromkeys(missing, _Batch(self._future(missing), reserved)))
            return True

    def take(self, chunks: Sequence[Chunk]) -> dict[Chunk, Encoded | None]:
        """Encoded chunks by their numbers; None for those that were never written."""
        with self._lock:
            batches = {chunk: self._batches.pop(chunk) for chunk in chunks if chunk in self._batches}
        taken: dict[Chunk, Encoded | None] = {}
        for chunk, batch in batches.items():
            found, counts = batch.future.result()
            with self._lock:
                self._arrived(batch, found)
                taken[chunk] = encoded = found.pop(chunk)
                self.held -= _size(encoded)
                is_first, batch.is_counted = not batch.is_counted, True
            # Bytes of a batch count for the first task that takes from it; the others count 0, not None.
            count(nbytes=(counts.nbytes or 0) * is_first, retries=counts.retries * is_first)
        if absent := [chunk for chunk in chunks if chunk not in taken]:  # taken by another task
            found, counts = self._future(absent).result()
            count(nbytes=counts.nbytes or 0, retries=counts.retries)
            taken |= found
        return taken

    def _arrived(self, batch: _Batch, found: Mapping[Chunk, Encoded | None]) -> None:
        """Replace the estimate of a batch by its size, before the first of its chunks is taken."""
        if batch.reserved is None:
            return
        sizes = [_size(encoded) for encoded in found.values() if encoded is not None]
        self.held += sum(sizes) - batch.reserved
        self._written += len(sizes)
        self._written_bytes += sum(sizes)
        batch.reserved = None

    @property
    def _estimate(self) -> float:
        """Estimated encoded size of a chunk."""
        if not self._written:
            return self._chunk_bytes
        return max(self._written_bytes / self._written, self._chunk_bytes / _MOST_RATIO)

    def _future(self, chunks: Sequence[Chunk]) -> Future[tuple[dict[Chunk, Encoded | None], Counts]]:
        return asyncio.run_coroutine_threadsafe(self._fetched(chunks), _get_loop())

    async def _fetched(self, chunks: Sequence[Chunk]) -> tuple[dict[Chunk, Encoded | None], Counts]:
        with counting() as counts:  # not those of the task that began the request
            return dict(await self._fetch(chunks)), counts


def _size(encoded: Encoded | None) -> int:
    return 0 if encoded is None else len(encoded)
