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
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
import sklearn.decomposition
import threadpoolctl
from sklearn.exceptions import ConvergenceWarning

from benchmarks.data import drawn_counts, indian_pines
from benchmarks.runner import (
    interleaved,
    ratio_of_minima,
    ratio_of_steps,
    report,
    seconds_of,
    step_summary,
    summary,
    table,
)
from benchmarks.until import Race, loss_of
from dasknmf import NMF
from dasknmf.losses import NAMES, Loss

METHODS = [("cd", "frobenius"), *(("mu", loss) for loss in NAMES)]
_POOLS = threadpoolctl.ThreadpoolController()
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


USUAL = [
    *(Case(Drawn(10, 200), "float32", k, whole=k < 100) for k in (10, 20, 50, 100)),
    Case(Drawn(10, 200), "float64", 20),
    Case(Drawn(10, 2000), "float32", 20),
    Case(Drawn(10, 2000), "float64", 20),
    Case(Drawn(100, 2000), "float32", 20, whole=False),
    Case(Scene(), "float32", 20),
]
"""Every rank on one V, and one rank on the others."""


@dataclass(frozen=True)
class Duel:
    """One case by one method, on both sides."""

    case: Case
    solver: str
    beta_loss: str
    threads: int

    @cached_property
    def V(self) -> np.ndarray:
        return self.case.data.values(self.case.dtype, self.beta_loss)

    @property
    def named(self) -> dict[str, Any]:
        """What a row says of it."""
        return {
            "data": self.case.data.name,
            "shape": "x".join(map(str, self.V.shape)),
            "dtype": self.case.dtype,
            "solver": self.solver,
            "loss": self.beta_loss,
            "k": self.case.k,
        }

    def plain(self, counts: tuple[int, int], repeats: int) -> dict[str, Any]:
        """Seconds per iteration from the same start."""
        few, many = counts
        start = self._start()

        def ours(max_iter: int) -> None:
            self._fitted(self._ours(init="custom", tol=0, max_iter=max_iter, inner_iter=1), start)

        def theirs(max_iter: int, threads: int) -> None:
            with _POOLS.limit(limits=threads, user_api="blas"):
                self._fitted(self._theirs(init="custom", tol=0, max_iter=max_iter), start)

        ours(few)  # compiles kernels
        threads = self._better_threads(partial(theirs, few))
        calls: dict[str, Callable[[], Any]] = {}
        for max_iter in counts:
            calls[f"ours {max_iter}"] = partial(ours, max_iter)
            calls[f"theirs {max_iter}"] = partial(theirs, max_iter, threads)
        seconds = interleaved(calls, repeats)
        spans = [(seconds[f"{who} {few}"], seconds[f"{who} {many}"]) for who in ("ours", "theirs")]
        sides = [step_summary(span, many - few) for span in spans]
        return self._row("plain iteration", sides, ratio_of_steps(*spans), repeats, threads)

    def whole(self, repeats: int) -> dict[str, Any]:
        """Seconds to the error that scikit-learn's default settings reach."""
        theirs = self._theirs()

        def fitted(threads: int) -> np.ndarray:
            with _POOLS.limit(limits=threads, user_api="blas"):
                return self._fitted(theirs)

        threads = self._better_threads(fitted)
        target = loss_of(self.V, fitted(threads), theirs.components_, Loss.named(self.beta_loss))
        race = Race(self._ours(tol=0), self.V, target)
        passes, over = race.scouted()
        calls: dict[str, Callable[[], Any]] = {"theirs": partial(fitted, threads)}
        if passes is not None:
            calls["ours"] = race.record
        seconds = interleaved(calls, repeats)
        sides: list[dict[str, float]] = [{}, summary(seconds["theirs"])]
        ratio: dict[str, float] = {}
        if passes is not None:
            sides[0] = summary(seconds["ours"])
            ratio = ratio_of_minima(seconds["ours"], seconds["theirs"])
        reached = {"our passes": passes, "their iterations": theirs.n_iter_, "our D / theirs": over}
        return self._row("to the error", sides, ratio, repeats, threads) | reached

    def _better_threads(self, theirs: Callable[[int], Any]) -> int:
        """BLAS threads with which scikit-learn is faster: all, or one."""
        return min((self.threads, 1), key=lambda threads: seconds_of(partial(theirs, threads)))

    def _row(
        self,
        question: str,
        sides: list[dict[str, float]],
        ratio: dict[str, float],
        repeats: int,
        threads: int,
    ) -> dict[str, Any]:
        ours, theirs = sides
        return {
            "question": question,
            **self.named,
            **{f"our {key}": ours.get(key) for key in theirs},
            **{f"their {key}": value for key, value in theirs.items()},
            "theirs / ours": ratio.get("ratio"),
            "low": ratio.get("low"),
            "high": ratio.get("high"),
            "repeats": repeats,
            "their threads": threads,
        }

    def _start(self) -> dict[str, np.ndarray]:
        n, m = self.V.shape
        rng = np.random.default_rng(1)
        scale = float(np.sqrt(self.V.mean() / self.case.k))
        W, H = (rng.random(size) * 2 * scale for size in ((n, self.case.k), (self.case.k, m)))
        return {"W": W.astype(self.case.dtype), "H": H.astype(self.case.dtype)}

    def _ours(self, **parameters: Any) -> NMF:
        method = {"solver": self.solver, "beta_loss": self.beta_loss, "random_state": 0}
        return NMF(self.case.k, **method, **parameters)

    def _theirs(self, **parameters: Any) -> sklearn.decomposition.NMF:
        method = {"solver": self.solver, "beta_loss": self.beta_loss, "random_state": 0}
        return sklearn.decomposition.NMF(self.case.k, **method, **parameters)

    def _fitted(self, model: Any, start: dict[str, np.ndarray] | None = None) -> np.ndarray:
        # scikit-learn moves the W that it is given.
        given = {name: factor.copy() for name, factor in (start or {}).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit_transform(self.V, **given)


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
                duel = Duel(case, solver, loss, threads)
                rows.append(duel.plain(iterations, repeats))
                if fits and case.whole:
                    rows.append(duel.whole(fits))
    report("vs_sklearn", rows, out)
    table(by_loss(rows))


if __name__ == "__main__":
    main()
