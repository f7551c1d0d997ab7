"""Types of the values of options, from the command line and from TOML files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import click
from dask.utils import parse_bytes

from dasknmf.core.losses import NAMES

T = TypeVar("T")
Scalar = str | int | float
"""A value on the command line (text) or in a TOML file."""

TARGET_SUM = 1e4
"""Counts of a cell after --normalize without a number: scanpy's usual target."""
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
"""A rank; or the first and the last, and perhaps the distance between two."""


class ValueType(click.ParamType, Generic[T]):
    """A type whose `parsed` raises ValueError with the rule that a value breaks."""

    takes_lists: ClassVar[bool] = False
    """Whether a TOML file may give a list."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        try:
            return self.parsed(value)
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)

    def parsed(self, value: Any) -> T:
        raise NotImplementedError


class Beta(ValueType[float | str]):
    name = "NUMBER|NAME"

    def parsed(self, value: Scalar) -> float | str:
        if value in NAMES:
            return str(value)
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{value!r} is neither a number nor one of {', '.join(NAMES)}") from None


class Bytes(ValueType[int]):
    name = "BYTES"

    def parsed(self, value: Scalar) -> int:
        try:
            return int(parse_bytes(value))
        except ValueError:
            raise ValueError(f"{value!r} is not a size such as 64MiB") from None


class Count(ValueType[int | str]):
    name = "INTEGER|auto"

    def parsed(self, value: Scalar) -> int | str:
        try:
            return "auto" if value == "auto" else int(value)
        except ValueError:
            raise ValueError(f"{value!r} is neither an integer nor 'auto'") from None


class Ranks(ValueType[list[int]]):
    """Ranks with commas between them, and ranges with both their ends, and a step; a list in a file."""

    name = "RANKS"
    takes_lists = True

    def parsed(self, value: Scalar | Sequence[Scalar]) -> list[int]:
        return [rank for part in _parts(value) for rank in self._range(str(part).replace(" ", ""))]

    def _range(self, part: str) -> Sequence[int]:
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(
                f"{part!r} is neither a number of components nor a range of them: give for example 5-15, or "
                "2,4,8, or 10-50:10 for every tenth"
            )
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if last < first or step < 1:
            raise ValueError(
                f"{part!r} holds no rank: a range ascends, and its step is 1 or more: give for example 5-15 "
                "or 10-50:10"
            )
        return range(first, last + 1, step)


def _parts(value: Scalar | Sequence[Scalar]) -> Sequence[Scalar]:
    """The values of a list, or of a text with commas between them."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else str(value).split(",")


class Name(ValueType[str]):
    """A word that becomes part of a path."""

    name = "NAME"

    def parsed(self, value: Scalar) -> str:
        if value in ("", ".", "..") or any(each in str(value) for each in "/\\\0"):
            raise ValueError(f"{value!r} is no name without separators, as of a file: give a word")
        return str(value)


class Target(ValueType[float]):
    """A sum of counts; ``true``, in a file of options, is the usual one."""

    name = "NUMBER"

    def parsed(self, value: Scalar) -> float:
        if value is True:
            return TARGET_SUM
        try:
            target = math.nan if value is False else float(value)
        except (TypeError, ValueError):
            target = math.nan
        if not 0 < target < math.inf:
            raise ValueError(
                f"{value!r} is not a positive number, which counts can add up to: give one, true in a file "
                f"for {TARGET_SUM:g}, or leave the option out"
            )
        return target


class Dims(ValueType[tuple[str, ...]]):
    """Names with commas between them; in a file of options also a list."""

    name = "DIM,DIM"
    takes_lists = True

    def parsed(self, value: Scalar | Sequence[Scalar]) -> tuple[str, ...]:
        names = tuple(str(name).strip() for name in _parts(value))
        if not all(names):
            raise ValueError(f"{value!r} names no dims: give for example y,x")
        return names


class Missing(ValueType[str | float]):
    name = "auto|error|nan|NUMBER"

    def parsed(self, value: Scalar) -> str | float:
        if value in ("auto", "error", "nan"):
            return str(value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is neither error, nan nor a number") from None
        return "nan" if math.isnan(number) else number  # TOML has a nan of its own
