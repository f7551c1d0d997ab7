"""Consensus over many starts: the programs that most factorizations find."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from dasknmf.core.history import Callback
from dasknmf.selection import clusters
from dasknmf.selection.parameters import checked, seeded
from dasknmf.selection.result import Ask, Consensus, agreed
from dasknmf.selection.study import Factorization, Study, ended, studying

_NUMBERS = (
    "n_components",
    "silhouette",
    "loss",
    "density_threshold",
    "local_neighborhood_size",
    "n_init",
    "n_reads",
)
_ARRAYS = ("spectra", "components", "stack", "density", "kept", "labels")
"""What a run keeps of a consensus; usages are its W."""
_KEPT = {"loss": "consensus_loss"}
"""By another name: losses of ranks may be kept beside it."""


def consensus(
    X: Any,
    n_components: int,
    *,
    n_init: int = 100,
    density_threshold: float = 0.5,
    local_neighborhood_size: float = 0.30,
    random_state: Any = None,
    checkpoint: Any = None,
    overwrite: bool = False,
    stage: Any = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> Consensus:
    """Programs that most of many factorizations find: consensus NMF [1]_.

    X is factorized from `n_init` random starts. Spectra, the rows of every H, are made of unit length;
    those whose density, the mean Euclidean distance to their ``int(local_neighborhood_size * n_init)``
    nearest, is not below `density_threshold` are filtered; the others are clustered (k-means), and
    the median of each cluster, made to add up to one, is a program. Usages are then fitted to the programs,
    and components to the usages, in one read of X.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Whatever `NMF.fit` takes, `Prepared` included, except for what is stored by columns.
    n_components : int
    n_init : int, default=100
        Factorizations, two or more.
    density_threshold : float, default=0.5
        Above 0; 2 or more filters nothing.
    local_neighborhood_size : float, default=0.3
        Share of `n_init`, in (0, 1].
    random_state : int, RandomState instance or None, default=None
        Seeds of the starts.
    checkpoint, overwrite, stage, callbacks
        Of the factorizations, as for `NMF.fit`.
    **nmf
        Parameters of `NMF`; ``init="random"`` unless given.

    Returns
    -------
    consensus : Consensus

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range: before X is read.
    DataError
        If fewer than `n_components` spectra, or clusters of them, are left, with how densities are
        distributed; or if X is refused, as by `NMF.fit`.
    SourceError
        If X is stored by columns.

    Notes
    -----
    Components of zeros cannot be made of unit length: they are left out, which a warning says.

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
    n_neighbors = checked(n_components, n_init, density_threshold, local_neighborhood_size)
    nmf = seeded(nmf)
    with studying(
        X,
        [n_components],
        n_init,
        described={"consensus": True},
        random_state=random_state,
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        **nmf,
    ) as study:
        asked: dict[str, Any] = {
            "density_threshold": density_threshold,
            "local_neighborhood_size": local_neighborhood_size,
        }
        found = standing(study, nmf, **asked)
        if found is None:
            found = concluded(study, study.many.factorizations, n_neighbors, nmf, **asked)
        return found


def open_consensus(target: Any) -> Consensus:
    """The consensus at a path, URL or Zarr store: what ``consensus(..., checkpoint=)`` left there.

    Raises
    ------
    RunError
        If there is none, or it has not ended.
    RunDamagedError
        If a record of it is not as it was written.
    """
    run, _, found = ended(target, "consensus", "consensus", "consensus")
    return Consensus(**_kept(found), usages=run.W, feature_names=run.feature_names, _ask=None)


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps of a consensus, by its own names."""
    return {name: found[_KEPT.get(name, name)] for name in (*_NUMBERS, *_ARRAYS)}


def standing(study: Study, nmf: dict[str, Any], **asked: Any) -> Consensus | None:
    """What the run has concluded already, where all that is asked is as it was then. No read.

    Parameters
    ----------
    study : Study
    nmf : dict
        Parameters of `NMF`.
    **asked
        Of what the run has found: `density_threshold`, for example.
    """
    found = study.work.run.found if study.concluded else None
    if found is None or any(found[name] != value for name, value in asked.items()):
        return None
    names = study.work.inputs.features.names
    return Consensus(**_kept(found), usages=study.returned_W(), feature_names=names, _ask=_ask_of(study, nmf))


def _ask_of(study: Study, nmf: dict[str, Any]) -> Ask:
    return Ask(study.X, study.sum_of_squares / study.X.shape[0], nmf)


def concluded(
    study: Study,
    factorizations: Sequence[Factorization],
    n_neighbors: int,
    nmf: dict[str, Any],
    *,
    told: Mapping[str, Any] = MappingProxyType({}),
    columns: Mapping[str, np.ndarray] = MappingProxyType({}),
    **asked: Any,
) -> Consensus:
    """The consensus of factorizations of one rank, kept as what their run has found. Two reads.

    Parameters
    ----------
    study : Study
    factorizations : sequence of Factorization
    n_neighbors : int
        For densities.
    nmf : dict
        Parameters of `NMF`.
    told, columns
        What else the run keeps: JSON values, arrays.
    **asked
        `density_threshold` and `local_neighborhood_size`.
    """
    stack = clusters.stacked([each.components for each in factorizations])
    _tell_dead(stack)
    n_reads = study.many.n_reads + 1  # that of the conclusion
    found = agreed(
        _ask_of(study, nmf),
        stack,
        clusters.local_density(stack, n_neighbors),
        n_init=len(factorizations),
        feature_names=study.work.inputs.features.names,
        n_reads=n_reads,
        V=study.V,
        **asked,
    )
    study.n_asked += round(found.n_reads - n_reads)
    study.work.run.keep(
        {_KEPT.get(name, name): _plain(getattr(found, name)) for name in _NUMBERS}
        | dict(told)
        | {"n_asked": study.n_asked},
        {name: np.asarray(getattr(found, name)) for name in _ARRAYS} | dict(columns),
    )
    study.conclude(found.spectra)
    return replace(found, usages=study.returned_W())


def _plain(number: Any) -> Any:
    """As JSON holds it, whatever scalar it was given as."""
    return number.item() if isinstance(number, np.generic) else number


def _tell_dead(stack: np.ndarray) -> None:
    n_dead = int((~stack.any(axis=1)).sum())
    if n_dead:
        warnings.warn(
            f"{n_dead} of {len(stack)} spectra are zero throughout; they have no length to be normalised by "
            "and are left out: ask for fewer components if they are many.",
            UserWarning,
            stacklevel=3,
        )
