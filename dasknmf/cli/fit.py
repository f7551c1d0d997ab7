"""``dasknmf fit``."""

from __future__ import annotations

from typing import Any

import click

from dasknmf import NMF, open_run
from dasknmf.cli.exit_codes import friendly
from dasknmf.cli.job import (
    data_options,
    holdout_option,
    job,
    known_options,
    model_options,
    places_argument,
    run_options,
)
from dasknmf.cli.options import Count, with_options
from dasknmf.cli.output import resulted
from dasknmf.cli.summary import summary


@click.command()
@places_argument
@click.option("-k", "--n-components", type=Count(), required=True, help="Components to find.")
@with_options(model_options)
@click.option(
    "--n-init",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Start N times, in the same reads; the lowest loss is kept.",
)
@click.option(
    "--halving", is_flag=True, help="With --n-init: give up the higher half after 4, 8, 16… passes."
)
@with_options([*known_options, holdout_option, *data_options, *run_options])
@friendly
def fit(places: tuple[str, ...], holdout: float | None, **options: Any) -> None:
    """Factorize SOURCE; commit every pass to RUN.

    SOURCE is a Zarr array; or an AnnData on Zarr or in an .h5ad file, of several of which the cells are
    put one below the other, with the genes that all have; or, with --sample-dims, a stack of images that
    xarray has written to a Zarr store; or a GeoTIFF, of several of which, of one grid, time is a new dim.

    The same command started again goes on from the last commit; with a larger --max-iter or a
    smaller --tol a finished run is continued.
    """
    with job(places, options) as asked:
        NMF(**asked.nmf).fit(asked.V, holdout=holdout, **asked.fit)
    resulted(summary(open_run(asked.run)))
    asked.tell_where()
