"""Consensus NMF: the programs that factorizations from many starts share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf.core.history import Callback
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection import clusters
from dasknmf.selection.parameters import Clustering, RandomState, Stage, check_starts
from dasknmf.selection.result import Consensus, consensus_of
from dasknmf.selection.study import Choice, Study, finished_run, open_study

_STORED = tuple(
    field.name for field in fields(Consensus) if field.name not in ("usages", "feature_names", "_refitter")
)
"""The attributes of a consensus among the findings of a run; usages are W of the run."""
_STORED_AS = {"loss": "consensus_loss"}
"""Attributes stored under another name: "loss" is a column of ranks."""


def consensus(
    X: MatrixLike,
    n_components: int,
    *,
    n_init: int = 100,
    density_threshold: float = 0.5,
    local_neighborhood_size: float = 0.30,
    random_state: RandomState = None,
    checkpoint: StoreLike | None = None,
    overwrite: bool = False,
    stage: Stage = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> Consensus:
    """Consensus NMF [1]_: the programs that most factorizations from many random starts share.

    1. X is factorized from `n_init` random starts, all in the same reads.
    2. The spectra (rows of H) of all starts are scaled to unit length. The density of a spectrum is its mean
       Euclidean distance to its ``int(local_neighborhood_size * n_init)`` nearest neighbours; spectra whose
       density is not below `density_threshold` are left out.
    3. k-means clusters the other spectra. The median of each cluster, scaled to a sum of one, is a program.
    4. Usages are fitted to the programs and, for the Frobenius loss, components to the usages. This takes one
       read of X, or two for other losses.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit` that is stored by rows, `Prepared` included.
    n_components : int
        Number of programs.
    n_init : int, default=100
        Number of factorizations, two or more.
    density_threshold : float, default=0.5
        Positive; with 2 or more, all spectra are kept.
    local_neighborhood_size : float, default=0.3
        Share of `n_init`, in (0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of all starts.
    checkpoint, overwrite, stage, callbacks
        As for `NMF.fit`. `open_consensus` opens the consensus at a checkpoint.
    **nmf
        Further parameters of `NMF`; ``init="random"`` unless given.

    Returns
    -------
    consensus : Consensus

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or unknown; X is not read.
    DataError
        If fewer than `n_components` spectra, or clusters, are left; the message has the quartiles of the
        densities. Also as for `NMF.fit`.
    SourceError
        If X is stored by columns.

    Warns
    -----
    UserWarning
        If spectra are zero throughout; they are left out.

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import consensus
    >>> rng = np.random.default_rng(0)
    >>> X = rng.gamma(0.3, size=(200, 3)) @ rng.gamma(0.3, size=(3, 20))
    >>> consensus(X, 3, n_init=10, random_state=0).spectra.shape
    (3, 20)
    """
    clustering = Clustering(n_init, density_threshold, local_neighborhood_size)
    clustering.check(n_components)
    check_starts(nmf)
    options = FitOptions(
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        many={"consensus": True},
    )
    with open_study(X, [n_components], n_init, options, **{"random_state": random_state} | nmf) as study:
        return study_consensus(study, n_components, clustering)


def open_consensus(target: StoreLike) -> Consensus:
    """The consensus that ``consensus(..., checkpoint=target)`` has stored.

    Parameters
    ----------
    target : path, URL or Zarr store

    Returns
    -------
    consensus : Consensus
        Without X: `rethreshold`, and `scores` without an argument, raise ValueError.

    Raises
    ------
    RunError
        If there is no consensus at the target, or it has not ended.
    RunDamagedError
        If a record of the run is damaged.
    """
    run, _, found = finished_run(target, "consensus", "consensus")
    return Consensus(**_stored(found), usages=run.rows, feature_names=run.feature_names, _refitter=None)


def _stored(found: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a consensus, from the findings of a run."""
    return {name: found[_STORED_AS.get(name, name)] for name in _STORED}


def study_consensus(
    study: Study, rank: int, clustering: Clustering, choice: Choice | None = None
) -> Consensus:
    """The consensus of the factorizations of one rank: the stored consensus, or a new one in two reads.

    Parameters
    ----------
    study : Study
    rank : int
    clustering : Clustering
    choice : Choice, optional
        The choice of the rank, stored with the consensus. A stored consensus of another choice is not used.
    """
    run, names = study.session.run, study.session.inputs.features.names
    extra = {} if choice is None else {"rule": choice.rule, "best": choice.best}
    found = run.found if run.concluded else None
    if found is not None and all(
        found[name] == value for name, value in (clustering.numbers | extra).items()
    ):
        stored, refitter = _stored(found), study.refitter
        return Consensus(**stored, usages=study.returned_W(), feature_names=names, _refitter=refitter)
    stack = clusters.stacked([each.components for each in study.of_rank(rank)])
    _warn_of_zeros(stack)
    density = clusters.local_density(stack, clustering.n_neighbors)
    made = consensus_of(stack, density, clustering, study.refitter, study.session.V)
    study.n_extra_reads += round(made.n_reads)
    n_reads = study.history.reads + made.n_reads + 1  # the last for the final pass
    made = replace(made, feature_names=names, n_reads=n_reads)
    values = {_STORED_AS.get(name, name): getattr(made, name) for name in _STORED}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    numbers = {name: value for name, value in values.items() if name not in arrays}
    columns = {} if choice is None else choice.columns
    run.write_findings(numbers | extra | {"n_asked": study.n_extra_reads}, arrays | columns)
    study.final_pass(made.spectra)
    return replace(made, usages=study.returned_W())


def _warn_of_zeros(stack: np.ndarray) -> None:
    n_zero = int((~stack.any(axis=1)).sum())
    if n_zero:
        warnings.warn(
            f"{n_zero} of {len(stack)} spectra are zero throughout and are left out; fit fewer components if "
            "there are many of them.",
            UserWarning,
            stacklevel=3,
        )
