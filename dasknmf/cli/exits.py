"""What a user's mistake becomes: one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from distributed import KilledWorker

from dasknmf.errors import (
    DataError,
    MemoryLimitError,
    NumericalError,
    RunError,
    SchedulerError,
    SourceError,
    StageError,
)

_CODES: dict[type[Exception], int] = {
    DataError: 3,
    SourceError: 3,
    RunError: 4,
    MemoryLimitError: 5,
    StageError: 5,
    SchedulerError: 6,
    KilledWorker: 6,
    NumericalError: 3,
    ValueError: 2,
    TypeError: 2,
    OSError: 3,
}

_OPTIONS = {
    "overwrite=True": "--overwrite",
    "missing_values='nan'": "--missing nan",
    "negatives='clip'": "--negatives clip",
    "negatives='mask'": "--negatives mask",
    "sample_dims=": "--sample-dims",
    "n_init=": "--n-init ",
    "holdout=": "--holdout ",
    "fixed_components=": "--fixed-components ",
    "density_threshold=": "--density-threshold ",
    "local_neighborhood_size=": "--local-neighborhood-size ",
}
"""What Python's arguments are called here, where messages advise them."""


def note(text: str) -> None:
    """A line about what is going on, beside the output."""
    click.echo(text, err=True)


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake is one line and an exit code, not a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("interrupted: the same command goes on from the last commit", err=True)
            # What Zarr's event loop had begun dies with this process, as it should, but not in silence.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            sys.exit(130)
        except tuple(_CODES) as error:
            text = " ".join(str(error).split())
            for argument, option in _OPTIONS.items():
                text = text.replace(argument, option)
            click.echo(f"Error: {text}", err=True)
            sys.exit(next(code for kind, code in _CODES.items() if isinstance(error, kind)))

    return run
