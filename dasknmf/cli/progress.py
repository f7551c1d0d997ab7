"""What a fit says while it runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from dask.utils import format_bytes

from dasknmf.cli.output import said, short_warnings
from dasknmf.core.history import Record


@contextmanager
def progress(
    max_iter: int, *, as_json: bool = False, workers: Callable[[], int | None] = lambda: None
) -> Iterator[Callable[[Record], None]]:
    """A bar on a terminal, one log line per pass elsewhere; warnings as single lines. Or all as JSON.

    Parameters
    ----------
    max_iter : int
        The length of the bar.
    as_json : bool
    workers : callable
        How many processes work now, for JSON.
    """
    if as_json:
        yield lambda record: said("pass", _line(record), as_json=True, **_values(record, workers()))
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log = logging.getLogger("dasknmf.cli")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    try:
        with short_warnings():
            if sys.stderr.isatty():
                with click.progressbar(
                    length=max_iter, label="start", file=sys.stderr, item_show_func=lambda text: text
                ) as bar:

                    def show(record: Record) -> None:
                        bar.label = record.phase
                        bar.update(max(0, record.iteration - bar.pos), _brief(record))

                    yield show
                    bar.update(bar.length - bar.pos if bar.length else 0)
            else:
                yield lambda record: log.info("%s", _line(record))
    finally:
        log.removeHandler(handler)


def _values(record: Record, workers: int | None) -> dict[str, Any]:
    return {
        "phase": record.phase,
        "iteration": record.iteration,
        "loss": record.loss,
        "objective": record.objective,
        "change": record.change,
        "holdout": record.holdout,
        "models": len(record.models) or 1,
        "seconds": record.seconds,
        "bytes_read": record.bytes_read,
        "bytes_written": record.bytes_written,
        "reads": record.reads,
        "memory": record.memory,
        "workers": workers,
        "retries": record.retries,
    }


def _brief(record: Record) -> str:
    if record.objective is None:
        return f"{record.reads:g} reads"
    if record.models:
        return f"{len(record.models)} models at work, {record.reads:g} reads"
    return f"objective {record.objective:.6g}, {record.reads:g} reads"


def _line(record: Record) -> str:
    parts = [f"{record.phase} {record.iteration}"]
    if record.models:
        parts.append(f"{len(record.models)} models at work, lowest")
    if record.objective is not None:
        parts.append(f"objective {record.objective:.8g}")
    if record.change is not None:
        parts.append(f"change {record.change:.2e}")
    parts.append(f"{record.seconds:.2f} s")
    parts.append(f"{format_bytes(record.bytes_read)} read")
    parts.append(f"{record.reads:g} reads of V so far")
    return "  ".join(parts)
