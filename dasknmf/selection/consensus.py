"""Consensus over many starts: the programs that most factorizations find."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from dasknmf.cards import card
from dasknmf.errors import RunError
from dasknmf.history import Callback, History
from dasknmf.selection import programs, refits
from dasknmf.selection.asking import check_threshold, checked, seeded
from dasknmf.selection.many import Factorization, Study, studying
from dasknmf.selection.scores import scores
from dasknmf.store.opened_run import open_run

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
_KEPT = {"loss": "consensus loss"}
"""By another name: losses of ranks may be kept beside it."""


@dataclass(frozen=True)
class _Ask:
    """What `rethreshold` needs again."""

    X: Any
    mean_row_square: float
    nmf: dict[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class Consensus:
    """Programs that the factorizations of many starts agree on, the most used first.

    Parameters
    ----------
    n_components : int
    spectra : ndarray of shape (n_components, n_features), float64
        Medians of the clusters of normalised spectra, made to add up to one.
    usages : ndarray or dask.array.Array of shape (n_samples, n_components)
        W for these spectra, by `NMF.transform`. Lazy where X is chunked: computing it reads X once.
    components : ndarray of shape (n_components, n_features)
        H for these usages: the spectra fitted to X again, in its units. For losses other than Frobenius
        the spectra themselves.
    stack : ndarray of shape (n_init * n_components, n_features), float64
        Spectra of every start in turn, each of unit length; those that are zero throughout stay so.
    density : ndarray of shape (n_init * n_components,), float64
        Mean Euclidean distance to the nearest others in `stack`, between 0 and √2; infinite for zeros.
    kept : ndarray of bool of shape (n_init * n_components,)
    labels : ndarray of int of shape (n_init * n_components,)
        The program that a spectrum belongs to; −1 for those that are not kept.
    silhouette : float
        Mean silhouette (Euclidean) of the kept. cNMF's stability is this with ``density_threshold=2``. NaN
        for one program.
    loss : float
        D(X | usages components).
    density_threshold, local_neighborhood_size : float
    n_init : int
    feature_names : ndarray of str or None
    n_reads : float
        Of X: for all factorizations together, and to refit (one each time, two for losses other than
        Frobenius).
    """

    n_components: int
    spectra: np.ndarray
    usages: Any
    components: np.ndarray
    stack: np.ndarray
    density: np.ndarray
    kept: np.ndarray
    labels: np.ndarray
    silhouette: float
    loss: float
    density_threshold: float
    local_neighborhood_size: float
    n_init: int
    feature_names: np.ndarray | None
    n_reads: float
    _ask: _Ask | None = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"<Consensus {self.n_components} programs of {self.spectra.shape[1]} features from {self.n_init} "
            f"starts: {int(self.kept.sum())} of {len(self.kept)} spectra below density "
            f"{self.density_threshold:g}, silhouette {self.silhouette:.3f}>"
        )

    def _repr_html_(self) -> str:
        kept = f"{int(self.kept.sum())} of {len(self.kept)}, of density below {self.density_threshold:g}"
        programs = f"{self.n_components} × {self.spectra.shape[1]} features"
        facts = [
            ("programs", f"{programs}, of {self.n_init} starts in {self.n_reads:g} reads of V"),
            ("spectra kept", f"{kept}, silhouette {self.silhouette:.3f}"),
            ("loss D(V | WH)", f"{self.loss:.6g}"),
        ]
        return card("Consensus", facts, History())

    def rethreshold(self, density_threshold: float) -> Consensus:
        """The same factorizations with another threshold: one read of X, and no fit.

        Users of cNMF look at `density` with a threshold of 2, which filters nothing, and then choose one.

        Parameters
        ----------
        density_threshold : float

        Raises
        ------
        DataError
            If too few spectra are left, with how their densities are distributed.
        """
        check_threshold(density_threshold)
        return _agreed(
            self._asked("rethreshold", "start consensus() with this checkpoint and the other threshold"),
            self.stack,
            self.density,
            density_threshold=density_threshold,
            local_neighborhood_size=self.local_neighborhood_size,
            n_init=self.n_init,
            feature_names=self.feature_names,
            n_reads=self.n_reads,
        )

    def scores(self, X: Any = None) -> np.ndarray:
        """z-scores of features for each program, in one read; see `dasknmf.selection.scores.scores`.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features), optional
            Another matrix of the same rows, of all genes in TPM for example; by default the one that was
            factorized.

        Returns
        -------
        scores : ndarray of shape (n_components, n_features of X), float64
        """
        if X is None:
            X = self._asked("scores", "give X").X
        return scores(X, self.usages)

    def _asked(self, method: str, remedy: str) -> _Ask:
        if self._ask is None:
            raise ValueError(f"{method} needs X, which a consensus that was opened does not know: {remedy}.")
        return self._ask

    def spectra_in(self, X: Any) -> np.ndarray:
        """The programs in another matrix of the same rows, in one read: nonnegative least squares.

        Usages are made to add up to one in each row, so that spectra are in units of X's rows: of TPM, they
        add up to roughly a million.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features)

        Returns
        -------
        spectra : ndarray of shape (n_components, n_features of X), float64
        """
        return refits.spectra_of(X, refits.normalised(self.usages))


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
        told={"consensus": True},
        random_state=random_state,
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        **nmf,
    ) as study:
        kept = study.work.run.found if study.concluded else None
        asked = {"density_threshold": density_threshold, "local_neighborhood_size": local_neighborhood_size}
        if kept is not None and all(kept[name] == value for name, value in asked.items()):
            names = study.work.settled.features.names
            ask = _Ask(study.X, study.sum_of_squares / study.X.shape[0], nmf)
            return Consensus(**_kept(kept), usages=study.handed(), feature_names=names, _ask=ask)
        return concluded(
            study,
            study.many.factorizations,
            n_neighbors,
            nmf,
            density_threshold=density_threshold,
            local_neighborhood_size=local_neighborhood_size,
        )


def open_consensus(target: Any) -> Consensus:
    """The consensus at a path, URL or Zarr store: what ``consensus(..., checkpoint=)`` left there.

    Raises
    ------
    RunError
        If there is none, or it has not ended.
    RunDamagedError
        If a record of it is not as it was written.
    """
    run = open_run(target)
    if "consensus" not in run.identity.get("many", {}):
        raise RunError(
            f"the run at {str(target)!r} is no consensus; open_consensus takes the checkpoint of consensus: "
            "use open_run."
        )
    found = run.found
    if found is None or not run.concluded:
        raise RunError(
            f"the consensus at {str(target)!r} has not ended, it stands after {run.n_passes} passes; it is "
            "made at the end: start the same command again."
        )
    return Consensus(**_kept(found), usages=run.W, feature_names=run.feature_names, _ask=None)


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps of a consensus, by its own names."""
    return {name: found[_KEPT.get(name, name)] for name in (*_NUMBERS, *_ARRAYS)}


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
    stack = programs.stacked([each.components for each in factorizations])
    _tell_dead(stack)
    found = _agreed(
        _Ask(study.X, study.sum_of_squares / study.X.shape[0], nmf),
        stack,
        programs.local_density(stack, n_neighbors),
        n_init=len(factorizations),
        feature_names=study.work.settled.features.names,
        n_reads=study.many.n_reads,
        **asked,
    )
    study.work.run.keep(
        {_KEPT.get(name, name): getattr(found, name) for name in _NUMBERS} | dict(told),
        {name: np.asarray(getattr(found, name)) for name in _ARRAYS} | dict(columns),
    )
    study.conclude(found.spectra)
    return replace(found, usages=study.handed(), n_reads=found.n_reads + 1)


def _agreed(
    ask: _Ask,
    stack: np.ndarray,
    density: np.ndarray,
    *,
    density_threshold: float,
    n_init: int,
    n_reads: float,
    **told: Any,
) -> Consensus:
    """What is left below a threshold."""
    k = len(stack) // n_init
    labels = programs.clustered(stack, density, density_threshold, k)
    spectra = programs.medians(stack, labels, k)
    best = refits.refit(ask.X, spectra, ask.mean_row_square, **ask.nmf)
    order = np.argsort(-best.shares, kind="stable")
    spectra = spectra[order]
    place = np.append(np.argsort(order), -1)
    usages = refits.coder_of(spectra, ask.X, ask.mean_row_square, **ask.nmf).transform(ask.X)
    return Consensus(
        n_components=k,
        spectra=spectra,
        usages=usages,
        components=best.components[order],
        stack=stack,
        density=density,
        kept=labels >= 0,
        labels=place[labels],
        silhouette=programs.silhouette(stack, labels),
        loss=best.loss,
        density_threshold=density_threshold,
        n_init=n_init,
        n_reads=n_reads + best.n_reads,
        _ask=ask,
        **told,
    )


def _tell_dead(stack: np.ndarray) -> None:
    n_dead = int((~stack.any(axis=1)).sum())
    if n_dead:
        warnings.warn(
            f"{n_dead} of {len(stack)} spectra are zero throughout; they have no length to be normalised by "
            "and are left out: ask for fewer components if they are many.",
            UserWarning,
            stacklevel=3,
        )
