"""Options of a command, declared as the fields of the frozen dataclass that it receives."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dasknmf.cli.exit_codes import errors_as_exit_codes

Job = TypeVar("Job")
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


def option(help: str, *names: str, **attributes: Any) -> Any:
    """A field that the option of its name fills: ``--max-iter`` fills `max_iter`.

    Parameters
    ----------
    help : str
    *names : str
        Names in place of the field's own.
    **attributes
        Those of `click.Option`; a `default` is shown.
    """
    attributes = {"help": help, "show_default": attributes.get("default") is not None} | attributes
    return dataclasses.field(metadata={"kind": click.Option, "names": names, "attributes": attributes})


def flag(help: str, *names: str) -> Any:
    """A field that is true where the option of its name is given."""
    return option(help, *names, is_flag=True)


def argument(**attributes: Any) -> Any:
    """A field that an argument fills."""
    return dataclasses.field(metadata={"kind": click.Argument, "names": (), "attributes": attributes})


def command(kind: type[Job], *more: click.Parameter) -> Callable[[Callable[[Job], None]], click.Command]:
    """Decorator that makes a click command of a function of one job.

    Parameters
    ----------
    kind : type
        A dataclass with fields of `argument` and `option`; the command fills one and passes it.
    *more : click.Parameter
        Further parameters, which fill no field.
    """

    def decorate(function: Callable[[Job], None]) -> click.Command:
        def run(**values: Any) -> None:
            function(kind(**values))

        params = [*params_of(kind), *more]
        help = inspect.cleandoc(function.__doc__ or "")
        return click.command(function.__name__, params=params, help=help)(errors_as_exit_codes(run))

    return decorate


def params_of(kind: type) -> list[click.Parameter]:
    """The click parameters of the fields of a dataclass: its own before those that it inherits."""
    params: list[click.Parameter] = []
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name not in kind.__annotations__):
        name, given = field.name, field.metadata
        dashed = () if given["kind"] is click.Argument else (f"--{name.replace('_', '-')}",)
        params.append(given["kind"]([*(given["names"] or dashed), name], **given["attributes"]))
    return params


def given(job: object, *names: str) -> list[str]:
    """The options of these fields of a job that have a value, as they are written."""
    values = ((name, getattr(job, name)) for name in names)
    return [f"--{name.replace('_', '-')}" for name, value in values if value not in (None, False, ())]
