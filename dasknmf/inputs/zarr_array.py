"""Zarr arrays, read by the tasks themselves: no graph, and every byte that is fetched is counted."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore, WrapperStore

from dasknmf.errors import SourceError, UnavailableError
from dasknmf.inputs.base import Chunks, Reader, Source, Stored, check_shape
from dasknmf.inputs.fast import decoded_fast, stored_bytes
from dasknmf.panels import slab_rows
from dasknmf.patience import PatientStore, patiently, read_patiently


class Meter:
    """Counts bytes; safe to add to from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nbytes: int | None = None

    def add(self, nbytes: int) -> None:
        with self._lock:
            self._nbytes = nbytes + (self._nbytes or 0)

    def total(self, unmetered: int) -> int:
        """What was counted, or `unmetered` where nothing that counts was read."""
        return unmetered if self._nbytes is None else self._nbytes


_meter: ContextVar[Meter | None] = ContextVar("dasknmf_bytes_fetched", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what this task fetches from stores: the variable follows it into Zarr's event loop."""
    meter = Meter()
    token = _meter.set(meter)
    try:
        yield meter
    finally:
        _meter.reset(token)


def fetched(nbytes: int) -> None:
    """Report what a read took, to whoever counts."""
    meter = _meter.get()
    if meter is not None:
        meter.add(nbytes)


class MeteredStore(WrapperStore[Any]):
    """A store that reports the size of every value it returns."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        _count(value)
        return value

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        values = await super().get_partial_values(prototype, key_ranges)
        for value in values:
            _count(value)
        return values

    # From Zarr 3.3 on, parts of shards are asked for in these ways too.

    async def get_ranges(self, key: str, byte_ranges: Any, **options: Any) -> AsyncIterator[Any]:
        async for group in self._store.get_ranges(key, byte_ranges, **options):
            for _, value in group:
                _count(value)
            yield group

    def get_sync(self, key: str, **options: Any) -> Any:
        value = self._store.get_sync(key, **options)
        _count(value)
        return value


def _count(value: Any) -> None:
    if value is not None:
        fetched(len(value))


class NamedArray(Stored):
    """A Zarr array whose columns have names.

    Parameters
    ----------
    array : zarr.Array
    feature_names : ndarray of str of shape (n_features,), optional
    """

    def __init__(self, array: zarr.Array, feature_names: np.ndarray | None = None) -> None:
        check_shape(array.shape)
        self.array = array
        self.feature_names = feature_names
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)

    def __repr__(self) -> str:
        return f"<NamedArray {self.shape} {self.dtype}, {self.array.store_path}>"

    def source(self, *, transposed: bool = False) -> ZarrSource:
        return ZarrSource(self.array, transposed=transposed)


class ZarrSource(Source):
    """A Zarr array in chunks.

    Parameters
    ----------
    array : zarr.Array
    transposed : bool
        Read it by columns, as the rows of Vᵀ.
    """

    def __init__(self, array: zarr.Array, *, transposed: bool = False) -> None:
        check_shape(array.shape)
        self.in_process = isinstance(array.store, MemoryStore)
        axis = 1 if transposed else 0
        n_rows, n_columns = array.shape[axis], array.shape[1 - axis]
        self.shape = (int(n_rows), int(n_columns))
        self.dtype = np.dtype(array.dtype)
        row_bytes = n_columns * self.dtype.itemsize
        # Inner chunks of a shard can be read on their own; panels begin and end with shards.
        cut = int((array.shards or array.chunks)[axis])
        self.cuts = np.append(np.arange(0, self.shape[0], cut), self.shape[0])
        height = slab_rows(int(array.chunks[axis]), row_bytes)
        self.slab_bytes = min(height, n_rows) * row_bytes
        fast = decoded_fast(array)
        self.reader = ZarrReader(fast or with_meter(array), height, transposed, metered=fast is None)


class ZarrReader(Reader):
    """Reads slabs of whole chunks, one after another."""

    def __init__(self, array: zarr.Array, height: int, transposed: bool, *, metered: bool) -> None:
        self._array = array
        self._metered = metered
        self._height = height
        self._transposed = transposed

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[np.ndarray]:
        for first in range(start, stop, self._height):
            rows = slice(first, min(first + self._height, stop))
            if not self._metered:
                fetched(stored_bytes(self._array, rows, int(self._transposed)))
            along = (slice(None), rows) if self._transposed else (rows, slice(None))
            what = f"rows {rows.start} to {rows.stop - 1} of V at {self._array.store_path}"
            slab = read_patiently(lambda: np.asarray(self._array[along]), what)  # noqa: B023
            yield slab.T if self._transposed else slab


def with_meter(array: zarr.Array) -> zarr.Array:
    """The same array over a store that counts what it fetches."""
    store = MeteredStore(PatientStore(array.store))
    return zarr.open_array(store=store, path=array.path, mode="r", zarr_format=array.metadata.zarr_format)


def open_node(source: Any) -> zarr.Array | zarr.Group:
    """The array or group at a path or URL.

    Raises
    ------
    SourceError
        If nothing can be read there.
    UnavailableError
        If no answer came for a minute.
    """
    try:
        return patiently(lambda: zarr.open(source, mode="r"), repr(str(source)))
    except UnavailableError:
        raise
    except Exception as error:  # every store has exceptions of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{str(source)!r} cannot be opened as Zarr or HDF5 ({reason}); V can be a Zarr array, an "
            "AnnData in Zarr or in an .h5ad file on a disk, or a stack of images in Zarr or GeoTIFF, that "
            "this process can read: check the path, the credentials and that it was written."
        ) from error
