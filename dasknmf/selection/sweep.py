"""The number of components: every rank from many starts, in the same reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from zarr.storage import StoreLike

from dasknmf.core.history import Callback, History
from dasknmf.core.html_repr import card, progress_facts
from dasknmf.core.solvers.resampled import EPSILON, Kind, Resampling
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.problem import Factor, FitOptions, start_seeds
from dasknmf.selection.matching import centroids, matched
from dasknmf.selection.parameters import Stage, is_count
from dasknmf.selection.rules import check_rule, choose, explained
from dasknmf.selection.stability import cophenetic, dispersion, instability, silhouettes
from dasknmf.selection.study import Choice, Factorization, Study, factorizations_of, finished_run, open_study
from dasknmf.store.raster import in_raster_order
from dasknmf.store.selection import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Method = Literal["restarts", "nmfk", "consensus"]


@dataclass(frozen=True, repr=False, eq=False)
class RankSweep:
    """Stability and error of every number of components (rank), and the factors of the chosen rank.

    Parameters
    ----------
    n_components : list of int
    n_init : int
    method : "restarts", "nmfk" or "consensus"
        ``"consensus"`` is the method of `dasknmf.selection.k_selection`.
    columns : dict of str to ndarray of shape (len(n_components),), float64
        One value per rank, NaN where unknown: ``loss``, D(X | WH) of the best start, or with ``"nmfk"`` of
        the centroids; ``explained_variance``, 1 − ‖X − WH‖² / ‖X‖², and ``relative_error``, ‖X − WH‖ / ‖X‖
        (Frobenius loss); ``holdout`` and ``holdout_std``, mean and standard deviation over starts of the
        loss per hidden entry; ``silhouette_min``, ``silhouette_mean``, ``instability``, ``dispersion`` and
        ``cophenetic``, see `dasknmf.selection.stability`.
    rule : str
        The rule that chose `best`.
    best : int
        The chosen number of components.
    components : ndarray of shape (best, n_features)
        H: of the best start of rank `best`, or with ``"nmfk"`` the centroids.
    W : ndarray or dask.array.Array of shape (n_samples, best)
    factorizations : tuple of Factorization
        All factorizations, by rank, then by start.
    history : History
        One record per pass.
    n_reads : int
        Reads of X in total.
    feature_names : ndarray of str or None
    """

    n_components: list[int]
    n_init: int
    method: Method
    columns: dict[str, np.ndarray]
    rule: str
    best: int
    components: np.ndarray
    W: Factor
    factorizations: tuple[Factorization, ...]
    history: History
    n_reads: int
    feature_names: np.ndarray | None = None

    def __repr__(self) -> str:
        ranks = ", ".join(map(str, self.n_components))
        return (
            f"<RankSweep of {ranks} components from {self.n_init} starts in {self.n_reads} reads: "
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

        Returns
        -------
        int
        """
        return choose(self.n_components, self.columns, rule, n_init=self.n_init)

    def of_rank(self, n_components: int) -> list[Factorization]:
        """The factorizations with `n_components` components, in ascending order of loss."""
        found = [each for each in self.factorizations if each.n_components == n_components]
        if not found:
            raise ValueError(
                f"n_components is {n_components}; the sweep has {self.n_components}: choose one of these."
            )
        return sorted(found, key=lambda each: each.loss)

    def to_dataframe(self) -> pd.DataFrame:
        """The columns as a pandas DataFrame with one row per rank."""
        import pandas as pd

        return pd.DataFrame(self.columns, index=pd.Index(self.n_components, name="n_components"))

    def plot(self, **parameters: Any) -> Axes:
        """Stability and error over the number of components; see `dasknmf.plots.ranks`."""
        # Imported here: plots import this module, and matplotlib is an extra.
        from dasknmf.plots.ranks import ranks

        return ranks(self, **parameters)


def rank_sweep(
    X: MatrixLike,
    n_components: Iterable[int],
    *,
    n_init: int = 10,
    holdout: float | None = None,
    method: Method = "restarts",
    perturb: Kind = "rows",
    epsilon: float = EPSILON,
    rule: str | None = None,
    checkpoint: StoreLike | None = None,
    overwrite: bool = False,
    stage: Stage = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> RankSweep:
    """Factorizations of X with every number of components from many starts, all in the same reads.

    One pass over X advances all factorizations. For the Frobenius loss no W is stored while they run: each
    pass solves W for the current H. At the end one read computes the loss and sampled rows of W for every
    start, from which the agreement of starts follows, and one more read writes W of the rank that `rule`
    chooses.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit` that is stored by rows.
    n_components : iterable of int
        The ranks, ascending.
    n_init : int, default=10
        Number of starts of each rank.
    holdout : float, optional
        Share of the entries of X that are hidden from every fit, the same entries for all starts. This is
        expensive: each row and each column needs its own Gram matrix.
    method : {"restarts", "nmfk"}, default="restarts"
        How the starts of a rank differ. ``"restarts"``: by their random numbers. ``"nmfk"`` [1]_ [2]_: also
        by the resampled X that each start is fitted to. The spectra of a rank are then clustered with one
        spectrum of each start in each cluster, and `loss` is that of the centroids and of X itself.
    perturb : {"rows", "uniform", "poisson"}, default="rows"
        How ``method="nmfk"`` resamples X. ``"rows"``: random weights of rows (Bayesian bootstrap), which
        shares every product with X. ``"uniform"``: entries times 1 + U(−epsilon, epsilon). ``"poisson"``:
        Poisson counts with means X. The last two compute the products of each start separately.
    epsilon : float, default=0.015
        For ``perturb="uniform"``.
    rule : {"holdout", "silhouette", "stability", "cophenetic", "dispersion"}, optional
        The rule that chooses `best`; see `dasknmf.selection.rules.choose`. By default ``"holdout"`` if
        entries are hidden, else ``"silhouette"``.
    checkpoint : path, URL or Zarr store, optional
        Where every pass is committed; the same call continues from the last one. `open_run` opens W and H of
        the best rank, `open_sweep` the whole sweep.
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
        If ranks do not ascend or exceed the shape of X, or another argument is out of its range.
    DataError
        As for `NMF.fit`, and if all observed entries of a row or a column are hidden.
    SourceError
        If X is stored by columns.
    MemoryLimitError, RunMismatchError, RunLockedError, RunDamagedError, DataChangedError
        As for `NMF.fit`.

    Notes
    -----
    Factorizations that do not fit into memory together are advanced in groups, with one read of X per group
    and pass.

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
    options = FitOptions(
        holdout=holdout,
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=callbacks,
        resampling=Resampling(perturb, epsilon) if method == "nmfk" else None,
        many={"method": method},
    )
    with open_study(X, ranks, n_init, options, **nmf) as study:
        run = study.session.run
        centres = [_centre(study.of_rank(rank), method) for rank in ranks]
        found = run.found
        choice = study.choice(ranks, rule, lambda: _columns(study, ranks, centres))
        H = centres[ranks.index(choice.best)]
        if found is None or (found["rule"], found["best"]) != (choice.rule, choice.best) or not run.concluded:
            n_asked = study.n_extra_reads
            run.write_findings({"rule": choice.rule, "best": choice.best, "n_asked": n_asked}, choice.columns)
            study.final_pass(H)
            study.n_extra_reads = n_asked
        W = in_raster_order(study.returned_W(), study.session.inputs.X)
        return sweep_of(study, method, choice, H, W)


def sweep_of(study: Study, method: Method, choice: Choice, H: np.ndarray, W: Factor) -> RankSweep:
    """The sweep of a study, with the chosen rank and its W and H."""
    many, history = study.session.inputs.options.many or {}, study.history
    return RankSweep(
        many["ranks"],
        many["n_init"],
        method,
        choice.columns,
        choice.rule,
        choice.best,
        H,
        W,
        study.factorizations,
        history,
        int(history.reads) + study.n_extra_reads,
        study.session.inputs.features.names,
    )


def open_sweep(target: StoreLike) -> RankSweep:
    """The sweep that ``rank_sweep(..., checkpoint=target)`` has stored.

    Parameters
    ----------
    target : path, URL or Zarr store

    Returns
    -------
    sweep : RankSweep

    Raises
    ------
    RunError
        If there is no sweep at the target, or it has not ended.
    RunDamagedError
        If a record of the run is damaged.
    """
    run, many, found = finished_run(target, "sweep", "rank_sweep")
    assert many.method is not None  # `finished_run` has looked
    models = [(rank, seed) for rank in many.ranks for seed in start_seeds(run.identity.seed, many.n_init)]
    return RankSweep(
        list(many.ranks),
        many.n_init,
        many.method,
        {name: found[name] for name in COLUMNS},
        found["rule"],
        found["best"],
        run.H,
        run.W,
        factorizations_of(run, models),
        run.history,
        int(run.history.reads) + found["n_asked"],
        run.feature_names,
    )


def _centre(found: Sequence[Factorization], method: Method) -> np.ndarray:
    """The H that represents a rank: H of the best start, or the centroids of all starts."""
    found = sorted(found, key=lambda each: each.loss)
    spectra = [each.components for each in found]
    if method == "restarts":
        return spectra[0]
    return centroids(spectra, matched(spectra)).astype(spectra[0].dtype)


def _columns(study: Study, ranks: Sequence[int], centres: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    starts = study.factorizations
    evaluated = study.evaluated([*(each.components for each in starts), *centres])
    columns = study.rank_columns(ranks, [each.loss for each in evaluated[len(starts) :]])
    pairs = list(zip(starts, evaluated, strict=False))
    for at, rank in enumerate(ranks):
        own = sorted((pair for pair in pairs if pair[0].n_components == rank), key=lambda pair: pair[0].loss)
        spectra = [each.components for each, _ in own]
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
    n_components: Iterable[int], n_init: int, method: str, rule: str | None, holdout: float | None
) -> list[int]:
    """The ranks, after a check that the arguments agree."""
    try:
        ranks = list(n_components)
    except TypeError:
        ranks = []
    if not ranks or not all(isinstance(rank, Integral) and not isinstance(rank, bool) for rank in ranks):
        raise ValueError(
            f"n_components is {n_components!r}; a sweep is over several integers: give for example "
            "range(2, 11), or use NMF(n_init=) for one number of components."
        )
    if method not in ("restarts", "nmfk"):
        raise ValueError(f"method is {method!r}; it must be 'restarts' or 'nmfk': choose one.")
    if not is_count(n_init):
        raise ValueError(f"n_init is {n_init!r}; each rank needs at least one start: give about 10.")
    if n_init == 1 and holdout is None:
        raise ValueError(
            "n_init is 1 and no entries are hidden; ranks are compared by the agreement of starts, or by the "
            "loss over hidden entries: give n_init=10, or holdout=0.05."
        )
    check_rule(rule)
    if rule == "holdout" and holdout is None:
        raise ValueError("rule is 'holdout' and no entries are hidden: give holdout=0.05, or another rule.")
    if rule not in (None, "holdout") and n_init == 1:
        raise ValueError(
            f"n_init is 1, and rule={rule!r} chooses by the agreement of starts: give n_init=10."
        )
    return [int(rank) for rank in ranks]
