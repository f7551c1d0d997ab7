"""``dasknmf demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dasknmf import NMF, open_run
from dasknmf.cli.exits import friendly
from dasknmf.cli.options import scheduler_options, with_options
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import Where
from dasknmf.cli.summary import summary


@click.command()
@click.argument("directory", default="dasknmf-demo", type=click.Path(path_type=Path))
@with_options(scheduler_options)
@friendly
def demo(directory: Path, **options: Any) -> None:
    """Factorize a hyperspectral scene (Indian Pines) out of a Zarr store in DIRECTORY."""
    from dasknmf.demo import draw, stored_scene

    source, shape = stored_scene(directory)
    run = directory / "run.zarr"
    model = NMF(16, max_iter=60, random_state=0)
    with Where(**options).computing(), progress(model.max_iter) as report:
        model.fit(source, checkpoint=run, overwrite=True, callbacks=[report])
    picture = draw(open_run(run), shape, directory / "abundances.png")
    click.echo(summary(open_run(run)))
    click.echo(f"abundance maps: {picture}")
    click.echo(f"the scene: {source}   the run: {run}   more: dasknmf info {run}")
