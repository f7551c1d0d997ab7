"""In memory, against scikit-learn: seconds of a plain iteration, and seconds to the same error.

A *plain iteration* is the same arithmetic on both sides: the same custom start, `inner_iter=1`, no
stop rule. Two iteration counts are timed and their difference is divided by the iterations between
them, so that what is paid once (validation, survey, closing read) is on neither side.

*To the error*: scikit-learn fits with its default settings, and its final loss is the target. Ours
runs with its own defaults, from the call of `fit` to the first record whose loss is at most that.

Two threads each: of Dask for ours, of BLAS for theirs. BLAS threads that wait for each other cost
scikit-learn more than they bring on small V, so it is timed with one where an untimed run was faster.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np

from benchmarks.data import drawn_counts, indian_pines
from benchmarks.duel import METHODS, Duel
from benchmarks.runner import report, table
from dasknmf.core.losses import NAMES

_OFFSET = 0.1  # the Itakura-Saito divergence takes no zeros


@dataclass(frozen=True)
class Drawn:
    """Counts with a planted factorization."""

    megabytes: float
    n_features: int

    @property
    def name(self) -> str:
        return f"drawn {self.megabytes:g} MB"

    def values(self, dtype: str, beta_loss: str) -> np.ndarray:
        n_samples = int(self.megabytes * 1e6 / np.dtype(dtype).itemsize / self.n_features)
        offset = _OFFSET if beta_loss == "itakura-saito" else 0.0
        return drawn_counts(n_samples, self.n_features, dtype=dtype, offset=offset)


@dataclass(frozen=True)
class Scene:
    """Indian Pines."""

    name = "Indian Pines"

    def values(self, dtype: str, beta_loss: str) -> np.ndarray:
        return indian_pines(dtype)


@dataclass(frozen=True)
class Case:
    """One V and one rank, to be factorized by every method."""

    data: Drawn | Scene
    dtype: str
    k: int
    whole: bool = True
    """Whether whole fits are timed as well: scikit-learn's take minutes on the large ones."""

    def duel(self, solver: str, beta_loss: str, threads: int) -> Duel:
        V = self.data.values(self.dtype, beta_loss)
        return Duel(self.data.name, V, self.k, solver, beta_loss, threads)


USUAL = [
    *(Case(Drawn(10, 200), "float32", k, whole=k < 100) for k in (10, 20, 50, 100)),
    Case(Drawn(10, 200), "float64", 20),
    Case(Drawn(10, 2000), "float32", 20),
    Case(Drawn(10, 2000), "float64", 20),
    Case(Drawn(100, 2000), "float32", 20, whole=False),
    Case(Scene(), "float32", 20),
]
"""Every rank on one V, and one rank on the others."""


def cases(
    megabytes: tuple[float, ...], features: tuple[int, ...], dtypes: tuple[str, ...], ranks: tuple[int, ...]
) -> list[Case]:
    """The usual cases, or every combination of what is named."""
    if not (megabytes or features or dtypes or ranks):
        return USUAL
    sizes = itertools.product(megabytes or (10,), features or (200, 2000))
    return [
        Case(Drawn(*size), dtype, k)
        for size in sizes
        for dtype in dtypes or ("float32", "float64")
        for k in ranks or (20,)
    ]


def by_loss(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The smallest and the median ratio of each question and method; 0 where ours did not arrive."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = (row["question"], row["solver"], row["loss"])
        groups.setdefault(key, []).append(row["theirs / ours"] or 0.0)
    return [
        {
            **dict(zip(("question", "solver", "loss"), key, strict=True)),
            "cases": len(ratios),
            "not reached": ratios.count(0.0),
            "smallest": min(ratios),
            "median": statistics.median(ratios),
        }
        for key, ratios in sorted(groups.items())
    ]


@click.command()
@click.option("--loss", "losses", multiple=True, type=click.Choice(list(NAMES)), default=list(NAMES))
@click.option("--megabytes", multiple=True, type=float, help="Of drawn V.")
@click.option("-m", "--features", multiple=True, type=int, help="Of drawn V.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["float32", "float64"]))
@click.option("-k", "ranks", multiple=True, type=int)
@click.option("--iterations", type=(int, int), default=(5, 25), show_default=True, help="Their difference.")
@click.option("--repeats", default=5, show_default=True, help="Of plain iterations.")
@click.option("--fits", default=3, show_default=True, help="Repeats of whole fits; 0 for none.")
@click.option("--threads", default=2, show_default=True, help="Of Dask for ours, most of BLAS for theirs.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    losses: tuple[str, ...],
    megabytes: tuple[float, ...],
    features: tuple[int, ...],
    dtypes: tuple[str, ...],
    ranks: tuple[int, ...],
    iterations: tuple[int, int],
    repeats: int,
    fits: int,
    threads: int,
    out: Path | None,
) -> None:
    """Ratio of scikit-learn's seconds to ours, in memory.

    Where sizes, dtypes or ranks are named, all their combinations are measured, with 10 MB, 200 and
    2000 features, both dtypes and k = 20 for what is not named.
    """
    rows = []
    with dask.config.set(scheduler="threads", num_workers=threads):
        for case in cases(megabytes, features, dtypes, ranks):
            for solver, loss in METHODS:
                if loss not in losses:
                    continue
                duel = case.duel(solver, loss, threads)
                rows.append(duel.plain(iterations, repeats))
                if fits and case.whole:
                    rows.append(duel.whole(fits))
    report("vs_sklearn", rows, out)
    table(by_loss(rows))


if __name__ == "__main__":
    main()
