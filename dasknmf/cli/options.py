"""Types of options, and the options that several commands have."""

from __future__ import annotations

import datetime as dt
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from dask.utils import parse_bytes

from dasknmf.core.losses import NAMES

_MOST_TOML = 2**20
"""Bytes of a file of options: it has some dozens of lines."""
TARGET_SUM = 1e4
"""What the counts of a cell are made to add up to by --normalize without a number: scanpy's usual."""

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
"""A rank; or the first and the last, and perhaps the distance between two."""


class Beta(click.ParamType):
    name = "NUMBER|NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        if value in NAMES:
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor one of {', '.join(NAMES)}", param, ctx)


class Bytes(click.ParamType):
    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(parse_bytes(value))
        except ValueError:
            self.fail(f"{value!r} is not a size such as 64MiB", param, ctx)


class Count(click.ParamType):
    name = "INTEGER|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither an integer nor 'auto'", param, ctx)


class Ranks(click.ParamType):
    """Ranks with commas between them, and ranges with both their ends, and a step; a list in a file."""

    name = "RANKS"
    takes_lists = True

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        parts = value.split(",") if isinstance(value, str) else np.atleast_1d(value).tolist()
        ranks: list[int] = []
        for part in parts:
            found = _RANGE.fullmatch(str(part).replace(" ", ""))
            if found is None:
                self.fail(
                    f"{part!r} is neither a number of components nor a range of them: give for example "
                    "5-15, or 2,4,8, or 10-50:10 for every tenth",
                    param,
                    ctx,
                )
            first, last, step = (int(each or 0) for each in found.groups())
            last, step = (last if found[2] else first), (step if found[3] else 1)
            if last < first or step < 1:
                self.fail(
                    f"{part!r} holds no rank: a range ascends, and its step is 1 or more: give for example "
                    "5-15 or 10-50:10",
                    param,
                    ctx,
                )
            ranks += range(first, last + 1, step)
        return ranks


class Name(click.ParamType):
    """A word that becomes part of a path."""

    name = "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value in ("", ".", "..") or any(each in value for each in "/\\\0"):
            self.fail(f"{value!r} is no name without separators, as of a file: give a word", param, ctx)
        return str(value)


class Target(click.ParamType):
    """What counts are made to add up to; ``true``, in a file of options, is the usual."""

    name = "NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if value is True:
            return TARGET_SUM
        try:
            target = math.nan if value is False else float(value)
        except (TypeError, ValueError):
            target = math.nan
        if not 0 < target < math.inf:
            self.fail(
                f"{value!r} is not a positive number, which counts can add up to: give one, true in a "
                f"file for {TARGET_SUM:g}, or leave the option out",
                param,
                ctx,
            )
        return target


def configured(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Values of a TOML file become the defaults of the options of the same names."""
    if path is None:
        return None
    values = _toml(path)
    known = {each.name for each in ctx.command.params if each.name not in ("places", "config")}
    given = {name.replace("-", "_").lower(): value for name, value in values.items()}
    if unknown := sorted(given.keys() - known):
        raise click.BadParameter(
            f"{path} sets {unknown}; the options, at the top level, are {sorted(filter(None, known))}."
        )
    if "overwrite" in given:
        raise click.BadParameter(
            f"{path} sets 'overwrite'; every start with this file would throw away what the one before has "
            "committed: leave it out, and give --overwrite once, on the command line."
        )
    options = {each.name: each for each in ctx.command.params}
    if len(given) < len(values):
        raise click.BadParameter(f"{path} sets an option twice, as a-b and as a_b: leave one of them out.")
    ctx.default_map = {name: _taken(path, options[name], value, ctx) for name, value in given.items()}
    return path


def _file(**about: Any) -> click.Path:
    return click.Path(dir_okay=False, path_type=Path, **about)


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_TOML + 1)
        if len(raw) > _MOST_TOML:
            raise click.BadParameter(f"{path} is longer than {_MOST_TOML} bytes: give a file of options.")
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # tomllib's own is a ValueError, as are long integers
        reason = str(error) if isinstance(error, ValueError) else "it nests too deep"
        raise click.BadParameter(f"{path} is not TOML ({' '.join(reason.split())}): correct it.") from error
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read ({error}): give another file.") from error


def _taken(path: Path, option: Any, value: Any, ctx: click.Context) -> Any:
    """A value of a file, if the option takes it; what is wrong is told here, where the file is known."""
    if isinstance(value, (dict, dt.date, dt.time)):
        what = "a table" if isinstance(value, dict) else "a date or a time"
        raise click.BadParameter(f"{path} sets {option.name!r} to {what}; it takes a value: correct it.")
    several = option.multiple or getattr(option.type, "takes_lists", False)
    each = value if isinstance(value, list) else [value]
    is_flag = getattr(option, "is_flag", False) and not isinstance(option.type, Target)
    # Click would make text of anything, and a flag of some text.
    may_be: tuple[type, ...] = (bool,) if is_flag else (str, int, float)
    if isinstance(option.type, Target):
        may_be = (bool, *may_be)
    wrong = [
        part
        for part in each
        if not isinstance(part, may_be) or (isinstance(part, bool) and bool not in may_be)
    ]
    if isinstance(value, list) and not several:
        wrong = [value]
    if wrong:
        kind = "true or false" if is_flag else "text or a number"
        shown = repr(wrong[0]) if len(repr(wrong[0])) <= 60 else f"{repr(wrong[0])[:57]}..."
        raise click.BadParameter(f"{path} sets {option.name!r} to {shown}; it takes {kind}: correct it.")
    value = each if option.multiple else value
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise click.BadParameter(f"{path} sets {option.name!r}: {error.message}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise click.BadParameter(f"{path} sets {option.name!r} to what it does not take ({error})") from error
    return value


scheduler_options = [
    click.option(
        "--scheduler",
        default="threads",
        show_default=True,
        metavar="threads|sync|local|slurm|mpi|ADDRESS",
        help="This process's threads, one thread, a cluster of this machine's cores, the tasks of this srun "
        "or mpirun, or a running scheduler (tcp://…, tls://…).",
    ),
    click.option(
        "--scheduler-file",
        type=_file(),
        help="Connect to the scheduler that wrote this file. Of slurm and mpi: where their tasks meet.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of local: so many processes. Of a cluster: wait for so many.",
    ),
    click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for workers; then go on with those that came.",
    ),
    click.option("--tls-ca", type=_file(exists=True), help="Certificate of who signs those of the cluster."),
    click.option("--tls-cert", type=_file(exists=True), help="This process's certificate."),
    click.option("--tls-key", type=_file(exists=True), help="Its private key."),
]


def with_options(options: list[Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
