"""``dasknmf fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from dasknmf import NMF, open_run
from dasknmf.cli.exits import friendly
from dasknmf.cli.options import Beta, Bytes, Count, configured, scheduler_options, with_options
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import scheduled
from dasknmf.cli.summary import summary
from dasknmf.model import SAMPLE_BYTES, Init


@click.command()
@click.argument("source")
@click.argument("run")
@click.option("-k", "--n-components", type=Count(), required=True, help="Components to find.")
@click.option("--beta-loss", type=Beta(), default="frobenius", show_default=True)
@click.option("--solver", type=click.Choice(["auto", "cd", "bpp", "mu"]), default="auto", show_default=True)
@click.option("--init", type=click.Choice([each for each in get_args(Init) if each != "custom"]))
@click.option(
    "--sample-bytes", type=Bytes(), default=SAMPLE_BYTES, help="Of --init sample.  [default: 64 MiB]"
)
@click.option("--max-iter", type=int, default=200, show_default=True, help="Most exact passes.")
@click.option("--tol", type=float, default=1e-4, show_default=True)
@click.option("--random-state", type=int)
@click.option("--alpha-w", type=float, default=0.0, show_default=True)
@click.option("--alpha-h", type=float, help="Default: as --alpha-w.")
@click.option("--l1-ratio", type=float, default=0.0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]))
@with_options(scheduler_options)
@click.option(
    "--stage",
    metavar="memory|DIRECTORY",
    help="Keep SOURCE in memory, or in a directory, after the first pass has read it.",
)
@click.option("--overwrite", is_flag=True, help="Start over where RUN holds a run.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=configured,
    help="A TOML file with any of these options; the command line goes before it.",
)
@friendly
def fit(
    source: str,
    run: str,
    scheduler: str,
    scheduler_file: Path | None,
    stage: str | None,
    overwrite: bool,
    alpha_w: float,
    alpha_h: float | None,
    **parameters: Any,
) -> None:
    """Factorize the Zarr array SOURCE; commit every pass to RUN.

    The same command started again goes on from the last commit; with a larger --max-iter or a
    smaller --tol a finished run is continued.
    """
    model = NMF(alpha_W=alpha_w, alpha_H="same" if alpha_h is None else alpha_h, **parameters)
    with scheduled(scheduler, scheduler_file), progress(model.max_iter) as report:
        model.fit(source, checkpoint=run, overwrite=overwrite, stage=stage, callbacks=[report])
    click.echo(summary(open_run(run)))
    click.echo(f"W and H: dasknmf.open_run({run!r})")
