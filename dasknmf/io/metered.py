"""Bytes that reads fetch from stores, counted for the task that reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from dasknmf.errors import SourceError, UnavailableError
from dasknmf.io.counts import count
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.retry import awaited_patiently, patiently, read_patiently


class SourceStore(WrapperStore[Any]):
    """A store of V: reads are repeated after transient errors, and their bytes counted."""

    @property
    def directory(self) -> Path | None:
        """The directory of a store of files; None for other stores."""
        return self._store.root if type(self._store) is LocalStore else None

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        what = self._what(key)
        return _counted(await awaited_patiently(lambda: self._store.get(key, prototype, byte_range), what))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(map(_counted, await super().get_partial_values(prototype, key_ranges)))

    # Zarr 3.3 and later read parts of shards by these methods.

    async def get_ranges(self, key: str, byte_ranges: Any, **options: Any) -> AsyncIterator[Any]:
        ranges = list(byte_ranges)

        async def groups() -> list[Any]:
            return [group async for group in self._store.get_ranges(key, ranges, **options)]

        for group in await awaited_patiently(groups, self._what(key)):
            for _, value in group:
                _counted(value)
            yield group

    def get_sync(self, key: str, **options: Any) -> Buffer | None:
        return _counted(read_patiently(lambda: self._store.get_sync(key, **options), self._what(key)))

    def _what(self, key: str) -> str:
        return f"{key!r} of {str(self._store)!r}"


def _counted(value: Buffer | None) -> Buffer | None:
    if value is not None:
        count(nbytes=len(value))
    return value


def open_node(source: Any) -> zarr.Array | zarr.Group:
    """The array or group at a path or URL.

    Raises
    ------
    SourceError
        If nothing can be read there.
    UnavailableError
        If errors are still transient after a minute.
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
            "AnnData in Zarr or in an .h5ad file on a disk, or a stack of images in Zarr or GeoTIFF: check "
            "that the path exists and can be read with your permissions and credentials."
        ) from error
