"""What a command says on stderr: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import dask
from distributed import WorkerPlugin
from sklearn.exceptions import ConvergenceWarning

TEXT, JSON = FORMATS = ("text", "json")
_RESULTS = "dasknmf.results"
"""Where click's context keeps them."""


def is_json() -> bool:
    """Whether the command at work was asked for JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and context.params.get("log_format") == JSON


def said(event: str, text: str, *, as_json: bool, **values: Any) -> None:
    """Say that something happened.

    Parameters
    ----------
    event : str
        "start", "pass", "heartbeat", "note", "warning", "stopped", "error" or "done".
    text : str
        The line for people.
    as_json : bool
        Whether it is an object instead, of which the line is the message.
    **values
        What else the object holds.
    """
    click.echo(encoded(event, message=text, **values) if as_json else text, err=True)


def noted(text: str) -> None:
    """Say something about what is going on."""
    said("note", text, as_json=is_json())


def resulted(text: str) -> None:
    """Tell what came out, on stdout; or in the last object, since stdout and stderr may be one stream."""
    if is_json():
        click.get_current_context().meta.setdefault(_RESULTS, []).append(text)
    else:
        click.echo(text)


def results() -> str:
    """What came out of the command at work, for its last object."""
    return "\n".join(click.get_current_context().meta.get(_RESULTS, []))


def encoded(event: str, **values: Any) -> str:
    """An object of one line. JSON has no NaN and no infinity: they are null."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps(_finite({"time": now, "event": event, **values}), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonFormatter(logging.Formatter):
    """A record of a logger as an object."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.name == "py.warnings":
            text = short(text)
        values = {"message": text, "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return encoded("warning", **values)


def short(warning: str) -> str:
    """A captured warning without the place in the source that raised it."""
    return warning.split("Warning: ", 1)[-1].strip().splitlines()[0]


@contextmanager
def json_records() -> Iterator[None]:
    """Warnings and records of all loggers as objects, also of those that have handlers of their own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.setLevel(logging.WARNING)
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    own = [(each, each.handlers, each.propagate) for each in known if _is_loud(each)]
    for each, _, _ in own:
        each.handlers, each.propagate = [], True
    logging.root.addHandler(handler)
    try:
        with captured_warnings():
            yield
    finally:
        logging.root.removeHandler(handler)
        for each, handlers, propagate in own:
            each.handlers, each.propagate = handlers, propagate


@contextmanager
def captured_warnings() -> Iterator[None]:
    """Warnings go to their logger."""
    logging.captureWarnings(True)
    warnings.simplefilter("default", ConvergenceWarning)
    try:
        yield
    finally:
        logging.captureWarnings(False)


@contextmanager
def short_warnings() -> Iterator[None]:
    """Warnings as single lines."""
    warned = logging.getLogger("py.warnings")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    warned.addHandler(handler)
    warned.propagate = False
    try:
        with captured_warnings():
            yield
    finally:
        warned.removeHandler(handler)
        warned.propagate = True


class _OneLine(logging.Formatter):
    """A captured warning without the place in the source that raised it."""

    def format(self, record: logging.LogRecord) -> str:
        return "warning: " + short(record.getMessage())


class JsonWorker(WorkerPlugin):
    """What a worker process says on the stderr that it has from the command is objects, too."""

    def setup(self, worker: Any) -> None:
        self._told = ExitStack()
        self._told.enter_context(json_records())

    def teardown(self, worker: Any) -> None:
        self._told.close()


@contextmanager
def silent_workers() -> Iterator[None]:
    """Of workers begun in here Dask itself logs nothing: it would before a plugin is there; nannies tell."""
    with dask.config.set({"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical"}):
        yield


def _is_loud(logger: logging.Logger) -> bool:
    return any(type(handler) is logging.StreamHandler for handler in logger.handlers)
