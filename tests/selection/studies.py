"""Studies for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dasknmf.fitting.problem import FitOptions
from dasknmf.selection.k_selection import k_selection
from dasknmf.selection.parameters import Clustering
from dasknmf.selection.result import Consensus
from dasknmf.selection.study import Study, open_study
from dasknmf.selection.sweep import RankSweep

_CLUSTERING = ("n_init", "density_threshold", "local_neighborhood_size")
_OPTIONS = ("checkpoint", "overwrite", "stage", "callbacks")


def many(X: Any, ranks: Sequence[int], n_init: int, **parameters: Any) -> Study:
    """A study that has ended; its V is closed."""
    options = FitOptions(**_taken(parameters, ("holdout", "resampling", *_OPTIONS)))
    with open_study(X, ranks, n_init, options, **parameters) as study:
        return study


def selected(
    X: Any, n_components: Iterable[int], rule: str | None = None, **parameters: Any
) -> tuple[RankSweep, Consensus]:
    """The sweep and the consensus of `k_selection`, given parameters by name."""
    clustering = Clustering(**_taken(parameters, _CLUSTERING))
    options = FitOptions(**_taken(parameters, _OPTIONS))
    return k_selection(X, n_components, clustering, options, rule=rule, **parameters)


def _taken(parameters: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: parameters.pop(name) for name in names if name in parameters}
