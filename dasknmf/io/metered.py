"""metered."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import zarr
from zarr.storage import WrapperStore

from dasknmf.errors import SourceError, UnavailableError
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.retry import PatientStore, patiently


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
    refuse_credentials(source, SourceError)
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
