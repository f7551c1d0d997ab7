"""The rank of a consensus: every rank from many starts in the same reads, a consensus of the one chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import silhouette_samples

from dasknmf.core.history import Callback
from dasknmf.errors import DataError
from dasknmf.selection import clusters
from dasknmf.selection.consensus import concluded, standing
from dasknmf.selection.parameters import checked, seeded
from dasknmf.selection.result import Consensus
from dasknmf.selection.rules import choose, default_rule
from dasknmf.selection.stability import instability
from dasknmf.selection.study import Factorization, Study, studying
from dasknmf.selection.sweep import RankSweep
from dasknmf.store.selection import COLUMNS

_RULES = ("silhouette", "stability")
"""Those that look at what a consensus tells of each rank."""


def k_selection(
    X: Any,
    n_components: Iterable[int],
    *,
    n_init: int = 100,
    density_threshold: float = 0.5,
    local_neighborhood_size: float = 0.30,
    rule: str | None = None,
    checkpoint: Any = None,
    overwrite: bool = False,
    stage: Any = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> tuple[RankSweep, Consensus]:
    """What cNMF [1]_ tells of each rank, and the consensus of the one that a rule chooses.

    A pass over X advances all starts of all ranks. For each rank their spectra are clustered as in
    `consensus`, none of them filtered; one read of X more tells the loss of the medians of all ranks.
    The consensus is then made of the starts that are there already, in two reads.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        As for `consensus`.
    n_components : iterable of int
        The ranks, ascending.
    n_init, density_threshold, local_neighborhood_size
        As for `consensus`.
    rule : {"silhouette", "stability"}, optional
        How the rank is chosen; see `dasknmf.selection.rules.choose`.
    checkpoint, overwrite, stage, callbacks
        As for `NMF.fit`. `open_sweep` and `open_consensus` both open what is at the checkpoint.
    **nmf
        Parameters of `NMF`; ``init="random"`` unless given.

    Returns
    -------
    sweep : RankSweep
        With ``method`` "consensus". ``silhouette_mean`` is cNMF's stability, the mean silhouette
        (Euclidean) of all spectra, ``silhouette_min`` that of the cluster where it is lowest; ``loss``, D(X
        | WH) for the medians with the best W: twice it is cNMF's prediction error. NaN for a rank whose
        spectra do not make as many clusters. ``dispersion`` and ``cophenetic`` are not known.
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
        raise ValueError("n_components is empty; a rank is chosen among several: give range(5, 13).")
    for rank in ranks:
        checked(rank, n_init, density_threshold, local_neighborhood_size)
    if rule not in (None, *_RULES):
        raise ValueError(
            f"rule is {rule!r}; the rank of a consensus is chosen by one of {list(_RULES)}: choose one."
        )
    if max(ranks) == 1 and rule != "stability":
        raise ValueError(
            f"n_components is {ranks}; one program has no silhouette, by which ranks are told apart: give "
            "range(2, 13), or consensus(X, 1)."
        )
    nmf = seeded(nmf)
    with studying(
        X,
        ranks,
        n_init,
        described={"consensus": True, "method": "consensus"},
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        **nmf,
    ) as study:
        found = study.work.run.found
        columns = _columns(study, ranks, n_init) if found is None else {name: found[name] for name in COLUMNS}
        if found is not None:
            study.n_asked = found["n_asked"]
        rule = rule or default_rule(columns)
        best = choose(ranks, columns, rule, n_init=n_init)
        asked = {"density_threshold": density_threshold, "local_neighborhood_size": local_neighborhood_size}
        consensus = standing(study, nmf, rule=rule, best=best, **asked)
        if consensus is None:
            consensus = concluded(
                study,
                study.many.of_rank(best),
                checked(best, n_init, density_threshold, local_neighborhood_size),
                nmf,
                told={"rule": rule, "best": best},
                columns=columns,
                **asked,
            )
        history = study.work.run.history
        sweep = RankSweep(
            [int(rank) for rank in ranks],
            n_init,
            "consensus",
            columns,
            rule,
            best,
            consensus.spectra.astype(study.work.inputs.model.dtype),
            consensus.usages,
            study.many.factorizations,
            history,
            history.reads + study.n_asked,
            consensus.feature_names,
        )
        return sweep, consensus


def _columns(study: Study, ranks: Sequence[int], n_init: int) -> dict[str, np.ndarray]:
    columns = {name: np.full(len(ranks), np.nan) for name in COLUMNS}
    middles: dict[int, np.ndarray] = {}
    for at, rank in enumerate(ranks):
        found = study.many.of_rank(rank)
        try:
            middles[at], widths = _unfiltered(found, rank)
        except DataError:
            continue  # of what is not known of a rank no rule chooses it
        columns["instability"][at] = instability([each.components for each in found])
        if len(widths):
            columns["silhouette_mean"][at] = np.concatenate(widths).mean()
            columns["silhouette_min"][at] = min(float(each.mean()) for each in widths)
    told = study.evaluated(list(middles.values())) if middles else []
    for at, each in zip(middles, told, strict=True):
        columns["loss"][at] = each.loss
    if study.work.inputs.model.loss.quadratic and study.sum_of_squares:
        unexplained = 2 * columns["loss"] / study.sum_of_squares
        columns["explained_variance"] = 1 - unexplained
        columns["relative_error"] = np.sqrt(unexplained)
    return columns


def _unfiltered(found: Sequence[Factorization], rank: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Medians of the clusters of all spectra, and the silhouettes of each cluster: none for one cluster."""
    stack = clusters.stacked([each.components for each in found])
    alive = np.where(stack.any(axis=1), 0.0, np.inf)
    labels = clusters.clustered(stack, alive, clusters.NO_FILTER, rank)
    spectra = clusters.medians(stack, labels, rank)
    kept = labels >= 0
    if not 1 < rank < kept.sum():
        return spectra, []
    widths = silhouette_samples(stack[kept], labels[kept])
    return spectra, [widths[labels[kept] == cluster] for cluster in range(rank)]
