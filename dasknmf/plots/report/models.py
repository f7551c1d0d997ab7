"""The models of a run that fits several, in words and numbers: their progress, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from dasknmf.core.text import counted
from dasknmf.fitting.results import start_losses
from dasknmf.selection.rules import explained
from dasknmf.store.run import Run
from dasknmf.store.schema import Many

_QUANTILES = (0, 25, 50, 75, 95, 100)
"""Percentiles of the density that are shown."""
_COLUMNS = {
    "loss": "loss",
    "relative_error": "error",
    "holdout": "held out",
    "holdout_std": "±",
    "silhouette_min": "silhouette: min",
    "silhouette_mean": "mean",
    "instability": "instability",
    "dispersion": "dispersion",
    "cophenetic": "cophenetic",
}
"""Columns of the table of ranks, and their headings."""
_METHODS = {"restarts": "different random numbers", "nmfk": "NMFk", "consensus": "cNMF"}

Table = tuple[list[str], list[list[str]]]
"""A header and rows of cells."""


def many_of(run: Run) -> Many:
    """The ranks and starts of a sweep or a consensus."""
    assert run.identity.many is not None
    return run.identity.many


def findings_of(run: Run) -> dict[str, Any]:
    """The findings of a sweep or a consensus that has ended."""
    found = run.found
    assert found is not None
    return found


def ranks_of(run: Run) -> list[int]:
    """The number of components of each model of a run, in the order of their numbers."""
    many = run.identity.many
    ranks = [run.params["n_components"]] if many is None else many.ranks
    return [rank for rank in ranks for _ in range(starts_of(run))]


def starts_of(run: Run) -> int:
    """The number of starts of each number of components."""
    many = run.identity.many
    return int(run.params.get("n_init", 1) if many is None else many.n_init)


def is_sweep(run: Run) -> bool:
    return run.identity.many is not None and run.identity.many.method is not None


def is_consensus(run: Run) -> bool:
    return run.identity.many is not None and run.identity.many.consensus


def is_unfinished(run: Run) -> bool:
    """Whether a run is a sweep or a consensus that has not ended."""
    return run.identity.many is not None and (not run.concluded or run.found is None)


def components_text(run: Run) -> str:
    """The number of components; of a sweep also the numbers that are compared."""
    if not is_sweep(run):
        return str(run.params["n_components"])
    compared = ranges(many_of(run).ranks)
    return f"{run.n_components} of {compared}" if run.concluded else compared


def models_facts(run: Run) -> list[tuple[str, str]]:
    """The starts and ranks of a run of several models, and how many models have ended; else empty."""
    ranks = ranks_of(run)
    if len(ranks) == 1:
        return []
    many, n_init = run.identity.many, starts_of(run)
    facts = []
    if many is not None and many.method is not None:
        starts = counted(n_init, "start")
        facts.append(("sweep", f"{ranges(many.ranks)} components, {starts} of each: {_METHODS[many.method]}"))
    if is_consensus(run) and (run.concluded or not is_sweep(run)):
        facts.append(("consensus", f"{n_init} starts with {counted(run.n_components, 'component')}"))
    if many is None:
        facts.append(("starts", f"{n_init}; the one with the lowest loss is kept"))
    models = run.progress.models
    outcomes: Counter[str] = Counter(sorted(model.outcome for model in models if model.outcome is not None))
    outcomes["dropped"] = len(ranks) - len(models)
    ended = f"{outcomes.total()} of {len(ranks)} have ended"
    parts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
    return [*facts, ("models", f"{ended}: {parts}" if parts else ended)]


def model_table(run: Run) -> Table:
    """The progress and the losses of the models of each rank, of a sweep or a consensus."""
    ranks = np.asarray(ranks_of(run))
    losses = start_losses(run.history, len(ranks))
    rows = []
    for rank in many_of(run).ranks:
        models = [model for model in run.progress.models if ranks[model.model] == rank]
        passes = [model.iteration for model in models]
        known = losses[(ranks == rank) & np.isfinite(losses)]
        rows.append(
            [
                str(rank),
                f"{sum(model.outcome is not None for model in models)} of {len(models)}",
                _from_to(min(passes), max(passes)),
                f"{known.min():.6g}" if len(known) else "",
                f"{known.max():.6g}" if len(known) else "",
            ]
        )
    return ["components", "ended", "passes", "lowest loss", "highest loss"], rows


def start_table(run: Run) -> Table:
    """The loss and the outcome of each start, the lowest loss first."""
    losses = start_losses(run.history, len(ranks_of(run)))
    models = {model.model: model for model in run.progress.models}
    rows = []
    for start in np.argsort(losses, kind="stable").tolist():
        loss = f"{losses[start]:.8g}" if np.isfinite(losses[start]) else ""
        passes, outcome = "", "dropped"
        if start in models:
            passes, outcome = str(models[start].iteration), models[start].outcome or "running"
        rows.append([str(start), loss, passes, outcome])
    return ["start", "loss", "passes", "ended"], rows


def rank_table(run: Run) -> Table:
    """The measures of each rank of a sweep that has ended, with an arrow at the chosen rank."""
    found, ranks = findings_of(run), many_of(run).ranks
    known = [name for name in _COLUMNS if np.isfinite(found[name]).any()]
    rows = [
        [f"→ {rank}" if rank == found["best"] else str(rank), *(_cell(found[name][at]) for name in known)]
        for at, rank in enumerate(ranks)
    ]
    return ["components", *(_COLUMNS[name] for name in known)], rows


def reason(run: Run) -> str:
    """The reason for the choice of a sweep."""
    many, found = many_of(run), findings_of(run)
    why = explained(found["best"], many.ranks, found, found["rule"], n_init=many.n_init)
    return f"{counted(int(found['best']), 'component')}, by the rule {found['rule']}: {why}"


def consensus_facts(run: Run) -> list[tuple[str, str]]:
    """The density filter and the clusters of a consensus."""
    found = findings_of(run)
    kept, density = found["kept"], found["density"]
    finite = density[np.isfinite(density)]
    at = ", ".join(f"{value:.3g}" for value in np.percentile(finite, _QUANTILES)) if len(finite) else "none"
    sizes = np.bincount(found["labels"][kept])
    size, starts = found["local_neighborhood_size"], found["n_init"]
    return [
        ("spectra", f"{int(kept.sum())} of {len(kept)} kept: density below {found['density_threshold']:g}"),
        (
            f"percentiles of density ({', '.join(map(str, _QUANTILES))})",
            f"{at} (mean distance to {counted(int(size * starts), 'nearest neighbour')})",
        ),
        ("silhouette", f"{found['silhouette']:.3f} (mean of the spectra that were kept)"),
        ("spectra of each program", _from_to(int(sizes.min()), int(sizes.max()))),
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers as text, successive ones as ranges."""
    parts = [list(part) for _, part in groupby(enumerate(numbers), lambda each: each[1] - each[0])]
    return ", ".join(_from_to(part[0][1], part[-1][1]) for part in parts)


def _from_to(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _cell(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""
