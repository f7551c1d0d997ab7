"""Encoded chunks that are fetched before a task needs them, from stores that answer late.

A request to an object store takes 20 to 500 ms, whatever its size. While a task decodes and multiplies the
chunks of some rows, Zarr's event loop fetches those of the next rows. A process has at most `MOST_BYTES` of
encoded chunks on the way or waiting. Their size is known once they have arrived: until then each counts as
the mean of earlier chunks of its array, and as its decoded size before the first has arrived. So the first
rows are fetched with few requests, and later ones with as many as fill the bound.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

from zarr.core.sync import _get_loop

from dasknmf.data.chunk_encoding import Encoded
from dasknmf.io.counts import Counts, count, counting

MOST_BYTES = 128 * 2**20
"""Encoded bytes that a process has on the way or waiting for their task: 200 MB/s for .6 s."""
_BATCH_BYTES = 4 * 2**20
"""Encoded bytes of neighbouring rows of chunks that are fetched together: requests to shards are large."""

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


class _Held:
    """Bytes on the way or waiting, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nbytes = 0

    def add(self, nbytes: int, *, within: int | None = None) -> bool:
        """Add bytes, which may be negative; False if there would be more than `within`."""
        with self._lock:
            if within is not None and self._nbytes and self._nbytes + nbytes > within:
                return False
            self._nbytes += nbytes
            return True

    @property
    def nbytes(self) -> int:
        return self._nbytes


HELD = _Held()


class _Batch:
    """Chunks that are fetched together."""

    def __init__(self, found: Future[tuple[dict[Chunk, Encoded | None], Counts]], reserved: int) -> None:
        self.found = found
        self.reserved = reserved
        # A strong reference to an exception would keep its frames alive, and these the batch.
        self._release = weakref.finalize(self, _dropped, weakref.ref(found), reserved)
        self._release.atexit = False
        self.is_counted = False

    def release(self) -> None:
        """Give the reserved bytes back."""
        self._release()


def _dropped(found: weakref.ref[Future[Any]], reserved: int) -> None:
    if (future := found()) is not None:
        future.cancel()
    HELD.add(-reserved)


class ReadAhead:
    """The chunks of an array that are on their way during one read of the array. Pickled without them.

    Parameters
    ----------
    fetch : callable
        Coroutine function of numbers of chunks; returns their encoded bytes.
    chunk_bytes : int
        Decoded size of a chunk.
    """

    def __init__(self, fetch: Fetch, chunk_bytes: int) -> None:
        self._fetch = fetch
        self._chunk_bytes = chunk_bytes
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._batches: dict[Chunk, _Batch] = {}
        self._arrived, self._arrived_bytes = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadAhead, (self._fetch, self._chunk_bytes)

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
        for row in rows:
            if row in self._begun:
                continue
            batch[row] = chunks_of(row)
            if sum(map(len, batch.values())) * self._mean_bytes >= _BATCH_BYTES:
                if not self._begin(batch):
                    return
                batch = {}
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
            reserved = int(len(missing) * self._mean_bytes)
            if not HELD.add(reserved, within=None if waits else MOST_BYTES):
                return False
            self._begun.update(rows)
            found = asyncio.run_coroutine_threadsafe(self._fetched(missing), _get_loop())
            self._batches.update(dict.fromkeys(missing, _Batch(found, reserved)))
            return True

    def take(self, chunks: Sequence[Chunk]) -> dict[Chunk, Encoded | None]:
        """Encoded chunks that were begun before; None for those that were never written."""
        with self._lock:
            batches = {chunk: self._batches.pop(chunk) for chunk in chunks}
        encoded = {}
        for chunk, batch in batches.items():
            found, counts = batch.found.result()
            with self._lock:
                is_first = not batch.is_counted
                # A task that takes no first chunk has a count of zero, not none.
                count(nbytes=counts.nbytes if is_first else 0, retries=counts.retries if is_first else 0)
                if is_first:
                    batch.is_counted = True
                    self._arrived += len(found)
                    self._arrived_bytes += counts.nbytes or 0
                encoded[chunk] = found.pop(chunk)
                if not found:
                    batch.release()
        return encoded

    @property
    def _mean_bytes(self) -> float:
        return self._arrived_bytes / self._arrived if self._arrived else self._chunk_bytes

    async def _fetched(self, chunks: Sequence[Chunk]) -> tuple[dict[Chunk, Encoded | None], Counts]:
        with counting() as counts:  # another task takes the chunks than the one that began the request
            return dict(await self._fetch(chunks)), counts
