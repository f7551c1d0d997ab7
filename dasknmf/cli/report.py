"""``dasknmf report``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from dasknmf.cli.options import FILE, argument, command, option
from dasknmf.errors import SourceError
from dasknmf.plots.report import write_page


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """Arguments and options of `report`."""

    run: str = argument()
    output: Path = option(
        "File of the page; an existing file is replaced.", "-o", "--output", type=FILE, default="report.html"
    )


@command(ReportJob)
def report(job: ReportJob) -> None:
    """Write an HTML page about RUN, finished or running.

    The page shows loss, components, speed and memory.
    """
    if find_spec("matplotlib") is None:
        raise SourceError("a report needs matplotlib, which is not installed: pip install 'dasknmf[plot]'.")
    click.echo(f"report: {write_page(job.run, job.output)}")
