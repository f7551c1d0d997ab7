"""``dasknmf consensus``."""

from __future__ import annotations

from typing import Any

import click

import dasknmf
from dasknmf import open_run
from dasknmf.cli.exit_codes import friendly
from dasknmf.cli.job import data_options, job, model_options, places_argument, run_options
from dasknmf.cli.options import with_options
from dasknmf.cli.output import resulted
from dasknmf.cli.summary import summary
from dasknmf.cli.top import leading


@click.command()
@places_argument
@click.option("-k", "--n-components", type=int, required=True, help="Programs to find.")
@click.option("--n-init", type=int, default=100, show_default=True, metavar="N", help="Factorizations.")
@click.option(
    "--density-threshold",
    type=float,
    default=0.5,
    show_default=True,
    help="Spectra whose mean distance to their nearest is not below are left out; 2 leaves out none.",
)
@click.option(
    "--local-neighborhood-size",
    type=float,
    default=0.30,
    show_default=True,
    metavar="SHARE",
    help="How many are the nearest: this share of --n-init.",
)
@with_options([*model_options, *data_options, *run_options])
@friendly
def consensus(
    places: tuple[str, ...],
    n_components: int,
    n_init: int,
    density_threshold: float,
    local_neighborhood_size: float,
    **options: Any,
) -> None:
    """Find the programs that most of many factorizations of SOURCE agree on (consensus NMF).

    SOURCE is what `dasknmf fit` takes. W of RUN then are the usages of the programs, H their spectra.

    The same command started again goes on from the last commit; with another --density-threshold or
    --local-neighborhood-size it only clusters again.
    """
    with job(places, options) as asked:
        dasknmf.consensus(
            asked.V,
            n_components,
            n_init=n_init,
            density_threshold=density_threshold,
            local_neighborhood_size=local_neighborhood_size,
            **asked.fit,
            **asked.given,
        )
    run = open_run(asked.run)
    resulted(summary(run))
    if run.feature_names is not None and not asked.stacked:
        resulted(leading(run, 10))
    asked.tell_where()
    resulted(f"every spectrum and its cluster: dasknmf.open_consensus({asked.run!r})")
