"""``dasknmf report``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from dasknmf.cli.exit_codes import errors_as_exit_codes
from dasknmf.errors import SourceError
from dasknmf.plots.report import write_page


@click.command()
@click.argument("run")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write; an older one is replaced.",
)
@errors_as_exit_codes
def report(run: str, output: Path) -> None:
    """Write one HTML page about RUN, finished or running: loss, components, speed, memory."""
    if find_spec("matplotlib") is None:
        raise SourceError("the pictures need matplotlib: pip install 'dasknmf[plot]'.")
    click.echo(f"report: {write_page(run, output)}")
