"""What a command says on stderr: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

TEXT, JSON = FORMATS = ("text", "json")


def is_json() -> bool:
    """Whether the command at work was asked for JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and context.params.get("log_format") == JSON


def said(event: str, text: str, *, as_json: bool, **values: Any) -> None:
    """Say that something happened.

    Parameters
    ----------
    event : str
        "start", "pass", "heartbeat", "warning", "stopped", "error" or "done".
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
        yield
    finally:
        logging.root.removeHandler(handler)
        for each, handlers, propagate in own:
            each.handlers, each.propagate = handlers, propagate


def _is_loud(logger: logging.Logger) -> bool:
    return any(type(handler) is logging.StreamHandler for handler in logger.handlers)
