"""``dasknmf transform``."""

from __future__ import annotations

from pathlib import Path

import click

from dasknmf import NMF
from dasknmf.cli.exits import friendly
from dasknmf.cli.options import scheduler_options, with_options
from dasknmf.cli.scheduling import scheduled
from dasknmf.outputs import write_rows


@click.command()
@click.argument("run")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@with_options(scheduler_options)
@friendly
def transform(run: str, source: str, out: Path, scheduler: str, scheduler_file: Path | None) -> None:
    """Write W of the Zarr array SOURCE, for the H of RUN, to the new Zarr array OUT."""
    model = NMF.from_run(run)
    with scheduled(scheduler, scheduler_file):
        write_rows(model.transform(source), out)
    click.echo(f"W: {out}")
