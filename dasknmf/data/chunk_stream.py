"""Stored 1-D arrays read by whole chunks, each chunk once: what sparse matrices are stored as.

Panels begin and end with rows, chunks end anywhere, so every edge of a panel lies inside a chunk. The
panels on both sides need that chunk; in a process, whichever comes first leaves the other its part, which
takes it. Chunks of what spans many panels stay for all of them. Either belongs to one walk over V and is
forgotten with it, so that no walk takes what was read before V was rewritten. Only of the chunk at the end of
a panel, of which it needs less than a row (where values and indices are cut alike), that part stays for the
walks of the same fit: whichever process visits the panel after, nobody reads a chunk for the sake of a row
in every pass. A V that is rewritten during a fit is told by the sums of its other rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import zarr

from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.metered import fetched, with_meter
from dasknmf.io.retry import read_patiently
from dasknmf.io.zarrs import decoded_fast, stored_bytes

_LEFT_BYTES = 64 * 2**20
"""Most that a process keeps for panels to come."""
_ENDS_BYTES = 16 * 2**20
"""Most that it keeps of the ends of panels; those of fits that are over go first."""

Key = tuple[Any, ...]


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
        refuse_credentials(array.store, SourceError)
        refuse_pickles(array)
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
        what = f"entries {start} to {stop - 1} of {self._array.store_path}"
        return read_patiently(lambda: np.asarray(self._array[start:stop]), what)


class Left:
    """Parts of chunks that wait in this process, up to a number of bytes; the oldest go first.

    Keys are tuples; the first entry names the walk over V that they belong to.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()  # the collector may end a walk while this thread is in here
        self._arrays: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._nbytes = 0

    def put(self, key: Key, array: np.ndarray) -> None:
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

    def get(self, key: Key) -> np.ndarray | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def pop(self, key: Key) -> np.ndarray | None:
        with self._lock:
            return self._forget(key)

    def clear(self, walk: str) -> None:
        """Forget all that belongs to a walk."""
        with self._lock:
            for key in list(self._arrays):
                if key[0] == walk:
                    self._forget(key)

    def __len__(self) -> int:
        return len(self._arrays)

    def _forget(self, key: Key) -> np.ndarray | None:
        array = self._arrays.pop(key, None)
        if array is not None:
            self._nbytes -= array.nbytes
        return array


_left = Left(_LEFT_BYTES)
_ends = Left(_ENDS_BYTES)
_locks: WeakValueDictionary[Key, Any] = WeakValueDictionary()
_making = threading.Lock()


def forget(walk: str) -> None:
    """Drop what this process keeps for a walk."""
    _left.clear(walk)


def _lock(key: Key) -> Any:
    with _making:
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = threading.Lock()
        return lock


class Stream:
    """Elements [start, stop) of a vector, from the first to the last.

    Parameters
    ----------
    vector : Vector
    start, stop : int
        Edges of a panel, in elements.
    name : tuple of str
        The walk's and the vector's, for what is left at its edges.
    fit : str or None
        Under which ends of panels stay; None: they do not.
    """

    def __init__(
        self, vector: Vector, start: int, stop: int, name: tuple[str, ...], fit: str | None = None
    ) -> None:
        self._vector = vector
        self._start, self._stop = start, stop
        self._name = name
        self._fit = fit
        self._parts: list[np.ndarray] = []
        self._at = start  # elements before are here, or were given

    def until(self, given: int, position: int) -> np.ndarray:
        """The elements from `given`, where the last call ended, to `position`."""
        while self._at < position:
            self._fetch(position)
        parts = self._parts or [np.empty(0, self._vector.dtype)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        wanted = position - given
        self._parts = [joined[wanted:]] if wanted < len(joined) else []
        return joined[:wanted]

    def _fetch(self, position: int) -> None:
        chunk = self._vector.chunk
        with ExitStack() as locks:
            if self._at == self._start and self._start % chunk:
                # Waits where the panel before is just reading the chunk that both share.
                locks.enter_context(_lock((*self._name, self._start)))
                after = _left.pop((*self._name, self._start, "after"))
                if after is not None:
                    self._take(after[: self._stop - self._start])
                    return
            begin = self._at // chunk * chunk
            end = min(-(-position // chunk) * chunk, self._vector.length)
            last = self._stop // chunk * chunk  # there begins the chunk that the panel after shares
            if end <= last or self._stop in (last, self._vector.length):
                self._read(begin, end)
                return
            stays = None if self._fit is None else _ends.get(self._end_at(self._stop))
            if stays is not None:
                if begin < last:
                    self._read(begin, last)
                self._take(stays[self._at - last :])
                return
            edge = _lock((*self._name, self._stop))
            if not edge.acquire(blocking=begin == last):
                self._read(begin, last)  # the rest comes from the panel after, which is reading it
                return
            locks.callback(edge.release)
            before = _left.pop((*self._name, self._stop, "before"))
            if before is not None:
                if begin < last:
                    self._read(begin, last)
                self._take(before[self._at - last :])
                return
            end = min(last + chunk, self._vector.length)
            values = self._read(begin, end)
            _left.put((*self._name, self._stop, "after"), values[self._stop - begin :])
            self._keep_end(self._stop, values[last - begin : self._stop - begin])

    def _read(self, begin: int, end: int) -> np.ndarray:
        values = self._vector.read(begin, end)
        if begin < self._start:
            _left.put((*self._name, self._start, "before"), values[: self._start - begin])
            self._keep_end(self._start, values[: self._start - begin])
        self._take(values[self._at - begin : self._stop - begin])
        return values

    def _end_at(self, place: int) -> Key:
        return (self._fit, self._name[-1], place)

    def _keep_end(self, place: int, values: np.ndarray) -> None:
        if self._fit is not None:
            _ends.put(self._end_at(place), values)

    def _take(self, values: np.ndarray) -> None:
        self._parts.append(values)
        self._at += len(values)


def blocks_of(vector: Vector, start: int, stop: int, name: tuple[str, ...]) -> np.ndarray:
    """Elements [start, stop) of a vector whose chunks span many panels, and are kept for them."""
    chunk = vector.chunk
    if chunk == 1:
        return vector.read(start, stop)
    begins = range(start // chunk * chunk, stop, chunk)
    with _lock(name):  # tasks of neighbouring panels want the same chunks at the same time
        blocks = {begin: _left.get((*name, begin)) for begin in begins}
        missing = [begin for begin, block in blocks.items() if block is None]
        if missing:
            values = vector.read(missing[0], min(missing[-1] + chunk, vector.length))
            for begin in range(missing[0], missing[-1] + 1, chunk):
                blocks[begin] = block = values[begin - missing[0] :][:chunk]
                _left.put((*name, begin), block)
    values = np.concatenate([block for block in blocks.values() if block is not None])
    return values[start - begins[0] : stop - begins[0]]
