"""``dasknmf sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import click

from dasknmf import open_run, rank_sweep
from dasknmf.cli.job import CONFIG, ConstrainedJob
from dasknmf.cli.options import command, option
from dasknmf.cli.output import result
from dasknmf.cli.parameter_types import RANKS
from dasknmf.cli.summary import summary
from dasknmf.core.solvers.resampled import EPSILON, Kind
from dasknmf.selection.rules import RULES
from dasknmf.selection.sweep import Method


@dataclass(frozen=True, kw_only=True)
class Sweep(ConstrainedJob):
    """Arguments and options of `sweep`.

    Raises
    ------
    click.UsageError
        If they contradict each other.
    """

    n_components: list[int] = option(
        "Numbers of components to compare, ascending: 5-15, or 2,4,8, or 10-50:10 for every tenth. A "
        "--config file may also give a list.",
        "-k",
        "--n-components",
        type=RANKS,
        required=True,
    )
    n_init: int = option("Number of starts for each number of components.", default=10, metavar="N")
    method: Method = option(
        "How the starts differ: by random numbers only (restarts), or also by a resampled SOURCE (nmfk).",
        type=click.Choice(["restarts", "nmfk"]),
        default="restarts",
    )
    perturb: Kind | None = option(
        "With --method nmfk, how SOURCE is resampled: random weights of rows, entries times "
        "1 + U(-epsilon, epsilon), or Poisson counts.  [default: rows]",
        type=click.Choice(get_args(Kind)),
    )
    epsilon: float | None = option(f"Range of --perturb uniform.  [default: {EPSILON:g}]", type=float)
    rule: str | None = option(
        "Rule that chooses the number of components.  [default: holdout with --holdout, else silhouette]",
        type=click.Choice(RULES),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "nmfk" and (self.perturb is not None or self.epsilon is not None):
            raise click.UsageError("--perturb and --epsilon need --method nmfk: add it, or leave them out.")
        if self.epsilon is not None and self.perturb != "uniform":
            raise click.UsageError("--epsilon needs --perturb uniform: add it, or leave --epsilon out.")


@command(Sweep, CONFIG)
def sweep(job: Sweep) -> None:
    """Compare several numbers of components, in the same reads.

    SOURCE is as in `dasknmf fit`, and is factorized from many starts for each number of components. RUN holds
    the loss of each number and the agreement of its starts; W and H of RUN are those of the number that the
    rule chooses.

    The same command resumes an interrupted run after its last saved pass. Another --rule only repeats the
    choice of the number of components.
    """
    with job.working() as (V, parameters, options):
        rank_sweep(
            V,
            job.n_components,
            n_init=job.n_init,
            holdout=job.holdout,
            method=job.method,
            perturb=job.perturb or "rows",
            epsilon=EPSILON if job.epsilon is None else job.epsilon,
            rule=job.rule,
            **options,
            **parameters,
        )
    result(summary(open_run(job.run)))
    job.report_next_steps()
    result(f"all factorizations: dasknmf.open_sweep({job.run!r})")
