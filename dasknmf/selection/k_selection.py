"""Selection of the number of programs: a consensus of every rank, and a rule that chooses a rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.metrics import silhouette_samples

from dasknmf.data.source import MatrixLike
from dasknmf.errors import DataError
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection import clusters
from dasknmf.selection.consensus import study_consensus
from dasknmf.selection.parameters import Clustering, check_starts
from dasknmf.selection.result import Consensus
from dasknmf.selection.stability import instability
from dasknmf.selection.study import Factorization, Study, open_study
from dasknmf.selection.sweep import RankSweep, sweep_of

_RULES = ("silhouette", "stability")
"""Rules whose columns a consensus of each rank fills."""


def k_selection(
    X: MatrixLike,
    n_components: Iterable[int],
    clustering: Clustering,
    options: FitOptions,
    *,
    rule: str | None = None,
    **nmf: Any,
) -> tuple[RankSweep, Consensus]:
    """Stability and error of every rank as in cNMF [1]_, and the consensus of the rank that a rule chooses.

    A pass over X advances all starts of all ranks. For each rank the spectra are clustered as in `consensus`,
    but not filtered; one more read of X computes the loss of the medians of all ranks. Two reads then make
    the consensus of the chosen rank from the same starts.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        As for `consensus`.
    n_components : iterable of int
        The ranks, ascending.
    clustering : Clustering
        For the consensus of the chosen rank.
    options : FitOptions
        `checkpoint`, `overwrite`, `stage` and `callbacks`. `open_sweep` and `open_consensus` both open a
        checkpoint.
    rule : {"silhouette", "stability"}, optional
        The rule that chooses the rank; see `dasknmf.selection.rules.choose`.
    **nmf
        Parameters of `NMF`; ``init="random"`` unless given.

    Returns
    -------
    sweep : RankSweep
        With ``method`` "consensus". ``silhouette_mean`` is the stability of cNMF: the mean silhouette
        (Euclidean) of all spectra; ``silhouette_min`` is the lowest mean of a cluster. ``loss`` is D(X | WH)
        of the medians with the best W: half the prediction error of cNMF. NaN for a rank with fewer clusters
        than components. ``dispersion`` and ``cophenetic`` are NaN.
    consensus : Consensus

    Raises
    ------
    ValueError, DataError, SourceError
        As `rank_sweep` and `consensus`.

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.
    """
    ranks = list(n_components)
    if not ranks:
        raise ValueError("n_components is empty; give several numbers of components, such as range(5, 13).")
    for rank in ranks:
        clustering.check(rank)
    if rule not in (None, *_RULES):
        raise ValueError(f"rule is {rule!r}; the rules of a consensus are {list(_RULES)}: choose one.")
    if max(ranks) == 1 and rule != "stability":
        raise ValueError(
            f"n_components is {ranks}; one program has no silhouette, by which numbers of components are "
            "compared: give for example range(2, 13), or use consensus(X, 1)."
        )
    check_starts(nmf)
    options = replace(options, many={"consensus": True, "method": "consensus"})
    with open_study(X, ranks, clustering.n_init, options, **nmf) as study:
        choice = study.choice(ranks, rule, lambda: _columns(study, ranks))
        consensus = study_consensus(study, choice.best, clustering, choice)
        H = consensus.spectra.astype(study.session.inputs.model.dtype)
        return sweep_of(study, "consensus", choice, H, consensus.usages), consensus


def _columns(study: Study, ranks: Sequence[int]) -> dict[str, np.ndarray]:
    medians: dict[int, np.ndarray] = {}
    widths: dict[int, list[np.ndarray]] = {}
    for at, rank in enumerate(ranks):
        try:
            medians[at], widths[at] = _unfiltered(study.of_rank(rank), rank)
        except DataError:
            continue  # the columns of this rank remain NaN, and no rule chooses it
    losses = np.full(len(ranks), np.nan)
    if medians:
        losses[list(medians)] = [each.loss for each in study.evaluated(list(medians.values()))]
    columns = study.rank_columns(ranks, losses)
    for at, clusters_of_rank in widths.items():
        columns["instability"][at] = instability([each.components for each in study.of_rank(ranks[at])])
        if clusters_of_rank:
            columns["silhouette_mean"][at] = np.concatenate(clusters_of_rank).mean()
            columns["silhouette_min"][at] = min(float(each.mean()) for each in clusters_of_rank)
    return columns


def _unfiltered(factorizations: Sequence[Factorization], rank: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Medians of the clusters of all spectra, and the silhouettes of each cluster: none for one cluster."""
    stack = clusters.stacked([each.components for each in factorizations])
    alive = np.where(stack.any(axis=1), 0.0, np.inf)
    labels = clusters.clustered(stack, alive, clusters.NO_FILTER, rank)
    spectra = clusters.medians(stack, labels, rank)
    kept = labels >= 0
    if not 1 < rank < kept.sum():
        return spectra, []
    widths = silhouette_samples(stack[kept], labels[kept])
    return spectra, [widths[labels[kept] == cluster] for cluster in range(rank)]
