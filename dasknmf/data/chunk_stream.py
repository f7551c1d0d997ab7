"""Stored 1-D arrays, the parts of sparse matrices, read by whole chunks, each chunk once.

An edge between two panels may lie inside a chunk, which both panels need. Within a process, the panel that
is visited first caches the other panel's part of the chunk. Chunks that span many panels are cached for all
of them. The cache of one read of V, a walk, is cleared at its end, as V may be rewritten between walks.
Ends of panels are kept longer: a panel's part of its last chunk is less than a row (where values and
indices have the same chunks), and is cached for all walks of a fit, so that no pass reads a chunk for part
of a row. A V that is rewritten during a fit is recognised by the sums of its other rows.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from dasknmf.data.hdf5_array import StoredArray
from dasknmf.data.read_ahead import Visits

_LEFTOVER_BYTES = 64 * 2**20
"""Largest size of a process's cache of parts of chunks, in bytes."""
_ENDS_BYTES = 16 * 2**20
"""Largest size of a process's cache of ends of panels, in bytes."""

Key = tuple[str | int, ...]


class ArrayCache:
    """A cache of parts of chunks in this process, of at most `limit` bytes; the oldest are dropped first.

    Keys are tuples that begin with the name of a walk over V, or of a fit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()  # garbage collection may call `clear` while this thread holds the lock
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
        """Remove all entries of a walk."""
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


_leftovers = ArrayCache(_LEFTOVER_BYTES)
_ends = ArrayCache(_ENDS_BYTES)
_locks: WeakValueDictionary[Key, Any] = WeakValueDictionary()
_making = threading.Lock()


class Walk:
    """A read of V by many tasks, which share parts of chunks: these are removed from the caches at its end.

    Parameters
    ----------
    fit : str, optional
        Name of the fit whose walks share the ends of panels; None: this walk alone.
    """

    def __init__(self, fit: str | None = None) -> None:
        self.name = uuid.uuid4().hex
        self.fit = fit or self.name
        self._forget_in_the_end()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_in_the_end()

    def _forget_in_the_end(self) -> None:
        for cache in (_leftovers, _ends):
            weakref.finalize(self, cache.clear, self.name).atexit = False


def _lock(key: Key) -> Any:
    with _making:
        return _locks.setdefault(key, threading.Lock())


def read(vector: StoredArray, start: int, stop: int, ahead: Iterable[slice] = ()) -> np.ndarray:
    """Elements [start, stop) of a vector, before those of `ahead`."""
    return vector.read(slice(start, stop), 0, f"entries {start} to {stop - 1}", ahead)


class Stream:
    """Elements [start, stop) of a vector, from the first to the last.

    Parameters
    ----------
    vector : StoredArray of shape (length,)
    start, stop : int
        Edges of a panel, in elements.
    walk : Walk
    name : str
        Name of the vector.
    visits : Visits
        Elements of the panels that this process visits, in their order.
    """

    def __init__(
        self, vector: StoredArray, start: int, stop: int, walk: Walk, name: str, visits: Visits
    ) -> None:
        self._vector = vector
        self._start, self._stop = start, stop
        self._name, self._fit = (walk.name, name), (walk.fit, name)
        self._visits = visits
        self._parts: list[np.ndarray] = []
        self._at = start  # elements before are in the parts, or were returned

    def until(self, begin: int, position: int) -> np.ndarray:
        """Elements [begin, position); `begin` is the position of the last call."""
        while self._at < position:
            self._fetch(position)
        parts = self._parts or [np.empty(0, self._vector.dtype)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        wanted = position - begin
        self._parts = [joined[wanted:]] if wanted < len(joined) else []
        return joined[:wanted]

    def _fetch(self, position: int) -> None:
        """Read more elements towards `position`: one shared chunk, or chunks of this panel alone."""
        vector, chunk = self._vector, self._vector.chunks[0]
        length = vector.shape[0]
        begin = self._at // chunk * chunk
        last = length if self._stop == length else self._stop // chunk * chunk
        if begin < self._start:  # the chunk is shared with the panel before
            with _lock((*self._name, self._start)):
                values = _leftovers.pop((*self._name, self._start))
                if values is None:
                    before, values = self._read_across(begin, self._start)
                    _ends.put((*self._fit, self._start), before)
            values = values[: self._stop - self._start]
        elif begin < last:
            values = self._read(begin, min(-(-position // chunk) * chunk, last))
        else:  # the chunk is shared with the panel after
            with _lock((*self._name, self._stop)):
                values = _ends.get((*self._fit, self._stop))
                if values is None:
                    values, after = self._read_across(begin, self._stop)
                    _ends.put((*self._fit, self._stop), values)
                    _leftovers.put((*self._name, self._stop), after)
        self._parts.append(values)
        self._at += len(values)

    def _read(self, begin: int, end: int) -> np.ndarray:
        # The last chunk may be shared with the next panel, and cached from an earlier walk.
        rest = slice(end, self._stop // self._vector.chunks[0] * self._vector.chunks[0])
        return read(self._vector, begin, end, chain([rest], self._visits.after(self._start)))

    def _read_across(self, begin: int, edge: int) -> tuple[np.ndarray, np.ndarray]:
        """The parts before and after an edge of the chunk that starts at `begin`."""
        end = min(begin + self._vector.chunks[0], self._vector.shape[0])
        before, after = np.split(self._read(begin, end), [edge - begin])
        return before, after


def blocks_of(vector: StoredArray, start: int, stop: int, walk: Walk) -> np.ndarray:
    """Elements [start, stop) of a vector whose chunks span many panels and are cached for them."""
    name, chunk = (walk.name, "blocks"), vector.chunks[0]
    if chunk == 1:
        return read(vector, start, stop)
    begins = range(start // chunk * chunk, stop, chunk)
    with _lock(name):  # tasks of neighbouring panels want the same chunks at the same time
        blocks = {begin: _leftovers.get((*name, begin)) for begin in begins}
        missing = [begin for begin, block in blocks.items() if block is None]
        if missing:
            values = read(vector, missing[0], min(missing[-1] + chunk, vector.shape[0]))
            for begin in range(missing[0], missing[-1] + 1, chunk):
                blocks[begin] = block = values[begin - missing[0] :][:chunk]
                _leftovers.put((*name, begin), block)
    values = np.concatenate([block for block in blocks.values() if block is not None])
    return values[start - begins[0] : stop - begins[0]]
