"""One V factorized by this package and by scikit-learn in memory, and how long each takes.

Two threads each: of Dask for ours, of BLAS for theirs. BLAS threads that wait for each other cost
scikit-learn more than they bring on small V, so it is timed with one where an untimed run was faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sklearn.decomposition
import threadpoolctl
from sklearn.exceptions import ConvergenceWarning

from benchmarks.runner import (
    interleaved,
    ratio_of_minima,
    ratio_of_steps,
    seconds_of,
    step_summary,
    summary,
)
from benchmarks.until import Race, loss_of
from dasknmf import NMF
from dasknmf.core.losses import NAMES, Loss

METHODS = [("cd", "frobenius"), *(("mu", loss) for loss in NAMES)]
_POOLS = threadpoolctl.ThreadpoolController()


@dataclass(frozen=True)
class Duel:
    """One V by one method, on both sides.

    Parameters
    ----------
    data : str
        What V is.
    V : ndarray or sparse array
    k : int
    solver, beta_loss : str
    threads : int
    """

    data: str
    V: Any
    k: int
    solver: str
    beta_loss: str
    threads: int

    @property
    def named(self) -> dict[str, Any]:
        """What a row says of it."""
        return {
            "data": self.data,
            "shape": "x".join(map(str, self.V.shape)),
            "dtype": str(self.V.dtype),
            "solver": self.solver,
            "loss": self.beta_loss,
            "k": self.k,
        }

    def plain(self, counts: tuple[int, int], repeats: int) -> dict[str, Any]:
        """Seconds per iteration from the same start."""
        few, many = counts
        start = self.start()

        def ours(max_iter: int) -> np.ndarray:
            return self.iterated("ours", max_iter, start)

        def theirs(max_iter: int, threads: int) -> np.ndarray:
            with _POOLS.limit(limits=threads, user_api="blas"):
                return self.iterated("theirs", max_iter, start)

        W = ours(few)  # compiles kernels
        threads = self._better_threads(partial(theirs, few))
        differs = float(np.abs(W - theirs(few, threads)).max() / W.max())
        calls: dict[str, Callable[[], Any]] = {}
        for max_iter in counts:
            calls[f"ours {max_iter}"] = partial(ours, max_iter)
            calls[f"theirs {max_iter}"] = partial(theirs, max_iter, threads)
        seconds = interleaved(calls, repeats)
        spans = [(seconds[f"{who} {few}"], seconds[f"{who} {many}"]) for who in ("ours", "theirs")]
        sides = [step_summary(span, many - few) for span in spans]
        row = self._row("plain iteration", sides, ratio_of_steps(*spans), repeats, threads)
        return row | {"W differs": differs}

    def iterated(self, who: str, max_iter: int, start: dict[str, np.ndarray]) -> np.ndarray:
        """W after plain iterations of one side."""
        if who == "ours":
            return self._fitted(self._ours(init="custom", tol=0, max_iter=max_iter, inner_iter=1), start)
        return self._fitted(self._theirs(init="custom", tol=0, max_iter=max_iter), start)

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

    def start(self) -> dict[str, np.ndarray]:
        """Random W and H of the size that suits V."""
        n, m = self.V.shape
        rng = np.random.default_rng(1)
        scale = float(np.sqrt(self.V.mean() / self.k))
        W, H = (rng.random(size) * 2 * scale for size in ((n, self.k), (self.k, m)))
        return {"W": W.astype(self.V.dtype), "H": H.astype(self.V.dtype)}

    def _ours(self, **parameters: Any) -> NMF:
        method = {"solver": self.solver, "beta_loss": self.beta_loss, "random_state": 0}
        return NMF(self.k, **method, **parameters)

    def _theirs(self, **parameters: Any) -> sklearn.decomposition.NMF:
        method = {"solver": self.solver, "beta_loss": self.beta_loss, "random_state": 0}
        return sklearn.decomposition.NMF(self.k, **method, **parameters)

    def _fitted(self, model: Any, start: dict[str, np.ndarray] | None = None) -> np.ndarray:
        # scikit-learn moves the W that it is given.
        given = {name: factor.copy() for name, factor in (start or {}).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit_transform(self.V, **given)
