"""Records: small JSON documents with a checksum, each replaced by one atomic put.

A record is the attributes of a Zarr group: one key, ``<path>/zarr.json``, which every store
replaces as a whole, and which any Zarr reader can look at.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dasknmf.errors import DaskNMFError, RunAccessError, RunDamagedError
from dasknmf.patience import brief, patiently, refused

T = TypeVar("T")

_META = "zarr.json"
_FILL = -1
"""What a missing chunk of integers reads as."""
SPARE = ".spare"
"""Ends the name of a key whose content is not yet on disk."""


def write(store: Any, path: str, content: dict[str, Any]) -> None:
    """Replace the record at `path`."""
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"record": content, "crc32": _checksum(content)},
    }
    key = f"{path}/{_META}"
    put(store, key, encoded(document))


def read(store: Any, path: str) -> dict[str, Any] | None:
    """The record at `path`, or None if there is none.

    Raises
    ------
    RunDamagedError
        If what stands there is not a record as it was written.
    """
    raw = get(store, f"{path}/{_META}")
    if raw is None:
        return None
    try:
        attributes = decoded(raw)["attributes"]
        content, checksum = attributes["record"], attributes["crc32"]
        if _checksum(content) != checksum:
            raise ValueError(f"its checksum is {_checksum(content)}, not {checksum}")
    except (ValueError, KeyError, TypeError) as error:
        raise RunDamagedError(
            f"the record {path!r} of the run at {str(store)!r} is damaged ({error}); a run goes on only "
            "from a sound record: restore the store from a copy, or start over with overwrite=True."
        ) from error
    return dict(content)


def put(store: Any, key: str, value: bytes) -> None:
    """Write one key as a whole: after a power cut there is the old value or the new one."""
    reached(store, key, "written", lambda: sync(_set(store, key, value)))


async def _set(store: Any, key: str, value: bytes) -> None:
    buffer = default_buffer_prototype().buffer.from_bytes(value)
    path = local_path(store, key)
    if path is None:
        await store.set(key, buffer)
        return
    # A directory's own `set` renames before the new content is on disk: a power cut could keep the
    # new name with nothing behind it. Here the content goes first.
    spare = f"{key}.{uuid.uuid4().hex}{SPARE}"
    await store.set(spare, buffer)
    _fsync(path.with_name(Path(spare).name), os.O_RDONLY)
    path.with_name(Path(spare).name).replace(path)
    _fsync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def put_if_absent(store: Any, key: str, value: bytes) -> None:
    """Write one key unless it exists; who won is told by reading it back."""
    buffer = default_buffer_prototype().buffer.from_bytes(value)
    reached(store, key, "written", lambda: sync(store.set_if_not_exists(key, buffer)))


def reached(store: Any, what: str, done: str, call: Callable[[], T]) -> T:
    """What `call` makes of the store of a run, asked again where the store fails for a moment.

    Parameters
    ----------
    store : zarr store
    what : str
        The key.
    done : str
        What `call` does to it: "read" or "written".
    call : callable

    Raises
    ------
    RunAccessError
        If the store refuses; that committed is not lost, and which run it was, is said.
    UnavailableError
        If it did not answer for a minute.
    FileNotFoundError
        If there is nothing to read.
    """
    try:
        return patiently(call, f"{what!r} of the run at {str(store)!r}")
    except Exception as error:
        if not refused(error) or (isinstance(error, FileNotFoundError) and done == "read"):
            raise
        raise RunAccessError(
            f"{what!r} of the run at {str(store)!r} cannot be {done} ({brief(error)}); the last commit "
            "stands: make room or give permission, then start the same fit again, it goes on from there."
        ) from error


def get(store: Any, key: str) -> bytes | None:
    """The value of one key."""
    value = reached(store, key, "read", lambda: sync(store.get(key, default_buffer_prototype())))
    return None if value is None else bytes(value.to_bytes())


def delete(store: Any, path: str) -> None:
    """Delete everything below `path`."""
    reached(store, path, "deleted", lambda: sync(store.delete_dir(path)))


def delete_key(store: Any, key: str) -> None:
    """Delete one key."""
    reached(store, key, "deleted", lambda: sync(store.delete(key)))


def children(store: Any, path: str) -> list[str]:
    """Names directly below `path`, without Zarr's own metadata."""

    async def listed() -> list[str]:
        return [name async for name in store.list_dir(path)]

    names = reached(store, path, "read", lambda: sync(listed()))
    return sorted({name.rstrip("/") for name in names} - {_META})


def opened(target: Any, *, read_only: bool = False) -> Any:
    """The Zarr store of a path, an fsspec URL or a store."""
    if isinstance(target, Store):
        return target.with_read_only() if read_only and not target.read_only else target
    if isinstance(target, os.PathLike):
        target = os.fspath(target)
    target = str(target).removeprefix("file://")  # a directory has renames and fsync, fsspec has not
    if "://" in target:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(target, read_only=read_only)
    return sync(LocalStore.open(Path(target).absolute(), read_only=read_only))


def local_path(store: Any, key: str) -> Path | None:
    """Where a key lies on this machine's file system, for stores that are directories."""
    return Path(store.root) / key if isinstance(store, LocalStore) else None


def make_durable(store: Any, key: str) -> None:
    """Flush one key to disk, where the store is a directory.

    Without it a power cut can leave a commit record that names factors which never reached the
    disk. Object stores acknowledge a put only when it is durable.
    """
    path = local_path(store, key)
    if path is not None:
        _fsync(path, os.O_RDONLY)


def make_directories_durable(store: Any, paths: list[str]) -> None:
    """Flush the names below some paths to disk: those of the files, and of directories one below."""
    for name in paths:
        path = local_path(store, name)
        if path is not None and path.is_dir():
            for each in (path, *(below for below in path.iterdir() if name and below.is_dir())):
                _fsync(each, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_array(store: Any, name: str, values: np.ndarray) -> None:
    """Write a whole array as one chunk with a CRC32C, durably."""
    array = create_array(store, name, values.shape, values.shape, values.dtype)

    def write() -> None:
        array[...] = values
        make_durable(store, _chunk(name, values.ndim))
        make_directories_durable(store, [name])

    reached(store, name, "written", write)


def _chunk(name: str, ndim: int) -> str:
    """The one key that holds all values."""
    return f"{name}/c." + ".".join("0" * ndim)


def create_array(
    store: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype
) -> zarr.Array:
    """An array whose chunks carry a CRC32C, and in which a missing chunk of floats reads as NaN.

    Chunks of zeros are written like any other. All keys of an array are in one directory.
    """

    def create() -> zarr.Array:
        array = zarr.create_array(
            store,
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=np.nan if dtype.kind == "f" else _FILL,
            filters=None,
            compressors=(Crc32cCodec(),),
            config={"write_empty_chunks": True},
            chunk_key_encoding={"name": "default", "separator": "."},
            overwrite=True,
        )
        make_durable(store, f"{name}/{_META}")
        return array

    return reached(store, name, "written", create)


def read_array(store: Any, name: str) -> np.ndarray:
    """An array that `write_array` wrote.

    Raises
    ------
    RunDamagedError
        If it is missing or altered.
    """

    def read_whole() -> tuple[np.ndarray, bool]:
        array = zarr.open_array(store, path=name, mode="r")
        key = f"{name}/{array.metadata.encode_chunk_key((0,) * array.ndim)}"
        return np.asarray(array[...]), array.shape == array.chunks and key == _chunk(name, array.ndim)

    try:
        values, whole = reached(store, name, "read", read_whole)
    except Exception as error:  # what is damaged raises whatever comes of it
        if isinstance(error, DaskNMFError):
            raise
        raise _damaged_array(store, name, brief(error)) from error
    if not whole:
        raise _damaged_array(store, name, "its metadata do not describe one chunk")
    # Of a chunk that is missing Zarr makes the fill value, which may also stand for what is not known.
    suspect = np.isnan(values) if values.dtype.kind == "f" else values == _FILL
    if suspect.any() and get(store, _chunk(name, values.ndim)) is None:
        raise _damaged_array(store, name, "a chunk is missing")
    return values


def _damaged_array(store: Any, name: str, reason: str) -> RunDamagedError:
    return RunDamagedError(
        f"{name!r} of the run at {str(store)!r} cannot be read ({reason}); it must be as it was written: "
        "restore the store from a copy, or start over with overwrite=True."
    )


def encoded(document: dict[str, Any]) -> bytes:
    """A Zarr metadata document as bytes."""
    return json.dumps(document, indent=2).encode()


def decoded(raw: bytes) -> dict[str, Any]:
    """The inverse of `encoded`."""
    return dict(json.loads(raw))


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
