"""Types of the values of options, from the command line and from TOML files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from dask.utils import parse_bytes

from dasknmf.core.losses import NAMES

Scalar = str | int | float
"""A value on the command line (text) or in a TOML file."""

TARGET_SUM = 1e4
"""The sum of counts for --normalize without a number: the usual target of scanpy."""
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
"""A rank; or the first and the last rank, and perhaps a step."""


@dataclass(frozen=True)
class ValueType(click.ParamType):
    """A type of option values.

    Parameters
    ----------
    name : str
        The placeholder in the help.
    parsed : callable
        Returns the value of a text or of a TOML value; raises ValueError with the rule that it breaks.
    takes_lists : bool, default=False
        Whether a TOML file may give a list.
    """

    name: str
    parsed: Callable[[Any], Any]
    takes_lists: bool = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parsed(value)
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)


def number_or(name: str, words: Sequence[str], kind: type[int] | type[float] = float) -> ValueType:
    """The type of a number or one of some words."""

    def parsed(value: Scalar) -> Scalar:
        if value in words:
            return str(value)
        try:
            number = kind(value)
        except ValueError:
            what = "an integer" if kind is int else "a number"
            raise ValueError(f"{value!r} is neither {what} nor {' nor '.join(words)}") from None
        return str(number) if str(number) in words else number  # nan, which TOML has as a number

    return ValueType(name, parsed)


BETA = number_or("NUMBER|NAME", tuple(NAMES))
COUNT = number_or("INTEGER|auto", ["auto"], int)
MISSING = number_or("auto|error|nan|NUMBER", ["auto", "error", "nan"])


def _bytes(value: Scalar) -> int:
    try:
        return int(parse_bytes(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a size such as 64MiB") from None


BYTES = ValueType("BYTES", _bytes)


def _parts(value: Scalar | Sequence[Scalar]) -> Sequence[Scalar]:
    """The values of a list, or of a text with commas."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else str(value).split(",")


def _ranks(value: Scalar | Sequence[Scalar]) -> list[int]:
    return [rank for part in _parts(value) for rank in _range(str(part).replace(" ", ""))]


def _range(part: str) -> Sequence[int]:
    found = _RANGE.fullmatch(part)
    if found is None:
        raise ValueError(
            f"{part!r} is neither a number of components nor a range of numbers: give for example 5-15, or "
            "2,4,8, or 10-50:10 for every tenth"
        )
    first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
    if last < first or step < 1:
        raise ValueError(
            f"{part!r} is an empty range; a range ascends, with a step of at least 1: give for example 5-15 "
            "or 10-50:10"
        )
    return range(first, last + 1, step)


RANKS = ValueType("RANKS", _ranks, takes_lists=True)
"""Ranks, and ranges of ranks with both ends and perhaps a step, with commas; in a file also a list."""


def _name(value: Scalar) -> str:
    if value in ("", ".", "..") or any(each in str(value) for each in "/\\\0"):
        raise ValueError(f"{value!r} is not a valid name; a name has no / and no \\: give a word")
    return str(value)


NAME = ValueType("NAME", _name)
"""A word that becomes part of a path."""


def _target(value: Scalar) -> float:
    if value is True:
        return TARGET_SUM
    try:
        target = math.nan if value is False else float(value)
    except (TypeError, ValueError):
        target = math.nan
    if not 0 < target < math.inf:
        raise ValueError(
            f"{value!r} is not a positive number, the sum of the counts of a cell: give a positive number, "
            f"or true in a --config file for {TARGET_SUM:g}, or leave the option out"
        )
    return target


TARGET = ValueType("NUMBER", _target)
"""A sum of counts; ``true``, in a TOML file, is the usual one."""


def _dims(value: Scalar | Sequence[Scalar]) -> tuple[str, ...]:
    names = tuple(str(name).strip() for name in _parts(value))
    if not all(names):
        raise ValueError(f"{value!r} does not name dims: give for example y,x")
    return names


DIMS = ValueType("DIM,DIM", _dims, takes_lists=True)
"""Names with commas; in a TOML file also a list."""
