"""JSON documents of a run, decoded to structs, with the place and the cause of an error in one line."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_MOST_LEVELS = 32
"""Largest depth of nested lists and objects; each preparation before a preparation adds one level."""
_STEP = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])")


def parsed(raw: bytes) -> dict[str, Any]:
    """A JSON object with unique names, integers of at most 64 bits, and limited nesting.

    Raises
    ------
    ValueError
        If the bytes hold anything else.
    """
    try:
        found = json.loads(raw, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    level: list[Any] = [found]
    for _ in range(_MOST_LEVELS):
        if any(isinstance(each, int) and abs(each) >= 2**64 for each in level):
            raise ValueError("it has an integer of more than 64 bits")
        parts = (each.values() if isinstance(each, dict) else each for each in level if _is_nested(each))
        level = [part for own in parts for part in own]
        if not level:
            return found
    raise ValueError("it is nested too deeply")


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a name twice")
    return found


def converted(value: Any, kind: type[T]) -> T:
    """JSON values as a struct.

    Raises
    ------
    ValueError
        If values do not conform to the types of the struct.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), value)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _explained(message: str, value: Any) -> str:
    """The message of msgspec as text with the place, the value and the rule."""
    rule, _, path = message.partition(" - at `")
    place = ""
    for name, index, any_name in _STEP.findall(path.partition("$")[2]):
        if any_name and len(value) > 1:
            place, value = f"{place}[...]", "…"
            break
        step = next(iter(value)) if any_name else name or int(index)
        value = value[step]
        place += f"[{step}]" if isinstance(step, int) else f".{step[:60]}"
    rule = rule[:1].lower() + rule[1:]
    return " ".join(f"{place.lstrip('.') or 'it'} is {shown(value)}: {rule}".split())


def shown(value: Any) -> str:
    """The representation of a value in a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
