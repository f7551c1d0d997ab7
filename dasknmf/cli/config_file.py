"""Options from a TOML file (``--config``)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from dasknmf.cli.parameter_types import TARGET, ValueType

_MOST_BYTES = 2**20
"""Largest size of a file of options, which has some dozens of lines."""


def set_defaults(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Callback of --config: values of a TOML file become the defaults of the options of the same names.

    Raises
    ------
    click.BadParameter
        If the file cannot be read, or sets what no option takes.
    """
    if path is None:
        return
    values = _read(path)
    params = context.command.params
    options = {str(each.name).lower(): each for each in params if each.name not in ("places", "config")}
    given = {name.replace("-", "_").lower(): value for name, value in values.items()}
    if unknown := sorted(given.keys() - options.keys()):
        raise click.BadParameter(
            f"{path} sets {unknown}, which this command does not have; its options, at the top level of the "
            f"file, are {sorted(options)}."
        )
    if "overwrite" in given:
        raise click.BadParameter(
            f"{path} sets 'overwrite'; every start with this file would discard the passes of the start "
            "before: leave it out, and give --overwrite once, on the command line."
        )
    if len(given) < len(values):
        raise click.BadParameter(f"{path} sets an option twice, as a-b and as a_b: leave one of them out.")
    taken = {options[name]: value for name, value in given.items()}
    context.default_map = {each.name: _checked(path, each, value, context) for each, value in taken.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise click.BadParameter(f"{path} is longer than {_MOST_BYTES} bytes: give a file of options.")
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # tomllib's own is a ValueError, as are long integers
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise click.BadParameter(f"{path} is not TOML ({' '.join(reason.split())}): correct it.") from error
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read ({error}): give another file.") from error


def _checked(path: Path, option: click.Parameter, value: object, context: click.Context) -> object:
    """The value of an option, after a check of its type; click's own errors would not name the file."""
    many = option.multiple or (isinstance(option.type, ValueType) and option.type.takes_lists)
    parts = value if isinstance(value, list) and many else [value]
    is_flag = isinstance(option, click.Option) and option.is_flag and option.type is not TARGET
    for part in parts:
        # Click would make text of any value, and a flag of some texts.
        is_number_or_text = isinstance(part, (str, int, float)) and (
            not isinstance(part, bool) or option.type is TARGET
        )
        if not (isinstance(part, bool) if is_flag else is_number_or_text):
            kind = "true or false" if is_flag else "text or a number"
            shown = repr(part) if len(repr(part)) <= 60 else f"{repr(part)[:57]}..."
            raise click.BadParameter(f"{path} sets {option.name!r} to {shown}; it takes {kind}: correct it.")
    taken = parts if option.multiple else value
    try:
        option.type_cast_value(context, taken)
    except click.BadParameter as error:
        raise click.BadParameter(f"{path} sets {option.name!r}: {error.message}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise click.BadParameter(f"{path} has a wrong {option.name!r} ({error}): correct it.") from error
    return taken
