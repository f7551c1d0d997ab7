"""``dasknmf sweep``."""

from __future__ import annotations

from typing import Any, get_args

import click

from dasknmf import open_run, rank_sweep
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
from dasknmf.cli.options import Ranks, with_options
from dasknmf.cli.output import resulted
from dasknmf.cli.summary import summary
from dasknmf.core.solvers.resampled import EPSILON, Kind
from dasknmf.selection.rules import RULES
from dasknmf.selection.sweep import Method


@click.command()
@places_argument
@click.option(
    "-k",
    "--n-components",
    type=Ranks(),
    required=True,
    help="Ranks to compare, ascending: 5-15, or 2,4,8, or 10-50:10 for every tenth. In a file also a list.",
)
@click.option("--n-init", type=int, default=10, show_default=True, metavar="N", help="Starts of each rank.")
@click.option(
    "--method",
    type=click.Choice(["restarts", "nmfk"]),
    default="restarts",
    show_default=True,
    help="What starts differ by: random numbers, or also a perturbation of SOURCE for each.",
)
@click.option(
    "--perturb",
    type=click.Choice(get_args(Kind)),
    help="Of --method nmfk: rows count at random, entries times 1 + U(-epsilon, epsilon), or counts drawn "
    "anew.  [default: rows]",
)
@click.option("--epsilon", type=float, help=f"Of --perturb uniform.  [default: {EPSILON:g}]")
@click.option(
    "--rule",
    type=click.Choice(RULES),
    help="How the rank is chosen.  [default: holdout with --holdout, else silhouette]",
)
@with_options([*model_options, *known_options, holdout_option, *data_options, *run_options])
@friendly
def sweep(
    places: tuple[str, ...],
    n_components: list[int],
    n_init: int,
    method: Method,
    perturb: Kind | None,
    epsilon: float | None,
    rule: str | None,
    holdout: float | None,
    **options: Any,
) -> None:
    """Factorize SOURCE with several numbers of components, each from many starts, in the same reads.

    SOURCE is what `dasknmf fit` takes. RUN then tells of each rank its loss and how far its starts agree;
    its W and H are those of the rank that the rule chooses.

    The same command started again goes on from the last commit; with another --rule it only chooses again.
    """
    if method != "nmfk" and (perturb is not None or epsilon is not None):
        raise click.UsageError("--perturb and --epsilon are for --method nmfk: give it, or leave them out.")
    if epsilon is not None and perturb != "uniform":
        raise click.UsageError("--epsilon is for --perturb uniform: give it, or leave --epsilon out.")
    with job(places, options) as asked:
        rank_sweep(
            asked.V,
            n_components,
            n_init=n_init,
            holdout=holdout,
            method=method,
            perturb=perturb or "rows",
            epsilon=EPSILON if epsilon is None else epsilon,
            rule=rule,
            **asked.fit,
            **asked.given,
        )
    resulted(summary(open_run(asked.run)))
    asked.tell_where()
    resulted(f"all factorizations: dasknmf.open_sweep({asked.run!r})")
