"""Reads of a run store that take no more than they may, whoever has written it.

A store may come from a stranger: a document is read up to a limit, an array is opened from a document that
says what this package writes (Zarr format 3, numbers, plain bytes with a CRC32C) and nothing else, so that no
other codec is ever run, and a value is as long as its document says or refused. What is missing is an error:
Zarr would fill its place, however large.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath, WrapperStore

from dasknmf.store.schema import (
    boolean,
    either,
    fields,
    integer,
    items,
    nothing,
    number,
    one_of,
    row,
    size_of,
)

MOST_DOCUMENT = 2**26
"""Bytes. The largest that are written are names of features, at most 16 MiB of them before they are indented;
the states of a thousand models take some 5 MiB. Parsed, a document may take twenty times as much."""
MOST_CHUNK = 2**34
"""Bytes. A panel of W of a thousand columns has up to some GiB, and so have the H of a sweep, which stand
behind each other in one chunk."""
_CRC_BYTES = 4
_META = "zarr.json"

Shape = tuple[int, ...]


def _only(needed: dict[str, Any], optional: dict[str, Any] | None = None) -> Callable[[Any], None]:
    return fields(needed, optional, nothing)


_LENGTHS = items(integer(), most=8)
_ARRAY = _only(
    {
        "zarr_format": one_of(3),
        "node_type": one_of("array"),
        "shape": _LENGTHS,
        "data_type": one_of(
            "bool",
            *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
            *(f"float{bits}" for bits in (16, 32, 64)),
        ),
        "chunk_grid": _only({"name": one_of("regular"), "configuration": _only({"chunk_shape": _LENGTHS})}),
        "chunk_key_encoding": _only(
            {"name": one_of("default"), "configuration": _only({"separator": one_of(".")})}
        ),
        "fill_value": either(one_of("NaN"), boolean, number),
        "codecs": row(
            _only(
                {"name": one_of("bytes")}, {"configuration": _only({}, {"endian": one_of("little", "big")})}
            ),
            _only({"name": one_of("crc32c")}, {"configuration": _only({})}),
        ),
    },
    {
        "attributes": _only({}),
        "storage_transformers": items(nothing, most=0),
        "dimension_names": one_of(None),
    },
)


class BoundedStore(WrapperStore[Any]):
    """A store whose values are no longer than `most`, and there.

    Raises
    ------
    FileNotFoundError
        For a key that is not there.
    ValueError
        For a value that is longer, or no file.
    """

    def __init__(self, store: Any, most: int) -> None:
        super().__init__(store)
        self._most = most

    def _with_store(self, store: Any) -> BoundedStore:
        return type(self)(store, self._most)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        _check_file(self._store, key, self._most)
        # One byte more than there may be tells a longer value, and needs no question of its own.
        value = await self._store.get(key, prototype, byte_range or RangeByteRequest(0, self._most + 1))
        if value is None:
            raise FileNotFoundError("its chunk is missing")
        if len(value) > self._most:
            raise _too_long(key, self._most)
        return value

    def get_sync(self, key: str, **options: Any) -> Any:
        return sync(self.get(key, options.get("prototype") or default_buffer_prototype()))


def _check_file(store: Any, key: str, most: int) -> None:
    """Of a directory, what stands there is told without being read: a pipe would never end."""
    if not isinstance(store, LocalStore):
        return
    try:
        found = os.stat(Path(store.root) / key)
    except OSError:
        return  # told by whoever reads it
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{key} is no file")
    if found.st_size > most:
        raise _too_long(key, most)


def _too_long(key: str, most: int) -> ValueError:
    return ValueError(f"{key} is longer than the {most} bytes that it may have")


async def value(store: Any, key: str, most: int = MOST_DOCUMENT) -> Any:
    """The value of a key as a buffer, or None.

    Raises
    ------
    ValueError
        If it is longer than it may be.
    """
    try:
        return await BoundedStore(store, most).get(key, default_buffer_prototype())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def parsed(raw: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises
    ------
    ValueError
        If it is none, or too deep to be read.
    """
    try:
        found = json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is too deep to be read") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def array(store: Any, name: str, is_expected: Callable[[Shape, Shape, np.dtype], bool]) -> zarr.Array:
    """An array that this package wrote, checked before anything of it is read.

    Parameters
    ----------
    store : zarr store
    name : str
    is_expected : callable
        Told the shape, the chunks and the dtype.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is another.
    """
    found = sync(value(store, f"{name}/{_META}"))
    if found is None:
        raise FileNotFoundError("it is missing")
    document = parsed(found.to_bytes())
    _ARRAY(document)
    shape, chunks = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(document["data_type"])
    nbytes = size_of(chunks) * dtype.itemsize
    if len(shape) != len(chunks) or not is_expected(tuple(shape), tuple(chunks), dtype):
        raise ValueError(f"its shape is {shape} in chunks of {chunks}, of {dtype}, as no array of this run")
    if nbytes > MOST_CHUNK:
        raise ValueError(f"its chunks have {nbytes} bytes, and at most {MOST_CHUNK} may be asked for")
    bounded = BoundedStore(store, nbytes + _CRC_BYTES)
    return zarr.Array.from_dict(StorePath(bounded, name), document)


def is_whole(shape: Shape, chunks: Shape, dtype: np.dtype) -> bool:
    """Whether an array is one chunk."""
    return shape == chunks
