"""Arrays of a run: Zarr format 3, each chunk with a CRC32C, written and read by hand.

Any Zarr reader opens them. Read here is only what is written here (numbers, plain bytes, a CRC32C), so that
of a stranger's run no other codec is ever run; a chunk is as long as its array says, or refused unread; and
one that is missing is an error, where Zarr would fill its place, however large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from dasknmf.errors import RunDamagedError
from dasknmf.store import keys
from dasknmf.store.records import document
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

MOST_CHUNK = 2**34
"""Bytes. A panel of W of a thousand columns has up to some GiB, and so have the H of a sweep, which stand
behind each other in one chunk."""
_CRC_BYTES = 4


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
            _only({"name": one_of("bytes")}, {"configuration": _only({}, {"endian": one_of("little")})}),
            _only({"name": one_of("crc32c")}, {"configuration": _only({})}),
        ),
    },
    {
        "attributes": _only({}),
        "storage_transformers": items(nothing, most=0),
        "dimension_names": one_of(None),
    },
)


def create(
    store: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype
) -> zarr.Array:
    """An array whose chunks carry a CRC32C, and in which a missing chunk of floats reads as NaN.

    Chunks of zeros are written like any other. All keys of an array are in one directory.
    """

    def created() -> zarr.Array:
        array = zarr.create_array(
            store,
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=np.nan if dtype.kind == "f" else -1,
            filters=None,
            compressors=(Crc32cCodec(),),
            config={"write_empty_chunks": True},
            chunk_key_encoding={"name": "default", "separator": "."},
            overwrite=True,
        )
        keys.make_durable(store, f"{name}/{keys.META}")
        return array

    return keys.reached(store, name, "written", created)


def write(store: Any, name: str, values: np.ndarray) -> None:
    """Write a whole array as one chunk with a CRC32C, durably."""
    array = create(store, name, values.shape, values.shape, values.dtype)
    put_chunk(store, _chunk(name, values.ndim), array.dtype, values)
    keys.make_directories_durable(store, [name])


def read(store: Any, name: str) -> np.ndarray:
    """An array that `write` wrote.

    Raises
    ------
    RunDamagedError
        If it is missing or altered.
    """
    try:
        about = document(store, name)
        if about is None:
            raise ValueError("it is missing")
        _ARRAY(about)
        shape, chunks = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
        if shape != chunks:
            raise ValueError(f"its shape is {shape} in chunks of {chunks}, and must be one chunk")
        return get_chunk(store, _chunk(name, len(shape)), np.dtype(about["data_type"]), tuple(shape))
    except ValueError as error:
        raise damaged(store, name, str(error)) from error


def put_chunk(store: Any, key: str, dtype: np.dtype, values: np.ndarray) -> None:
    """Write a chunk of an array of `create`: its values, little-endian, and their CRC32C.

    By hand, since Zarr's own way is many times slower while other threads compute; see `files`. The names of
    chunks are made durable by `keys.make_directories_durable`.
    """
    content = np.ascontiguousarray(values, dtype.newbyteorder("<")).tobytes()
    keys.put(
        store, key, content + google_crc32c.value(content).to_bytes(_CRC_BYTES, "little"), name_too=False
    )


def get_chunk(store: Any, key: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """What `put_chunk` wrote.

    Raises
    ------
    ValueError
        If it is missing, or not as it was written.
    """
    nbytes = size_of(shape) * dtype.itemsize
    if nbytes > MOST_CHUNK:
        raise ValueError(f"its chunk has {nbytes} bytes, and at most {MOST_CHUNK} may be asked for")
    raw = keys.get(store, key, nbytes + _CRC_BYTES)
    if raw is None:
        raise ValueError("its chunk is missing")
    if len(raw) != nbytes + _CRC_BYTES:
        raise ValueError(f"its chunk has {len(raw)} bytes, not {nbytes + _CRC_BYTES}")
    content = raw[:nbytes]
    found = google_crc32c.value(content).to_bytes(_CRC_BYTES, "little")
    if found != raw[nbytes:]:
        raise ValueError(f"its checksum is {found.hex()}, not {raw[nbytes:].hex()}")
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def damaged(store: Any, name: str, reason: str) -> RunDamagedError:
    return RunDamagedError(
        f"{name!r} of the run at {str(store)!r} cannot be read ({reason}); it must be as it was written: "
        "restore the store from a copy, or start over with overwrite=True."
    )


def _chunk(name: str, ndim: int) -> str:
    """The one key that holds all values."""
    return f"{name}/c." + ".".join("0" * ndim)
