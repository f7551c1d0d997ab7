"""Reads, writes, deletion and lists of the keys of a run's store, with retries.

In a local directory a key appears only once its content is on disk; see `io.atomic`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, StoreLike, StorePath

from dasknmf.errors import RunAccessError, RunError, brief
from dasknmf.io import atomic
from dasknmf.io.credentials import refuse_credentials
from dasknmf.io.retry import of_storage, patiently

T = TypeVar("T")

META = "zarr.json"
"""Name of the metadata document of a Zarr group or array."""


def opened(target: StoreLike, *, read_only: bool = False) -> Store:
    """The Zarr store of a path, an fsspec URL or a store; the first write creates the directory.

    Raises
    ------
    RunError
        If the target is none of these, or a URL with credentials.
    """
    if not isinstance(target, (Store, StorePath, str, os.PathLike)) or not str(target):
        raise RunError(
            f"the place of a run is {target!r}; it must be a path, a URL or a Zarr store: give one."
        )
    refuse_credentials(target, RunError)
    if isinstance(target, Store):
        return target.with_read_only() if read_only and not target.read_only else target
    if isinstance(target, os.PathLike):
        target = os.fspath(target)
    target = str(target).removeprefix("file://")  # a directory has renames and fsync, fsspec has not
    if "://" in target:
        return FsspecStore.from_url(target, read_only=read_only)
    return LocalStore(Path(target).absolute(), read_only=read_only)


def with_retries(store: Store, what: str, done: str, call: Callable[[], T]) -> T:
    """The result of `call` on the store of a run, with retries after transient errors.

    Parameters
    ----------
    store : zarr store
    what : str
        The key.
    done : str
        What `call` does to the key: "read", "written" or "deleted".
    call : callable

    Raises
    ------
    RunAccessError
        If the store refuses the call.
    UnavailableError
        If the store did not answer for a minute, and as long again as its own client retries.
    FileNotFoundError
        If the key to read does not exist.
    """
    try:
        return patiently(call, f"{what!r} of the run at {str(store)!r}")
    except Exception as error:
        if not of_storage(error) or (isinstance(error, FileNotFoundError) and done == "read"):
            raise
        raise RunAccessError(
            f"{what!r} of the run at {str(store)!r} cannot be {done} ({brief(error)}); completed passes are "
            "kept: make room or give permission, then repeat the same call to resume."
        ) from error


def get(store: Store, key: str, most: int) -> bytes | None:
    """The value of a key; None if the key does not exist.

    Raises
    ------
    ValueError
        If the value has more than `most` bytes or is not a regular file; the value is then not read.
    """
    return with_retries(store, key, "read", lambda: get_once(store, key, most))


def get_once(store: Store, key: str, most: int) -> bytes | None:
    """The value of a key as for `get`, in one attempt and with the errors of the store."""
    if isinstance(store, LocalStore):
        _check_file(store.root / key, key, most)
    if type(store) is LocalStore:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (store.root / key).read_bytes()
        return None
    # The request is for one byte more than the limit, which shows whether the value is longer.
    value = sync(store.get(key, default_buffer_prototype(), RangeByteRequest(0, most + 1)))
    if value is not None and len(value) > most:
        raise _too_long(key, most)
    return None if value is None else bytes(value.to_bytes())


def _check_file(path: Path, key: str, most: int) -> None:
    """Raise an error if a file is too long, or is not a regular file: a pipe would never end."""
    try:
        found = path.stat()
    except OSError:
        return  # the read raises it
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{key} is not a file")
    if found.st_size > most:
        raise _too_long(key, most)


def _too_long(key: str, most: int) -> ValueError:
    return ValueError(f"{key} is longer than the limit of {most} bytes")


def put(
    store: Store,
    key: str,
    value: bytes | bytearray,
    *,
    flush_name: bool = True,
    unless: Callable[[], None] | None = None,
) -> None:
    """Write one key atomically: after a power cut it holds the old value or the new one.

    Parameters
    ----------
    store : zarr store
    key : str
    value : bytes or bytearray
    flush_name : bool
        Whether the name of the key is flushed to disk too; otherwise `flush_names` must follow.
    unless : callable, optional
        Called before every attempt; its error prevents the attempt.
    """

    def write() -> None:
        if unless is not None:
            unless()
        if type(store) is LocalStore:
            atomic.write_file(store.root / key, value, flush_name=flush_name)
        else:
            sync(_set(store, key, bytes(value), flush_name))

    with_retries(store, key, "written", write)


async def _set(store: Store, key: str, value: bytes, flush_name: bool) -> None:
    buffer = default_buffer_prototype().buffer.from_bytes(value)
    path = local_path(store, key)
    if path is None:
        await store.set(key, buffer)
        return
    # A directory's own `set` renames before the new content is on disk: after a power cut the new name
    # could be empty. Here the content is on disk first.
    spare = atomic.spare_name(key)
    await store.set(spare, buffer)
    beside = path.with_name(Path(spare).name)
    atomic.flush(beside)
    beside.replace(path)
    if flush_name:
        atomic.flush_names(path.parent)


def put_if_absent(store: Store, key: str, value: bytes) -> None:
    """Write one key unless it exists; the caller reads the key to learn which writer has written it."""
    with_retries(store, key, "written", lambda: sync(_set_if_absent(store, key, value)))


async def _set_if_absent(store: Store, key: str, value: bytes) -> None:
    if isinstance(store, FsspecStore) and not await store.exists(key):
        # Zarr would check again and then write; S3, GCS and Azure create a key only if it does not exist.
        # For other stores the caller reads which writer was last.
        try:
            await store.fs._pipe_file(f"{store.path}/{key}", value, mode="create")
        except FileExistsError:
            pass
        except (TypeError, NotImplementedError):
            await store.set(key, default_buffer_prototype().buffer.from_bytes(value))
        return
    await store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value))


def delete(store: Store, path: str) -> None:
    """Delete everything below `path`; a symbolic link is deleted, and not what it leads to."""
    if not _unlinked(store, path):
        with_retries(store, path, "deleted", lambda: sync(store.delete_dir(path)))


def delete_key(store: Store, key: str) -> None:
    """Delete one key."""
    _unlinked(store, key)
    with_retries(store, key, "deleted", lambda: sync(store.delete(key)))


def _unlinked(store: Store, path: str) -> bool:
    """Delete `path` if it is a symbolic link, and return whether it was.

    Raises
    ------
    RunAccessError
        If the path lies behind a symbolic link.
    """
    root, there = local_path(store, ""), local_path(store, path)
    if root is None or there is None:
        return False
    behind = [each for each in there.parents if each.is_relative_to(root) and each != root]
    if links := [each for each in behind if each.is_symlink()]:
        raise RunAccessError(
            f"{path!r} of the run at {str(store)!r} cannot be deleted, as it lies behind the symbolic link "
            f"{str(links[0])!r}; nothing is deleted through links: move the whole run to the link's target."
        )
    if not there.is_symlink():
        return False
    there.unlink()
    return True


def children(store: Store, path: str) -> list[str]:
    """Names directly below `path`, without Zarr's own metadata."""

    async def listed() -> list[str]:
        if isinstance(store, FsspecStore):
            store.fs.invalidate_cache()  # other processes write, too
        return [name async for name in store.list_dir(path)]

    names = with_retries(store, path, "read", lambda: sync(listed()))
    return sorted({name.rstrip("/") for name in names} - {META})


def local_path(store: Store, key: str) -> Path | None:
    """The file of a key, if the store is a directory of this machine."""
    return Path(store.root) / key if isinstance(store, LocalStore) else None


def flush_names(store: Store, path: str) -> None:
    """Force the names of keys below a path to disk, where the store is a directory."""
    directory = local_path(store, path)
    if directory is not None:
        with_retries(store, path, "written", lambda: atomic.flush_names(directory))
