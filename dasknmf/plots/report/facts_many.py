"""A run of many factorizations in words and numbers: how far they are, and what was found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dasknmf.fitting.results import start_losses
from dasknmf.selection.rules import explained

_QUANTILES = (0, 25, 50, 75, 95, 100)
"""Percent of the spectra, of which densities are told."""
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
"""Of the table of ranks, and what heads them."""
_METHODS = {"restarts": "different random numbers", "nmfk": "NMFk", "consensus": "cNMF"}

Table = tuple[list[str], list[list[str]]]
"""A header and rows of cells."""


def ranks_of(run: Any) -> list[int]:
    """The number of components of each model of a run, in the order of their numbers."""
    many = run.identity.many
    ranks = [run.params["n_components"]] if many is None else many.ranks
    return [rank for rank in ranks for _ in range(starts_of(run))]


def starts_of(run: Any) -> int:
    """From how many starts each number of components was fitted."""
    many = run.identity.many
    return int(run.params.get("n_init", 1) if many is None else many.n_init)


def is_sweep(run: Any) -> bool:
    return run.identity.many is not None and run.identity.many.method is not None


def is_consensus(run: Any) -> bool:
    return run.identity.many is not None and run.identity.many.consensus


def is_study(run: Any) -> bool:
    """Whether a run is a rank sweep or a consensus."""
    return run.identity.many is not None


def chosen_row(run: Any) -> int:
    """The row of the rank table that holds the chosen number of components."""
    return int(run.identity.many.ranks.index(run.found["best"]))


def is_unfinished(run: Any) -> bool:
    """Whether it is of many factorizations, and nothing was concluded from them as they stand."""
    return run.identity.many is not None and (not run.concluded or run.found is None)


def components_told(run: Any) -> str:
    """How many components, or of which ranks."""
    if not is_sweep(run):
        return str(run.params["n_components"])
    told = ranges(run.identity.many.ranks)
    return f"{run.n_components} of {told}" if run.concluded else told


def many_facts(run: Any) -> list[tuple[str, str]]:
    """What of many a run is, and how many of its models have ended; nothing for a single one."""
    ranks = ranks_of(run)
    if len(ranks) == 1:
        return []
    several, n_init = run.identity.many, starts_of(run)
    facts = []
    if is_sweep(run):
        way = _METHODS[several.method]
        facts.append(("sweep", f"{ranges(several.ranks)} components, {_starts(n_init)} of each: {way}"))
    if is_consensus(run) and (run.concluded or not is_sweep(run)):
        facts.append(("consensus", f"of {n_init} starts with {run.n_components} components"))
    if run.identity.many is None:
        facts.append(("starts", f"{n_init}, of which the lowest loss is kept"))
    return [*facts, ("models", models_told(run, len(ranks)))]


def models_told(run: Any, n_models: int) -> str:
    """How many have ended, and how."""
    outcomes = Counter(member.outcome for member in run.progress.models)
    given_up, running = n_models - len(run.progress.models), outcomes.pop(None, 0)
    parts = [f"{outcomes[name]} {name}" for name in sorted(outcomes)]
    parts += [f"{given_up} given up"] if given_up else []
    told = f"{n_models - running} of {n_models} have ended"
    return f"{told}: {', '.join(parts)}" if parts else told


def model_table(run: Any) -> Table:
    """How far the models of each rank are, and how low."""
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


def start_table(run: Any) -> Table:
    """Each start: its loss, and how it ended; the lowest first."""
    losses = start_losses(run.history, len(ranks_of(run)))
    members = {member.model: member for member in run.progress.models}
    rows = []
    for model in np.argsort(losses, kind="stable").tolist():
        member, loss = members.get(model), losses[model]
        how = "given up" if member is None else member.outcome or "running"
        passes = "" if member is None else str(member.iteration)
        rows.append([str(model), f"{loss:.8g}" if np.isfinite(loss) else "", passes, how])
    return ["start", "loss", "passes", "ended"], rows


def rank_table(run: Any) -> Table:
    """What is known of each rank of a sweep that has ended; the chosen one is marked."""
    found, ranks = run.found, run.identity.many.ranks
    known = [name for name in _COLUMNS if np.isfinite(found[name]).any()]
    rows = [
        [f"→ {rank}" if rank == found["best"] else str(rank), *(_cell(found[name][at]) for name in known)]
        for at, rank in enumerate(ranks)
    ]
    return ["components", *(_COLUMNS[name] for name in known)], rows


def reason(run: Any) -> str:
    """Why the sweep's rank is the one that it is."""
    several, found = run.identity.many, run.found
    why = explained(found["best"], several.ranks, found, found["rule"], n_init=several.n_init)
    return f"{found['best']} components, by the rule {found['rule']}: {why}"


def consensus_facts(run: Any) -> list[tuple[str, str]]:
    """How dense the spectra are, how many of them were kept, and how well these part."""
    found = run.found
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
        ("silhouette", f"{found['silhouette']:.3f} (mean of those that were kept)"),
        ("spectra of each program", _from_to(int(sizes.min()), int(sizes.max()))),
    ]


def _starts(n_init: int) -> str:
    return "1 start" if n_init == 1 else f"{n_init} starts"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers that ascend, those that follow each other as a range."""
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
