"""Differences between the problem of a stored run and that of a fit, in words of the parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins

from dasknmf.errors import RunMismatchError
from dasknmf.store import records
from dasknmf.store.convert import parsed
from dasknmf.store.schema import Identity

_SHOWN = {
    "X_in_memory": "X in memory",
    "transposed": "V read by columns",
    "entries.nan": "missing_values",
    "entries.nodata": "missing value",
    "entries.scale": "scale factor",
    "entries.offset": "offset",
    "entries.negatives": "negatives",
    "entries.holdout": "holdout",
    "layout.samples": "sample dims",
    "layout.features": "feature dims",
    "many.ranks": "ranks",
    "many.n_init": "starts of each rank",
    "many.method": "method",
    "many.consensus": "consensus",
}
"""Names in messages of some fields of an identity."""
_NESTED = ("preparation", "before", "entries", "layout", "many")
_DIGEST = re.compile(r"([0-9]+ values, )?[0-9a-f]{16}\Z")


def check_identity(stored: Identity, given: Identity, where: str) -> None:
    """Raise an error if a run has another V or another model.

    Raises
    ------
    RunMismatchError
    """
    # Without a random_state the run keeps the seed that was drawn.
    free = {"random_state"} if given.model.random_state is None else set()
    was, now = (parsed(records.encoded(to_builtins(each))) for each in (stored, given))
    found = differences(was.pop("model"), now.pop("model"), free) + differences(was, now, {"seed"})
    if found:
        raise RunMismatchError(
            f"the run at {where!r} has another V or another model: {'; '.join(found)}. A run can be "
            "resumed only with the same V and the same model: give these, choose another checkpoint, or "
            "start over with overwrite=True."
        )


def differences(was: Mapping[str, Any], now: Mapping[str, Any], free: set[str]) -> list[str]:
    """A line for each field that differs; fields of nested records by their own names."""
    was, now = _flat(was), _flat(now)
    return [
        f"{_named(name)}: {_pair(was.get(name), now.get(name))}"
        for name in sorted((was.keys() | now.keys()) - free)
        if not _are_equal(name, was.get(name), now.get(name))
    ]


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a record and of its nested records, without those that are not set."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name in _NESTED and isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = "nan" if name == "nan" else value
    return found


def _are_equal(name: str, was: Any, now: Any) -> bool:
    """Whether two values of a field are equal; in nested records None equals False, too."""
    undone = (None, False) if "." in name else ()
    return was == now or (any(was is each for each in undone) and any(now is each for each in undone))


def _named(name: str) -> str:
    if name.startswith("preparation."):
        *before, step = name.removeprefix("preparation.").split(".")
        return f"{step} of {'the inner ' if before else ''}Prepared"
    return _SHOWN.get(name, name)


def _pair(was: Any, now: Any) -> str:
    if all(value is None or (isinstance(value, str) and _DIGEST.match(value)) for value in (was, now)):
        if was is None:
            return "not set in the run, given now"
        return "given in the run, not set now" if now is None else "other values in the run than now"
    return f"{_value(was)} in the run, {_value(now)} now"


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return repr(value)
