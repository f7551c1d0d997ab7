"""Output of a command on stdout and stderr: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
import dask
from distributed import Worker, WorkerPlugin
from sklearn.exceptions import ConvergenceWarning

TEXT, JSON = FORMATS = ("text", "json")


@dataclass
class _Output:
    format: str = TEXT
    results: list[str] = field(default_factory=list)


_output = _Output()
"""Output state of the current command, shared by its threads."""


def begin(log_format: str | None) -> None:
    """Set the output format for a new command."""
    _output.format, _output.results = log_format or TEXT, []


def is_json() -> bool:
    """Whether the current command writes JSON."""
    return _output.format == JSON


def line_of(name: str, text: str, **values: object) -> str:
    """One line about an event: `text`, or a JSON object with `text` as its message.

    Parameters
    ----------
    name : str
        "start", "pass", "heartbeat", "note", "warning", "stopped", "error" or "done".
    text : str
    **values
        Further members of the object.
    """
    return encoded(name, message=text, **values) if is_json() else text


def event(name: str, text: str, **values: object) -> None:
    """Write the line of an event to stderr."""
    click.echo(line_of(name, text, **values), err=True)


def note(text: str) -> None:
    """Write a note to stderr."""
    event("note", text)


def result(text: str) -> None:
    """Write a result to stdout; with JSON keep it for the last object, as stdout may be the same stream."""
    if is_json():
        _output.results.append(text)
    else:
        click.echo(text)


def results() -> str:
    """The kept results of the current command."""
    return "\n".join(_output.results)


def encoded(name: str, **values: object) -> str:
    """A JSON object in one line. JSON has no NaN and no infinity: they are null."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps(_finite({"time": now, "event": name, **values}), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(record: logging.LogRecord) -> str:
    """The message of a record; of a warning without the place in the source that raised it."""
    text = record.getMessage()
    return text.split("Warning: ", 1)[-1].strip().splitlines()[0] if record.name == "py.warnings" else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = {"message": _short(record), "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return encoded("warning", **values)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"warning: {_short(record)}"


@contextmanager
def json_records() -> Iterator[None]:
    """Context in which warnings and records of all loggers are objects, also of loggers with own handlers."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    own = [
        (each, each.handlers, each.propagate)
        for each in loggers
        if any(type(handler) is logging.StreamHandler for handler in each.handlers)
    ]
    for each, _, _ in own:
        each.handlers, each.propagate = [], True
    try:
        with _handled(logging.root, _JsonFormatter()):
            yield
    finally:
        for each, handlers, propagate in own:
            each.handlers, each.propagate = handlers, propagate


@contextmanager
def short_warnings() -> Iterator[None]:
    """Context in which each warning is one line."""
    logger = logging.getLogger("py.warnings")
    logger.propagate = False
    try:
        with _handled(logger, _TextFormatter()):
            yield
    finally:
        logger.propagate = True


@contextmanager
def _handled(logger: logging.Logger, formatter: logging.Formatter) -> Iterator[None]:
    """Context in which warnings become records, and `logger` writes its records to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logging.captureWarnings(True)
    warnings.simplefilter("default", ConvergenceWarning)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(handler)


class JsonWorker(WorkerPlugin):
    """Plugin for workers that share the command's stderr: their warnings and records are objects, too."""

    def setup(self, worker: Worker) -> None:
        self._records = ExitStack()
        self._records.enter_context(json_records())

    def teardown(self, worker: Worker) -> None:
        self._records.close()


@contextmanager
def silent_workers() -> Iterator[None]:
    """Context in which new workers do not log messages of Dask: they start before `JsonWorker` is set up."""
    with dask.config.set({"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical"}):
        yield
