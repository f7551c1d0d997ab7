"""What records may hold: checked once, where they are read, so that nobody behind has to doubt them.

A run store may come from a stranger. A check takes a JSON value and raises `Unlike`, which says where in the
record what stands that this package does not write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

Check = Callable[[Any], None]

MOST_MODELS = 2**16
"""Of one run: a sweep has hundreds, and each costs a state in memory."""
MOST_PANELS = 2**20
"""Of one run: at 128 MiB of V and more in each, 128 TiB of it."""
MOST_COMPONENTS = 2**20
MOST_LENGTH = 2**48
"""Of an axis, and of counts: sums and products with the size of an entry stay in 64 bits."""
_MOST_TEXT = 2**16
_DEEPEST = 24
"""Of values that are passed on unread; the options of a preparation before a preparation nest twice each."""

TOKEN = re.compile(r"[0-9a-zA-Z_]{1,64}")
"""What tells the client that wrote something."""
PASS = re.compile(r"[0-9]{1,12}-[0-9a-zA-Z_]{1,64}(-[0-9]{1,6})?")
"""Names of generations, states and records of the history: ``<pass>-<epoch>``, and which part of a pass."""
ARRAY = re.compile(r"[0-9a-zA-Z_]{1,64}(-[0-9a-f]{1,32})?")
"""Names of arrays below a record: no separators and no dots, so that they lie where they are looked for."""
NUMERIC = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
COORDINATE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[mM]8(\[[0-9]{0,9}[a-zA-Zμ]{1,2}\])?|U[0-9]{1,6})")
ANY_DTYPE = re.compile(r"[<>|=]?[a-zA-Z][0-9]{0,6}|bool|u?int[0-9]{1,2}|float[0-9]{1,2}")


class Unlike(ValueError):
    """A value is not what stands there in a record of this package."""

    def __init__(self, rule: str, value: Any, place: str = "") -> None:
        super().__init__(rule, value, place)
        self.rule, self.value, self.place = rule, value, place

    def __str__(self) -> str:
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return f"{self.place.lstrip('.') or 'it'} is {shown} and must be {self.rule}"

    def inside(self, place: str) -> Unlike:
        return Unlike(self.rule, self.value, place + self.place)


def integer(least: int = 0, most: int = MOST_LENGTH) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Unlike(f"an integer from {least} to {most}", value)

    return check


def number(value: Any) -> None:
    """Any float, infinite and NaN too, and integers of 64 bits."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, int) and abs(value) >= 2**64):
        raise Unlike("a number", value)


def count(value: Any) -> None:
    """A whole number, which may be kept as a float."""
    number(value)
    if not 0 <= value <= MOST_LENGTH or value != int(value):
        raise Unlike("a whole number", value)


def nothing(value: Any) -> None:
    """Of fields that nobody knows: there are none."""
    raise Unlike("left out", value)


def boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise Unlike("true or false", value)


def text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise Unlike(f"text of at most {_MOST_TEXT} characters", value)


def like(pattern: re.Pattern[str], what: str) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Unlike(what, value)

    return check


def one_of(*values: Any) -> Check:
    def check(value: Any) -> None:
        if not any(type(value) is type(each) and value == each for each in values):
            raise Unlike(f"one of {list(values)}", value)

    return check


def either(*checks: Check) -> Check:
    """Any of these; what is wrong is told by the last."""

    def check(value: Any) -> None:
        for each in checks[:-1]:
            try:
                each(value)
            except Unlike:
                continue
            return
        checks[-1](value)

    return check


def or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def items(each: Check, most: int, least: int = 0) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise Unlike(f"a list of {least} to {most}", value)
        for index, item in enumerate(value):
            try:
                each(item)
            except Unlike as error:
                raise error.inside(f"[{index}]") from None

    return check


def row(*checks: Check) -> Check:
    """A list with one value for each check."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) != len(checks):
            raise Unlike(f"a list of {len(checks)}", value)
        for index, (each, item) in enumerate(zip(checks, value, strict=True)):
            try:
                each(item)
            except Unlike as error:
                raise error.inside(f"[{index}]") from None

    return check


def mapping(names: Check, each: Check, most: int = MOST_MODELS) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict) or len(value) > most:
            raise Unlike(f"an object of at most {most} entries", value)
        for name, item in value.items():
            try:
                names(name)
                each(item)
            except Unlike as error:
                raise error.inside(f".{name[:60]}") from None

    return check


def fields(
    needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None, others: Check | None = None
) -> Check:
    """An object; of fields that nobody knows, which later versions may write, `others` is asked."""
    known = {**needed, **(optional or {})}

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Unlike("an object", value)
        for name in needed:
            if name not in value:
                raise Unlike(f"an object with {name!r}", sorted(value)[:8])
        for name, item in value.items():
            each = known.get(name, others)
            if each is None:
                continue
            try:
                each(item)
            except Unlike as error:
                raise error.inside(f".{name[:60]}") from None

    return check


def plain(value: Any, depth: int = _DEEPEST) -> None:
    """Any JSON that is not deep, and whose numbers are numbers: passed on, shown, compared."""
    if isinstance(value, (list, dict)):
        if not depth:
            raise Unlike(f"at most {_DEEPEST} lists and objects deep", "what it holds")
        parts: Collection[Any] = value.values() if isinstance(value, dict) else value
        for part in parts:
            plain(part, depth - 1)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number(value)


def size_of(shape: Sequence[int]) -> int:
    """Entries of an array, of any length."""
    size = 1
    for length in shape:
        size *= length
    return size


def array_of(values: list[Any], dtype: str, shape: Sequence[int]) -> np.ndarray:
    """An array that stood in a record.

    Raises
    ------
    Unlike
        If the values do not fill it, or are not of that dtype.
    """
    if size_of(shape) != len(values):
        raise Unlike(f"{size_of(shape)} values", len(values))
    try:
        return np.array(values, dtype).reshape(shape)
    except (ValueError, OverflowError, TypeError) as error:
        raise Unlike(f"values of {dtype}", values) from error


SHAPE = items(integer(), most=8)
