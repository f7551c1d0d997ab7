"""Exit codes: one line on stderr and a code for each kind of error.

0 done; 1 a defect of dasknmf (with a traceback); 2 a wrong option or parameter; 3 V was refused; 4 the run
store was refused or could not be written; 5 V, or its stage, does not fit; 6 no usable scheduler; 75 stopped
by a signal or a time limit, or a store, a scheduler or the run's lock is out of reach for now; 130 a command
that commits no passes was interrupted. After 4 (disk full), 5, 6 and 75 the same command resumes the run from
the last commit; after 75 nothing else has to be done.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from distributed import KilledWorker

from dasknmf.cli.output import begin, event, is_json, results
from dasknmf.cli.signals import TRY_AGAIN
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
"""The first class that an error is an instance of gives its code."""

_KILLED_WORKER = (
    "A worker that is killed repeatedly at the same task usually has too little memory: give each worker "
    "more memory or fewer threads, and start the same command again."
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
    "repeat the same call": "start the same command again",
}
"""Words of the command line in place of the Python arguments and calls that messages advise."""


def errors_as_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator of commands: an error becomes one line and an exit code, not a traceback."""

    @wraps(command)
    def run(**options: Any) -> None:
        begin(options.get("log_format"))
        try:
            command(**options)
        except KeyboardInterrupt:
            # Coroutines of Zarr's event loop end with this process.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            event("stopped", "interrupted: start the same command again", exit_code=130)
            sys.exit(130)
        except tuple(_CODES) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            text = _message(error)
            event("error", text if is_json() else f"Error: {text}", exit_code=code)
            sys.exit(code)
        except Exception as error:
            if not is_json() or isinstance(error, click.exceptions.Exit):
                raise
            if isinstance(error, click.ClickException):
                event("error", error.format_message(), exit_code=error.exit_code)
                sys.exit(error.exit_code)
            lines = "".join(traceback.format_exception(error))
            event("error", f"a defect of dasknmf: {error!r}", exit_code=1, traceback=lines)
            sys.exit(1)
        if is_json():
            event("done", "done", exit_code=0, summary=results())

    return run


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, KilledWorker):
        text = f"{text} {_KILLED_WORKER}"
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text
