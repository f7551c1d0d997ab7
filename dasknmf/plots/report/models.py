"""The models of a run that fits several, in words and numbers: their progress, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

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
    """The factorizations of a sweep or a consensus."""
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


def is_study(run: Run) -> bool:
    """Whether a run is a rank sweep or a consensus."""
    return run.identity.many is not None


def chosen_row(run: Run) -> int:
    """The row of the rank table that holds the chosen number of components."""
    return many_of(run).ranks.index(findings_of(run)["best"])


def is_unfinished(run: Run) -> bool:
    """Whether a run is a sweep or a consensus without findings yet."""
    return run.identity.many is not None and (not run.concluded or run.found is None)


def components_text(run: Run) -> str:
    """The number of components, and of a sweep the numbers that it tries."""
    if not is_sweep(run):
        return str(run.params["n_components"])
    tried = ranges(many_of(run).ranks)
    return f"{run.n_components} of {tried}" if run.concluded else tried


def models_facts(run: Run) -> list[tuple[str, str]]:
    """The models of a run and the number that have ended; empty for a run of one model."""
    ranks = ranks_of(run)
    if len(ranks) == 1:
        return []
    many, n_init = run.identity.many, starts_of(run)
    facts = []
    if many is not None and many.method is not None:
        how = f"{'1 start' if n_init == 1 else f'{n_init} starts'} of each: {_METHODS[many.method]}"
        facts.append(("sweep", f"{ranges(many.ranks)} components, {how}"))
    if is_consensus(run) and (run.concluded or not is_sweep(run)):
        facts.append(("consensus", f"of {n_init} starts with {run.n_components} components"))
    if many is None:
        facts.append(("starts", f"{n_init}, of which the lowest loss is kept"))
    return [*facts, ("models", outcomes_text(run, len(ranks)))]


def outcomes_text(run: Run, n_models: int) -> str:
    """The number of models that have ended, by outcome."""
    outcomes = Counter(member.outcome for member in run.progress.models if member.outcome is not None)
    given_up = n_models - len(run.progress.models)
    running = len(run.progress.models) - outcomes.total()
    parts = [f"{outcomes[name]} {name}" for name in sorted(outcomes)]
    parts += [f"{given_up} given up"] if given_up else []
    ended = f"{n_models - running} of {n_models} have ended"
    return f"{ended}: {', '.join(parts)}" if parts else ended


def model_table(run: Run) -> Table:
    """The progress of the models of each rank, and their losses."""
    ranks = np.asarray(ranks_of(run))
    losses = start_losses(run.history, len(ranks))
    members = {member.model: member for member in run.progress.models}
    rows = []
    for rank in np.unique(ranks).tolist():
        own = np.flatnonzero(ranks == rank).tolist()
        there = [members[model] for model in own if model in members]
        ended = len(own) - sum(member.outcome is None for member in there)
        known = losses[own][np.isfinite(losses[own])]
        passes = [member.iteration for member in there]
        rows.append(
            [
                str(rank),
                f"{ended} of {len(own)}",
                _from_to(min(passes), max(passes)),
                f"{known.min():.6g}" if len(known) else "",
                f"{known.max():.6g}" if len(known) else "",
            ]
        )
    return ["components", "ended", "passes", "lowest loss", "highest"], rows


def start_table(run: Run) -> Table:
    """The loss and the outcome of each start, the lowest loss first."""
    losses = start_losses(run.history, len(ranks_of(run)))
    members = {member.model: member for member in run.progress.models}
    rows = []
    for model in np.argsort(losses, kind="stable").tolist():
        member, loss = members.get(model), losses[model]
        how = "given up" if member is None else member.outcome or "running"
        passes = "" if member is None else str(member.iteration)
        rows.append([str(model), f"{loss:.8g}" if np.isfinite(loss) else "", passes, how])
    return ["start", "loss", "passes", "ended"], rows


def rank_table(run: Run) -> Table:
    """The measures of each rank of a sweep that has ended, the chosen rank marked."""
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
    return f"{found['best']} components, by the rule {found['rule']}: {why}"


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
            f"density at {', '.join(map(str, _QUANTILES))} %",
            f"{at} (mean distance to the nearest {int(size * starts)})",
        ),
        ("silhouette", f"{found['silhouette']:.3f} (mean of the spectra that were kept)"),
        ("spectra of each program", _from_to(int(sizes.min()), int(sizes.max()))),
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers as text, runs of them as ranges."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(_from_to(part[0], part[-1]) for part in parts)


def _from_to(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _cell(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""
