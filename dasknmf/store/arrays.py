"""Arrays of a run in Zarr format 3, read and written without Zarr; each chunk has a CRC32C.

Any Zarr reader opens these arrays. This module reads only arrays of the kind that it writes: numbers as plain
bytes with a CRC32C. No other codec in an untrusted run is executed; a chunk of another length than declared
is refused unread; a missing chunk is an error, where Zarr would return fill values of any number.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

import google_crc32c
import numpy as np
from msgspec import Meta, Struct
from zarr.abc.store import Store

from dasknmf.errors import RunDamagedError, RunError
from dasknmf.store import keys, schema
from dasknmf.store.convert import converted, shown
from dasknmf.store.records import document, encoded

Shape = tuple[int, ...]

MOST_CHUNK = 2**34
"""Largest chunk in bytes. A panel of W of a thousand columns takes some GiB, as do the states of a sweep."""
_CRC_BYTES = 4


class _Declared(Struct):
    """The fields of a Zarr array document that differ between arrays."""

    shape: schema.Shape
    data_type: Annotated[str, Meta(pattern=r"\A(bool|u?int(8|16|32|64)|float(16|32|64))\Z")]


def create(store: Store, name: str, shape: Shape, chunks: Shape, dtype: np.dtype) -> None:
    """Write the document of an array; `put_chunk` writes its chunks.

    For other readers of Zarr missing chunks are NaN, or -1 for integers. All keys are in one directory.
    """
    keys.put(store, f"{name}/{keys.META}", encoded(_document_of(shape, chunks, dtype)))


def _document_of(shape: Shape, chunks: Shape, dtype: np.dtype) -> dict[str, Any]:
    fill: Any = {"f": "NaN", "i": -1}.get(dtype.kind, False if dtype.kind == "b" else 0)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "attributes": {},
    }


def write_array(store: Store, name: str, values: np.ndarray) -> None:
    """Write a whole array as one chunk with a CRC32C, durably."""
    create(store, name, values.shape, values.shape, values.dtype)
    put_chunk(store, _chunk(name, values.ndim), values.dtype, values.shape, values)
    keys.flush_names(store, name)


def read_array(store: Store, name: str) -> np.ndarray:
    """An array that `write_array` wrote.

    Raises
    ------
    RunDamagedError
        If the array is missing or altered.
    """
    try:
        found = document(store, name)
        if found is None:
            raise ValueError("it is missing")
        declared = converted(found, _Declared)
        shape, dtype = declared.shape, np.dtype(declared.data_type)
        written = _document_of(shape, shape, dtype)
        for key in sorted(found.keys() | written.keys()):
            if found.get(key) != written.get(key):
                raise ValueError(
                    f"its {key} is {shown(found.get(key))}, and must be {shown(written.get(key))}"
                )
        return get_chunk(store, _chunk(name, len(shape)), dtype, shape)
    except ValueError as error:
        raise damaged(store, name, str(error)) from error


def put_chunk(store: Store, key: str, dtype: np.dtype, shape: Shape, values: np.ndarray) -> None:
    """Write a chunk of an array made by `create`: little-endian values and their CRC32C.

    The names of chunks are on disk only after `keys.flush_names`.

    Parameters
    ----------
    store : zarr store
    key : str
    dtype, shape
        Dtype and shape of the chunk.
    values : ndarray
        The first values along each axis; the rest of the chunk is zero.

    Raises
    ------
    RunError
        If the chunk is larger than `MOST_CHUNK`.
    """
    size = prod(shape)
    nbytes = size * dtype.itemsize
    if nbytes > MOST_CHUNK:
        raise RunError(
            f"{key!r} of the run at {str(store)!r} would have {nbytes} bytes, more than the limit of "
            f"{MOST_CHUNK}: fit fewer components at once, or store V in smaller chunks."
        )
    content = bytearray(nbytes + _CRC_BYTES)
    whole = np.frombuffer(content, dtype.newbyteorder("<"), size).reshape(shape)
    whole[tuple(map(slice, values.shape))] = values
    content[nbytes:] = _checksum(content, nbytes)
    keys.put(store, key, content, flush_name=False)


def get_chunk(store: Store, key: str, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """The values of a chunk that `put_chunk` wrote.

    Raises
    ------
    ValueError
        If the chunk is missing or altered.
    """
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > MOST_CHUNK:
        raise ValueError(f"its chunk has {nbytes} bytes, more than the limit of {MOST_CHUNK}")
    raw = keys.get(store, key, nbytes + _CRC_BYTES)
    if raw is None:
        raise ValueError("its chunk is missing")
    if len(raw) != nbytes + _CRC_BYTES:
        raise ValueError(f"its chunk has {len(raw)} bytes, not {nbytes + _CRC_BYTES}")
    found = _checksum(raw, nbytes)
    if found != raw[nbytes:]:
        raise ValueError(f"its checksum is {found.hex()}, not {raw[nbytes:].hex()}")
    return np.frombuffer(raw, dtype.newbyteorder("<"), prod(shape)).astype(dtype).reshape(shape)


def damaged(store: Store, name: str, reason: str) -> RunDamagedError:
    return RunDamagedError(
        f"{name!r} of the run at {str(store)!r} is damaged ({reason}); a damaged run cannot be resumed: "
        "restore the store from a copy, or start over with overwrite=True."
    )


def _checksum(content: bytes | bytearray, nbytes: int) -> bytes:
    return int(google_crc32c.value(np.frombuffer(content, np.uint8, nbytes))).to_bytes(_CRC_BYTES, "little")


def _chunk(name: str, ndim: int) -> str:
    """The key of the only chunk of an array."""
    return f"{name}/c." + ".".join("0" * ndim)
