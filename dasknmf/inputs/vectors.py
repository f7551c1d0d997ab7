"""Stored 1-D arrays read by whole chunks, each chunk once: what sparse matrices are stored as.

Panels begin and end with rows, chunks end anywhere, so every edge of a panel lies inside a chunk. The
panels on both sides need that chunk; whichever comes first leaves the other's part of it in this
process. Edges are put at the first row that begins in a chunk, so that what the panel before needs is
less than a row: small enough to be kept for the passes that follow. What comes after an edge is only
handed over to the panel that begins there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol

import numpy as np
import zarr

from dasknmf.inputs.fast import decoded_fast, stored_bytes
from dasknmf.inputs.zarr_array import fetched, with_meter

_KEPT_BYTES = 32 * 2**20


class Vector(Protocol):
    """A 1-D array in a store."""

    length: int
    chunk: int
    """Elements that can only be read together."""
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop); what is fetched for them is reported."""


class ZarrVector:
    """A 1-D Zarr array, through `zarrs` where that is installed and takes it."""

    def __init__(self, array: zarr.Array) -> None:
        fast = decoded_fast(array)
        self.length = int(array.shape[0])
        self.chunk = int(array.chunks[0])
        self.dtype = np.dtype(array.dtype)
        self._metered = fast is None
        self._array = with_meter(array) if fast is None else fast

    def read(self, start: int, stop: int) -> np.ndarray:
        if start == stop:
            return np.empty(0, self.dtype)
        if not self._metered:
            fetched(stored_bytes(self._array, slice(start, stop), 0))
        return np.asarray(self._array[start:stop])


class Kept:
    """Parts of chunks that stay in this process, up to a number of bytes; the oldest go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._nbytes = 0

    def put(self, key: Hashable, array: np.ndarray) -> None:
        if array.nbytes > self._limit // 4:
            return
        array = array.copy()  # a view would keep the whole chunk
        array.flags.writeable = False
        with self._lock:
            self._forget(key)
            self._arrays[key] = array
            self._nbytes += array.nbytes
            while self._nbytes > self._limit:
                self._forget(next(iter(self._arrays)))

    def get(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def pop(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            return self._forget(key)

    def clear(self, token: str) -> None:
        """Forget all that was kept of one source."""
        with self._lock:
            for key in [key for key in self._arrays if isinstance(key, tuple) and key[0] == token]:
                self._forget(key)

    def _forget(self, key: Hashable) -> np.ndarray | None:
        array = self._arrays.pop(key, None)
        if array is not None:
            self._nbytes -= array.nbytes
        return array


kept = Kept(_KEPT_BYTES)


class Stream:
    """Elements [start, stop) of a vector, from the first to the last.

    Parameters
    ----------
    vector : Vector
    start, stop : int
        Edges of a panel, in elements.
    name : tuple
        Of the vector, for what is kept at its edges.
    """

    def __init__(self, vector: Vector, start: int, stop: int, name: tuple[str, ...]) -> None:
        self._vector = vector
        self._start, self._stop = start, stop
        self._name = name
        self._parts: list[np.ndarray] = []
        self._at = start  # elements before are here, or were given
        after = kept.pop((*name, "after", start))
        if after is not None:
            self._take(after[: stop - start])

    def until(self, given: int, position: int) -> np.ndarray:
        """The elements from `given`, where the last call ended, to `position`."""
        while self._at < position:
            self._fetch(position)
        joined = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts or [self._empty()])
        wanted = position - given
        self._parts = [joined[wanted:]] if wanted < len(joined) else []
        return joined[:wanted]

    def _fetch(self, position: int) -> None:
        chunk = self._vector.chunk
        last = self._stop // chunk * chunk  # where the chunk begins that the panel after shares
        begin = self._at // chunk * chunk
        end = min(-(-position // chunk) * chunk, self._vector.length)
        if end <= last or last == self._stop:
            self._read(begin, end)
            return
        before = kept.get((*self._name, "before", self._stop))
        if before is not None:
            if begin < last:
                self._read(begin, last)
            self._take(before[self._at - last :])
            return
        end = min(last + chunk, self._vector.length)
        values = self._read(begin, end)
        kept.put((*self._name, "before", self._stop), values[last - begin : self._stop - begin])
        if self._stop < end:
            kept.put((*self._name, "after", self._stop), values[self._stop - begin :])

    def _read(self, begin: int, end: int) -> np.ndarray:
        values = self._vector.read(begin, end)
        if begin < self._start:
            kept.put((*self._name, "before", self._start), values[: self._start - begin])
        self._take(values[self._at - begin : self._stop - begin])
        return values

    def _take(self, values: np.ndarray) -> None:
        self._parts.append(values)
        self._at += len(values)

    def _empty(self) -> np.ndarray:
        return np.empty(0, self._vector.dtype)


def blocks_of(vector: Vector, start: int, stop: int, name: tuple[str, ...]) -> np.ndarray:
    """Elements [start, stop) of a vector whose chunks span many panels, and are kept for them."""
    chunk = vector.chunk
    if chunk == 1:
        return vector.read(start, stop)
    begins = range(start // chunk * chunk, stop, chunk)
    blocks = [kept.get((*name, begin)) for begin in begins]
    known = [block for block in blocks if block is not None]
    if len(known) == len(blocks):
        values = np.concatenate(known)
    else:
        values = vector.read(begins[0], min(begins[-1] + chunk, vector.length))
        for begin in begins:
            kept.put((*name, begin), values[begin - begins[0] :][:chunk])
    return values[start - begins[0] : stop - begins[0]]
