"""Records: small JSON documents with a checksum, each replaced by one atomic put.

A record is stored as the attributes of a Zarr group: one key, ``<path>/zarr.json``, which every store
replaces as a whole and any Zarr reader can read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct, to_builtins
from zarr.abc.store import Store

from dasknmf.errors import RunDamagedError, RunError
from dasknmf.store import keys
from dasknmf.store.convert import converted, parsed

T = TypeVar("T")

MOST_DOCUMENT = 2**26
"""Largest document in bytes. Names of features take the most, up to 16 MiB before indentation; the states of
a thousand models take some 5 MiB. A parsed document may take twenty times as much memory."""


class _Attributes(Struct):
    record: dict[str, Any]
    crc32: int


class _Document(Struct):
    attributes: _Attributes


def write_record(
    store: Store, path: str, record: object, *, unless: Callable[[], None] | None = None
) -> None:
    """Replace the record at `path` by a struct of `schema` or a dataclass; `unless` as of `keys.put`."""
    content = plain(record)
    attributes = {"record": content, "crc32": _checksum(content)}
    value = encoded({"zarr_format": 3, "node_type": "group", "attributes": attributes})
    if len(value) > MOST_DOCUMENT:
        raise RunError(
            f"the record {path!r} of the run at {str(store)!r} would have {len(value)} bytes, more than the "
            f"limit of {MOST_DOCUMENT}: fit fewer models at once, or shorten the names of features."
        )
    keys.put(store, f"{path}/{keys.META}", value, unless=unless)


def plain(value: object) -> Any:
    """A struct, a dataclass or a dict as JSON values; NumPy's numbers as Python's."""
    return to_builtins(value, str_keys=True, enc_hook=_python_number)


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be stored in a record")


def read_record(store: Store, path: str, kind: type[T]) -> T | None:
    """The record at `path`, or None if there is none.

    Parameters
    ----------
    store : zarr store
    path : str
    kind : type
        A struct of `schema`.

    Raises
    ------
    RunDamagedError
        If the record is altered.
    """
    try:
        raw = keys.get(store, f"{path}/{keys.META}", MOST_DOCUMENT)
    except ValueError as error:
        raise damaged(store, path, str(error)) from error
    return None if raw is None else decoded(store, path, raw, kind)


def needed_record(store: Store, path: str, kind: type[T]) -> T:
    """The record at `path`, without which the run is damaged; see `read_record`."""
    record = read_record(store, path, kind)
    if record is None:
        raise damaged(store, path, "it is missing")
    return record


def decoded(store: Store, path: str, raw: bytes, kind: type[T]) -> T:
    """The record in the document of a path; see `read_record`."""
    try:
        attributes = converted(parsed(raw), _Document).attributes
        if (checksum := _checksum(attributes.record)) != attributes.crc32:
            raise ValueError(f"its checksum is {checksum}, not {attributes.crc32}")
        return converted(attributes.record, kind)
    except ValueError as error:
        raise damaged(store, path, str(error)) from error


def document(store: Store, path: str) -> dict[str, Any] | None:
    """Zarr's document at a path, or None if there is none.

    Raises
    ------
    ValueError
        If the document is not a JSON object, nested too deep, or longer than `MOST_DOCUMENT`.
    """
    raw = keys.get(store, f"{path}/{keys.META}".lstrip("/"), MOST_DOCUMENT)
    return None if raw is None else parsed(raw)


def damaged(store: Store, path: str, reason: str) -> RunDamagedError:
    """The error for a damaged record."""
    return RunDamagedError(
        f"the record {path!r} of the run at {str(store)!r} is damaged ({reason}); a damaged run cannot be "
        "resumed: restore the store from a copy, or start over with overwrite=True."
    )


def encoded(document: dict[str, Any]) -> bytes:
    """A Zarr metadata document as bytes."""
    return json.dumps(document, indent=2).encode()


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
