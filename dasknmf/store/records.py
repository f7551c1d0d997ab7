"""Records: small JSON documents with a checksum, each replaced by one atomic put.

A record is the attributes of a Zarr group: one key, ``<path>/zarr.json``, which every store
replaces as a whole, and which any Zarr reader can look at.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from dasknmf.errors import RunDamagedError, RunError
from dasknmf.store import keys
from dasknmf.store.json_checks import Check, fields, integer

MOST_DOCUMENT = 2**26
"""Bytes. The largest that are written are names of features, at most 16 MiB of them before they are indented;
the states of a thousand models take some 5 MiB. Parsed, a document may take twenty times as much."""


def write(
    store: Any, path: str, content: dict[str, Any], *, unless: Callable[[], None] | None = None
) -> None:
    """Replace the record at `path`; `unless` as of `keys.put`."""
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"record": content, "crc32": _checksum(content)},
    }
    value = encoded(document)
    if len(value) > MOST_DOCUMENT:
        raise RunError(
            f"the record {path!r} of the run at {str(store)!r} would have {len(value)} bytes, and at most "
            f"{MOST_DOCUMENT} are read again: fit fewer models at once, or V with shorter names."
        )
    keys.put(store, f"{path}/{keys.META}", value, unless=unless)


_DOCUMENT = fields({"attributes": fields({"record": fields({}), "crc32": integer()})})


def read(store: Any, path: str, check: Check) -> dict[str, Any] | None:
    """The record at `path`, or None if there is none.

    Parameters
    ----------
    store : zarr store
    path : str
    check : callable
        Of `schema`: what may stand in it, whoever has written it.

    Raises
    ------
    RunDamagedError
        If what stands there is not a record as it was written.
    """
    try:
        raw = keys.get(store, f"{path}/{keys.META}", MOST_DOCUMENT)
    except ValueError as error:
        raise damaged(store, path, str(error)) from error
    return None if raw is None else content(store, path, raw, check)


def content(store: Any, path: str, raw: bytes, check: Check) -> dict[str, Any]:
    """The record that a document holds; see `read`."""
    try:
        about = parsed(raw)
        _DOCUMENT(about)
        record, checksum = about["attributes"]["record"], about["attributes"]["crc32"]
        if _checksum(record) != checksum:
            raise ValueError(f"its checksum is {_checksum(record)}, not {checksum}")
        check(record)
    except ValueError as error:
        raise damaged(store, path, str(error)) from error
    return dict(record)


def document(store: Any, path: str) -> dict[str, Any] | None:
    """Zarr's document at a path, or None if there is none.

    Raises
    ------
    ValueError
        If it is no JSON object, too deep to be read, or longer than any that is written.
    """
    raw = keys.get(store, f"{path}/{keys.META}".lstrip("/"), MOST_DOCUMENT)
    return None if raw is None else parsed(raw)


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


def damaged(store: Any, path: str, reason: str) -> RunDamagedError:
    """What is raised of a record that cannot be believed."""
    return RunDamagedError(
        f"the record {path!r} of the run at {str(store)!r} is damaged ({reason}); a run goes on only "
        "from a sound record: restore the store from a copy, or start over with overwrite=True."
    )


def encoded(document: dict[str, Any]) -> bytes:
    """A Zarr metadata document as bytes."""
    return json.dumps(document, indent=2).encode()


def _checksum(content: Any) -> int:
    try:
        return zlib.crc32(json.dumps(content, sort_keys=True).encode())
    except RecursionError as error:
        raise ValueError("it is too deep to be read") from error


class Told(dict[str, Any]):
    """Values by name; one that is missing, and was asked for, is damage.

    Parameters
    ----------
    what : str
        Where they come from, for messages.
    values : dict, optional
    """

    def __init__(self, what: str, values: dict[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self._what = what

    def __missing__(self, name: str) -> Any:
        raise RunDamagedError(
            f"{self._what} has no {name!r}; it must be as it was written: restore the store from a copy, or "
            "start over with overwrite=True."
        )

    def __reduce__(self) -> Any:
        return Told, (self._what, dict(self))
