"""What a user's mistake becomes: one line and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from distributed import KilledWorker

from dasknmf.cli import signals
from dasknmf.cli.output import is_json, results, said
from dasknmf.cli.signals_early import TRY_AGAIN, interruptible
from dasknmf.errors import (
    DataError,
    MemoryLimitError,
    NumericalError,
    RunError,
    RunLockedError,
    SchedulerError,
    SourceError,
    StageError,
    UnavailableError,
)

_CODES: dict[type[Exception], int] = {
    DataError: 3,
    SourceError: 3,
    UnavailableError: TRY_AGAIN,
    RunLockedError: TRY_AGAIN,  # one job is replaced while the other still ends
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

_KILLED = (
    "A worker that ends again and again at the same task has too little memory, most often: give workers "
    "more of it, or fewer threads, and start the same again."
)

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


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake is one line and an exit code, not a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        signals.forget()
        interruptible()
        as_json = is_json()
        try:
            command(*args, **kwargs)
        except BaseException as error:
            if stop := signals.asked():
                stop.leave()  # whatever went wrong since it was asked to end
            if isinstance(error, (click.ClickException, click.exceptions.Exit, SystemExit)) and not as_json:
                raise
            _tell(error, as_json=as_json)
        if as_json:
            said("done", "done", as_json=True, exit_code=0, summary=results())

    return run


def _tell(error: BaseException, *, as_json: bool) -> None:
    """Say what went wrong, and end with its code; a defect of this package is raised as it is."""
    if isinstance(error, KeyboardInterrupt):
        # What Zarr's event loop had begun dies with this process, as it should, but not in silence.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        said("stopped", "interrupted: start the same command again", as_json=as_json, exit_code=130)
        sys.exit(130)
    if isinstance(error, tuple(_CODES)):
        text = " ".join(str(error).split())
        if isinstance(error, KilledWorker):
            text = f"{text} {_KILLED}"
        for argument, option in _OPTIONS.items():
            text = text.replace(argument, option)
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        said("error", text if as_json else f"Error: {text}", as_json=as_json, exit_code=code)
        sys.exit(code)
    if as_json and isinstance(error, click.ClickException):
        said("error", error.format_message(), as_json=True, exit_code=error.exit_code)
        sys.exit(error.exit_code)
    if as_json and isinstance(error, Exception) and not isinstance(error, click.exceptions.Exit):
        where = "".join(traceback.format_exception(error))
        said("error", f"a defect: {error!r}", as_json=True, exit_code=1, traceback=where)
        sys.exit(1)
    raise error
