"""How many components? The measures of every rank, where the rank was planted and where nobody knows it.

*bumps*: those of `data`, of rank 7. *counts* and *log1p*: celltypist's sample of cells, raw and as
log(1 + counts per 10 000), whose rank is a matter of taste.

Every rank from several starts with entries held out, or, with the method nmfk, from perturbed V. `best` is
marked in the table; `--pictures` says where the figures go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np

from benchmarks.data import bumps
from benchmarks.real import expression, log_expression
from benchmarks.runner import report
from dasknmf import rank_sweep

METHODS = ("restarts", "nmfk")
DATA: dict[str, Callable[[], np.ndarray]] = {"bumps": bumps, "counts": expression, "log1p": log_expression}


def rows_of(
    name: str, X: np.ndarray, ranks: range, n_init: int, holdout: float, method: str, pictures: Path | None
) -> list[dict[str, Any]]:
    """A row per rank."""
    began = time.perf_counter()
    # NMFk judges a rank by how its perturbed fits agree: nothing is held out.
    hidden = {"holdout": holdout} if method == "restarts" else {}
    sweep = rank_sweep(X, ranks, n_init=n_init, method=method, random_state=0, **hidden)
    seconds = time.perf_counter() - began
    print(f"{name} by {method}: {seconds:.1f} s, best {sweep.best} by the rule {sweep.rule}")
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        sweep.plot().figure.savefig(pictures / f"{name}-{method}.png", dpi=110)
    rows = []
    for rank, measures in sweep.to_dataframe().iterrows():
        best = "*" if rank == sweep.best else None
        rows.append({"data": name, "method": method, "rank": rank, "best": best, **measures.dropna()})
    rows[0]["seconds"] = seconds
    return rows


@click.command()
@click.option("--data", type=click.Choice(list(DATA)), multiple=True, default=tuple(DATA), show_default=True)
@click.option("--method", "methods", type=click.Choice(METHODS), multiple=True, default=METHODS)
@click.option("--ranks", type=(int, int), default=(2, 12), show_default=True, help="First and last.")
@click.option("--n-init", default=10, show_default=True, help="Starts, or perturbations, of each rank.")
@click.option("--holdout", default=0.05, show_default=True, help="Of the entries, for restarts.")
@click.option("--shape", type=(int, int), default=(2000, 500), show_default=True, help="Of the bumps.")
@click.option("--threads", default=2, show_default=True)
@click.option("--pictures", type=click.Path(path_type=Path), help="Write PNGs into this directory.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    data: tuple[str, ...],
    methods: tuple[str, ...],
    ranks: tuple[int, int],
    n_init: int,
    holdout: float,
    shape: tuple[int, int],
    threads: int,
    pictures: Path | None,
    out: Path | None,
) -> None:
    """The measures of every rank, as a table."""
    rows = []
    with dask.config.set(scheduler="threads", num_workers=threads):
        for name in data:
            X = bumps(*shape) if name == "bumps" else DATA[name]()
            for method in methods:
                rows += rows_of(name, X, range(ranks[0], ranks[1] + 1), n_init, holdout, method, pictures)
    report("ranks", rows, out)


if __name__ == "__main__":
    main()
