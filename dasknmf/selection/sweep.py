"""The right number of components: every rank from many starts, in the same reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dasknmf.core.history import Callback, History
from dasknmf.core.html_repr import card, progress_facts
from dasknmf.core.solvers.resampled import EPSILON, Kind, Resampling
from dasknmf.fitting.problem import spawned
from dasknmf.selection.matching import centroids, matched
from dasknmf.selection.rules import check_rule, choose, default_rule, explained
from dasknmf.selection.stability import cophenetic, dispersion, instability, silhouettes
from dasknmf.selection.study import Evaluated, Factorization, Study, ended, found_in, studying
from dasknmf.store.selection import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["restarts", "nmfk", "consensus"]


@dataclass(frozen=True, repr=False, eq=False)
class RankSweep:
    """What many factorizations tell of each number of components.

    Parameters
    ----------
    n_components : list of int
    n_init : int
    method : "restarts", "nmfk" or "consensus"
        The last is of `dasknmf.selection.k_selection`.
    columns : dict of str to ndarray of shape (len(n_components),), float64
        Of each rank, NaN where it is not known: ``loss``, D(X | WH) of the best start, or with ``"nmfk"`` of
        the centroids; ``explained_variance``, 1 − ‖X − WH‖² / ‖X‖², and ``relative_error``, ‖X − WH‖ / ‖X‖
        (Frobenius loss); ``holdout`` and ``holdout_std``, mean and standard deviation over starts of the
        loss per hidden entry; ``silhouette_min``, ``silhouette_mean``, ``instability``, ``dispersion`` and
        ``cophenetic``, see `dasknmf.selection.stability`.
    rule : str
        What `best` was chosen by.
    best : int
        The number of components that it chose.
    components : ndarray of shape (best, n_features)
        H: of the best start at `best`, or with ``"nmfk"`` the centroids.
    W : ndarray or dask.array.Array of shape (n_samples, best)
    factorizations : tuple of Factorization
        All of them, those of the first rank first.
    history : History
    n_reads : float
        Of X, all in all.
    feature_names : ndarray of str or None
    """

    n_components: list[int]
    n_init: int
    method: Method
    columns: dict[str, np.ndarray]
    rule: str
    best: int
    components: np.ndarray
    W: Any
    factorizations: tuple[Factorization, ...]
    history: History
    n_reads: float
    feature_names: np.ndarray | None = None

    def __repr__(self) -> str:
        ranks = ", ".join(map(str, self.n_components))
        return (
            f"<RankSweep of {ranks} components from {self.n_init} starts in {self.n_reads:g} reads: "
            f"{self.best} by {self.rule}>"
        )

    def _repr_html_(self) -> str:
        why = explained(self.best, self.n_components, self.columns, self.rule, n_init=self.n_init)
        ranks = ", ".join(map(str, self.n_components))
        facts = [
            ("components", f"{ranks}, {self.n_init} starts of each ({self.method})"),
            ("chosen", f"{self.best}, by the rule {self.rule}: {why}"),
            *progress_facts(self.history, len(self.history.exact)),
        ]
        return card("RankSweep", facts, self.history)

    def choose(self, rule: str | None = None) -> int:
        """The number of components that another rule chooses; see `dasknmf.selection.rules.choose`.

        Parameters
        ----------
        rule : {"holdout", "silhouette", "stability", "cophenetic", "dispersion"}, optional
        """
        return choose(self.n_components, self.columns, rule, n_init=self.n_init)

    def of_rank(self, n_components: int) -> list[Factorization]:
        """Every factorization with so many components, the lowest loss first."""
        found = [each for each in self.factorizations if each.n_components == n_components]
        if not found:
            raise ValueError(
                f"n_components is {n_components}; the sweep has {self.n_components}: choose one of these."
            )
        return sorted(found, key=lambda each: each.loss)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per rank with `columns`. Needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.columns, index=pd.Index(self.n_components, name="n_components"))

    def plot(self, **parameters: Any) -> Any:
        """Stability and error over the number of components; see `dasknmf.plots.ranks`."""
        # Pictures stand above what they draw, and matplotlib is an extra.
        from dasknmf.plots.ranks import ranks

        return ranks(self, **parameters)


def rank_sweep(
    X: Any,
    n_components: Iterable[int],
    *,
    n_init: int = 10,
    holdout: float | None = None,
    method: Method = "restarts",
    perturb: Kind = "rows",
    epsilon: float = EPSILON,
    rule: str | None = None,
    checkpoint: Any = None,
    overwrite: bool = False,
    stage: Any = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> RankSweep:
    """Factorize X with every number of components from many starts, all of them in the same reads.

    A pass over X advances all of them; W of none is kept: each pass solves it for the H that enters
    (Frobenius loss). At the end one read tells the loss of each and rows of W, from which follows
    how far starts agree, and one more writes W for the rank that `rule` chooses.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Whatever `NMF.fit` takes, except for what is stored by columns.
    n_components : iterable of int
        The ranks, ascending.
    n_init : int, default=10
        Starts of each rank.
    holdout : float, optional
        Share of the entries of X that are hidden from every fit, the same ones from all. Costs a Gram
        matrix for each row.
    method : {"restarts", "nmfk"}, default="restarts"
        What the starts of a rank differ by: by their random numbers, or by these and by a perturbation of X
        that each is fitted to, as NMFk does [1]_ [2]_; the spectra of a rank are then clustered, one of each
        start to a cluster, and `loss` is that of the centroids and of X itself.
    perturb : {"rows", "uniform", "poisson"}, default="rows"
        With ``method="nmfk"``: rows count at random (the Bayesian bootstrap), which shares every
        product with X; entries times 1 + U(−epsilon, epsilon); counts drawn with X as their means. The last
        two make an X of its own for each start, and products of its own.
    epsilon : float, default=0.015
        Of ``"uniform"``.
    rule : {"holdout", "silhouette", "stability", "cophenetic", "dispersion"}, optional
        How `best` is chosen; see `dasknmf.selection.rules.choose`. By default ``"holdout"`` where
        entries are hidden, else ``"silhouette"``.
    checkpoint : path, URL or Zarr store, optional
        Where every pass is committed; the same call goes on from there. `open_run` gives W and H of the
        best rank, `open_sweep` the sweep.
    overwrite, stage, callbacks
        As for `NMF.fit`.
    **nmf
        Parameters of `NMF`; ``init`` is ``"random"`` unless given.

    Returns
    -------
    sweep : RankSweep

    Raises
    ------
    ValueError
        If ranks do not ascend or X cannot have them, or another argument is out of its range.
    DataError
        If X is refused, or a row or a column of it has all that is observed hidden.
    SourceError
        If X is stored by columns.
    MemoryLimitError, RunMismatchError, RunLockedError, RunDamagedError, DataChangedError
        As for `NMF.fit`.

    Notes
    -----
    Models that do not fit into memory together take turns, in several reads for one pass.

    References
    ----------
    .. [1] Alexandrov, L. B., Nik-Zainal, S., Wedge, D. C., Campbell, P. J., & Stratton, M. R. (2013).
       Deciphering signatures of mutational processes operative in human cancer. Cell Reports, 3(1).
    .. [2] Nebgen, B. T., Vangara, R., Hombrados-Herrera, M. A., Kuksova, S., & Alexandrov, B. S. (2021). A
       neural network for determination of latent dimensionality in non-negative matrix factorization.
       Machine Learning: Science and Technology, 2(2).

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import rank_sweep
    >>> rng = np.random.default_rng(0)
    >>> X = rng.gamma(0.3, size=(200, 3)) @ rng.gamma(0.3, size=(3, 20)) + 0.01 * rng.random((200, 20))
    >>> rank_sweep(X, range(2, 6), n_init=4, random_state=0).best
    3
    """
    ranks = _checked(n_components, n_init, method, rule, holdout)
    resampling = Resampling(perturb, epsilon) if method == "nmfk" else None
    with studying(
        X,
        ranks,
        n_init,
        holdout=holdout,
        resampling=resampling,
        described={"method": method},
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        **nmf,
    ) as study:
        factorizations = study.many.factorizations
        middles = [_middle(study.many.of_rank(rank), method) for rank in ranks]
        found = study.work.run.found
        if found is None:
            spectra = [each.components for each in factorizations]
            told = study.evaluated([*spectra, *middles])
            columns = _columns(study, ranks, told[: len(spectra)], told[len(spectra) :])
        else:
            columns = {name: found[name] for name in COLUMNS}
        rule = rule or default_rule(columns)
        best = choose(ranks, columns, rule, n_init=n_init)
        H = middles[ranks.index(best)]
        n_asked = study.n_asked if found is None else found["n_asked"]
        stood = None if found is None else (found["rule"], found["best"])
        if stood != (rule, best) or not study.concluded:
            study.work.run.keep({"rule": rule, "best": best, "n_asked": n_asked}, columns)
            study.conclude(H)
        history = study.work.run.history
        return RankSweep(
            ranks,
            n_init,
            method,
            columns,
            rule,
            best,
            H,
            study.returned_W(),
            factorizations,
            history,
            history.reads + n_asked,
            study.work.inputs.features.names,
        )


def open_sweep(target: Any) -> RankSweep:
    """The sweep at a path, URL or Zarr store: what ``rank_sweep(..., checkpoint=)`` left there.

    Raises
    ------
    RunError
        If there is none, or it has not ended.
    RunDamagedError
        If a record of it is not as it was written.
    """
    run, many, found = ended(target, "sweep", "method", "rank_sweep")
    assert many.method is not None  # `ended` has looked
    ranks, n_init = list(many.ranks), many.n_init
    seeds = spawned(run.identity.seed, n_init)
    return RankSweep(
        ranks,
        n_init,
        many.method,
        {name: found[name] for name in COLUMNS},
        found["rule"],
        found["best"],
        run.H,
        run.W,
        found_in(run, [(rank, seed) for rank in ranks for seed in seeds]),
        run.history,
        run.history.reads + found["n_asked"],
        run.feature_names,
    )


def _middle(found: Sequence[Factorization], method: Method) -> np.ndarray:
    """What stands for a rank."""
    found = sorted(found, key=lambda each: each.loss)
    spectra = [each.components for each in found]
    if method == "restarts":
        return spectra[0]
    return centroids(spectra, matched(spectra)).astype(spectra[0].dtype)


def _columns(
    study: Study, ranks: Sequence[int], told: Sequence[Evaluated], middles: Sequence[Evaluated]
) -> dict[str, np.ndarray]:
    quadratic = study.work.inputs.model.loss.quadratic
    squares = study.sum_of_squares
    columns = {name: np.full(len(ranks), np.nan) for name in COLUMNS}
    every = list(zip(study.many.factorizations, told, strict=True))
    for at, (rank, middle) in enumerate(zip(ranks, middles, strict=True)):
        own = [pair for pair in every if pair[0].n_components == rank]
        own.sort(key=lambda pair: pair[0].loss)
        spectra = [each.components for each, _ in own]
        columns["loss"][at] = middle.loss
        if quadratic and squares:
            unexplained = 2 * middle.loss / squares
            columns["explained_variance"][at] = 1 - unexplained
            columns["relative_error"][at] = np.sqrt(unexplained)
        hidden = [each.holdout for each, _ in own if each.holdout is not None]
        if hidden:
            columns["holdout"][at] = np.mean(hidden)
            columns["holdout_std"][at] = np.std(hidden, ddof=min(1, len(hidden) - 1))
        if len(own) > 1:
            widths = silhouettes(spectra, matched(spectra))
            columns["silhouette_min"][at] = widths.min()
            columns["silhouette_mean"][at] = widths.mean()
            columns["instability"][at] = instability(spectra)
            labels = np.stack([each.rows.argmax(axis=1) for _, each in own])
            columns["dispersion"][at] = dispersion(labels)
            columns["cophenetic"][at] = cophenetic(labels)
    return columns


def _checked(
    n_components: Iterable[int], n_init: Any, method: str, rule: str | None, holdout: Any
) -> list[int]:
    """The ranks, if these arguments go together."""
    if isinstance(n_components, Integral):
        raise ValueError(
            f"n_components is {n_components}; a sweep is over several: give range(2, {n_components + 1}), or "
            "use NMF(n_init=)."
        )
    try:
        ranks = list(n_components)
    except TypeError:
        ranks = []
    if not ranks:
        raise ValueError(
            f"n_components is {n_components!r}; a sweep is over several ranks, whole numbers: give some, "
            "such as range(2, 11)."
        )
    if not all(isinstance(rank, Integral) and not isinstance(rank, bool) for rank in ranks):
        raise ValueError(f"n_components is {ranks}; ranks are whole numbers: give such.")
    if method not in ("restarts", "nmfk"):
        raise ValueError(f"method is {method!r}; it must be 'restarts' or 'nmfk': choose one.")
    if not isinstance(n_init, Integral) or isinstance(n_init, bool) or n_init < 1:
        raise ValueError(f"n_init is {n_init!r}; each rank is fitted from one start or more: give about 10.")
    if n_init == 1 and holdout is None:
        raise ValueError(
            "n_init is 1 and nothing is held out; ranks are told apart by how far starts agree, or by the "
            "loss over hidden entries: give n_init=10, or holdout=0.05."
        )
    check_rule(rule)
    if rule == "holdout" and holdout is None:
        raise ValueError("rule is 'holdout' and nothing is held out: give holdout=0.05, or another rule.")
    if rule not in (None, "holdout") and n_init == 1:
        raise ValueError(f"n_init is 1, and rule = {rule!r} looks at how far starts agree: give n_init=10.")
    return [int(rank) for rank in ranks]
