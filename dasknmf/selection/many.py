"""Many factorizations of one V."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from dasknmf.estimator import NMF


@dataclass(frozen=True)
class Factorization:
    """One of many.

    Parameters
    ----------
    n_components : int
    seed : int
        The `random_state` with which `NMF` alone makes the same one.
    components : ndarray of shape (n_components, n_features)
        H.
    loss, objective : float
        D(V | WH), and the same with penalties.
    holdout : float or None
        The divergence over hidden entries, per entry.
    n_iter : int
        Exact passes.
    outcome : str
        ``"converged"`` or ``"max_iter"``.
    """

    n_components: int
    seed: int
    components: np.ndarray
    loss: float
    objective: float
    holdout: float | None
    n_iter: int
    outcome: str


@dataclass(frozen=True)
class Many:
    """All of them.

    Parameters
    ----------
    factorizations : tuple of Factorization
        Those of the first rank first, in the order of their seeds.
    sum_of_squares : float
        Σ v².
    n_reads : float
        Of V, for all of them together.
    """

    factorizations: tuple[Factorization, ...]
    sum_of_squares: float
    n_reads: float

    def of_rank(self, n_components: int) -> list[Factorization]:
        return [each for each in self.factorizations if each.n_components == n_components]


def many(X: Any, ranks: Sequence[int], n_init: int, *, random_state: Any = None, **nmf: Any) -> Many:
    """Every rank from `n_init` starts."""
    rng = check_random_state(random_state)
    found, reads, squares = [], 0.0, 0.0
    for n_components in ranks:
        for seed in rng.randint(np.iinfo(np.int32).max, size=n_init).tolist():
            model = NMF(n_components, random_state=seed, **nmf).fit(X)
            reads, squares = reads + model.n_reads_, model.sum_of_squares_
            last = model.history_[-1]
            found.append(
                Factorization(
                    n_components,
                    seed,
                    model.components_,
                    last.loss,
                    last.objective,
                    None,
                    model.n_iter_,
                    "converged",
                )
            )
    return Many(tuple(found), squares, reads)
