"""Progress of a fit on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click
from dask.utils import format_bytes

from dasknmf.cli.output import event, is_json, short_warnings
from dasknmf.core.history import Record
from dasknmf.core.text import counted, objectives_named, pass_named

_FIELDS = ("phase", "iteration", "loss", "objective", "change", "holdout", "seconds")
_COUNTS = ("bytes_read", "bytes_written", "reads", "memory", "retries")
"""Attributes of a record that are members of its JSON object."""


@contextmanager
def progress(
    max_iter: int, *, workers: Callable[[], int | None] = lambda: None
) -> Iterator[Callable[[Record], None]]:
    """Context with a callback for fits: a bar on a terminal, otherwise a line or JSON object for each pass.

    Parameters
    ----------
    max_iter : int
        Length of the bar.
    workers : callable
        Gives the number of workers, for JSON.
    """
    if is_json():
        yield lambda record: _write_object(record, workers())
        return
    with short_warnings():
        if not sys.stderr.isatty():
            yield lambda record: click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {_line(record)}", err=True)
            return
        with click.progressbar(
            length=max_iter, label="start", file=sys.stderr, item_show_func=lambda text: text
        ) as bar:

            def show(record: Record) -> None:
                bar.label = record.phase
                bar.update(max(0, record.iteration - bar.pos), _brief(record))

            yield show
            bar.update(bar.length - bar.pos if bar.length else 0)


def _write_object(record: Record, workers: int | None) -> None:
    values = {name: getattr(record, name) for name in (*_FIELDS, *_COUNTS)}
    event("pass", _line(record), **values, models=len(record.models) or 1, workers=workers)


def _brief(record: Record) -> str:
    if record.objective is None:
        return counted(record.reads, "read")
    if record.models:
        return f"{counted(len(record.models), 'model')}, {counted(record.reads, 'read')}"
    return f"objective {record.objective:.6g}, {counted(record.reads, 'read')}"


def _line(record: Record) -> str:
    parts = [pass_named(record.phase, record.iteration)]
    if record.models:
        # Only models of this pass: the constant objectives of ended models would hide changes.
        parts.append(objectives_named([each.objective for each in record.models]))
    elif record.objective is not None:
        parts.append(f"objective {record.objective:.8g}")
        if record.change is not None:
            parts.append(f"change {record.change:.2e}")
    parts.append(f"{record.seconds:.2f} s")
    parts.append(f"{format_bytes(record.bytes_read)} read")
    parts.append(f"{counted(record.reads, 'read')} of V so far")
    return "  ".join(parts)
