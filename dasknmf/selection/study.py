"""A study: factorizations of one V from many starts, in the same reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike
from zarr.storage import StoreLike

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.history import History
from dasknmf.core.phase import Phase, Tally
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.starts.survey import Survey
from dasknmf.core.state import FactorState, State
from dasknmf.core.text import counted
from dasknmf.data.source import MatrixLike
from dasknmf.data.weighted import WeightedSource
from dasknmf.errors import RunError
from dasknmf.estimator import NMF
from dasknmf.fitting.decide import open_problem
from dasknmf.fitting.execution import Execution
from dasknmf.fitting.loop import log_pass
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.fitting.problem import FitOptions, start_seeds
from dasknmf.fitting.session import Session, session
from dasknmf.selection.evaluation import MOST_SAMPLED_ROWS, Evaluation, RowSample
from dasknmf.selection.refit import Refitter
from dasknmf.selection.rules import choose, default_rule
from dasknmf.store import schema
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import states_of
from dasknmf.store.run import Run, open_run
from dasknmf.store.selection import COLUMNS
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Factorization:
    """One factorization of a study: its H, its loss and its last state.

    Parameters
    ----------
    n_components : int
    seed : int
        The `random_state` with which `NMF` alone, with the same `init`, starts from the same H; for losses
        other than the Frobenius loss, from the same W too.
    components : ndarray of shape (n_components, n_features)
        H.
    loss, objective : float
        D(V | WH), without and with penalties. With ``method="nmfk"`` V is the resampled V of this start.
    holdout : float or None
        Mean divergence over hidden entries; None if no entries were hidden.
    n_iter : int
        Iterations.
    outcome : str
        ``"converged"`` or ``"max_iter"``.
    """

    n_components: int
    seed: int
    components: np.ndarray
    loss: float
    objective: float
    holdout: float | None
    n_iter: int
    outcome: str


@dataclass(frozen=True)
class Evaluated:
    """The fit of one H to V.

    Parameters
    ----------
    loss : float
        D(V | WH), with the best W.
    rows : ndarray of shape (at most 4096, n_components)
        Rows of W, sampled from all of V; the same ones for every H.
    """

    loss: float
    rows: np.ndarray


@dataclass(frozen=True)
class Choice:
    """The choice of one of several ranks, and the columns of the table of ranks."""

    rule: str
    best: int
    columns: dict[str, np.ndarray]


@dataclass
class Study:
    """Finished factorizations of one V from many starts, with V still open for reading.

    Parameters
    ----------
    nmf : NMF
        Parameters of all factorizations; `n_components` is the largest rank.
    parameters : dict
        The parameters of `NMF` that the caller gave.
    session : Session
    factorizations : tuple of Factorization
        By rank, then by start.
    n_extra_reads : int
        Number of reads of V so far that are not in the history.
    """

    nmf: NMF
    parameters: dict[str, Any]
    session: Session
    factorizations: tuple[Factorization, ...]
    n_extra_reads: int = 0

    @property
    def history(self) -> History:
        """One record per pass; `record.models` has one entry per factorization, in their order."""
        return self.session.run.history

    def of_rank(self, n_components: int) -> list[Factorization]:
        """The factorizations with `n_components` components, by start."""
        return [each for each in self.factorizations if each.n_components == n_components]

    @cached_property
    def surveyed(self) -> State:
        """The survey of V: one more read if entries were hidden from the models, or V was resampled."""
        run, model = self.session.run, self.session.inputs.model
        if model.variant.resampling is None and not model.variant.hidden:
            location = run.progress.location_of(run.progress.models[0])
            return run.factors.read_state(location.state, location.phase_index)
        phase = Survey(model.shape, model.loss, model.variant.masked)
        (tally,) = self._read([phase], [model])
        return phase.update(tally, State())[0]

    @property
    def refitter(self) -> Refitter:
        """Refits of spectra to X, with the parameters of this study."""
        X = self.session.inputs.X
        return Refitter(X, self.parameters, self.surveyed.squares / X.shape[0])

    def choice(
        self, ranks: Sequence[int], rule: str | None, columns: Callable[[], dict[str, np.ndarray]]
    ) -> Choice:
        """The rank that a rule chooses, from the stored columns or else those that `columns` computes."""
        found = self.session.run.found
        if found is None:
            table = columns()
        else:
            table = {name: found[name] for name in COLUMNS}
            self.n_extra_reads = found["n_asked"]
        rule = rule or default_rule(table)
        return Choice(rule, choose(ranks, table, rule, n_init=self.nmf.n_init), table)

    def rank_columns(self, ranks: Sequence[int], losses: ArrayLike) -> dict[str, np.ndarray]:
        """The columns of a table of ranks: those that follow from the losses, and NaN in the others."""
        columns = {name: np.full(len(ranks), np.nan) for name in COLUMNS}
        columns["loss"][:] = losses
        squares = self.surveyed.squares
        if self.session.inputs.model.loss.quadratic and squares:
            unexplained = 2 * columns["loss"] / squares
            columns["explained_variance"] = 1 - unexplained
            columns["relative_error"] = np.sqrt(unexplained)
        return columns

    def evaluated(self, spectra: Sequence[np.ndarray]) -> list[Evaluated]:
        """The fit of each H to V, in one read if all fit into memory together, else in several."""
        phases = [self._evaluation(H, sampled=True) for H in spectra]
        models = [replace(self.session.inputs.model, k=len(H)) for H in spectra]
        return [
            Evaluated(phase.loss_of(tally), np.asarray(tally["rows"].in_order().values)[:MOST_SAMPLED_ROWS])
            for phase, tally in zip(phases, self._read(phases, models), strict=True)
        ]

    def final_pass(self, H: np.ndarray) -> None:
        """Compute and write W for H in one read; W and H become the result of the run."""
        self.session.final_pass(self._evaluation(H, sampled=False))

    def returned_W(self) -> np.ndarray | da.Array:
        """W of the result, shape (n_samples, n_components): a Dask array where X is chunked."""
        run, inputs = self.session.run, self.session.inputs
        W, _ = inputs.roles.factors(run.factors, run.progress.location, inputs.grid)
        return self.session.returned(W)

    @property
    def _entries(self) -> EntryWeights | None:
        """Weights of the entries of V; None if no entry is missing, so that rows share one Gram matrix."""
        entries: EntryWeights | None = self.session.V.source.entries
        return entries if entries is not None and (entries.masks or self.session.V.source.masked) else None

    def _read(self, phases: Sequence[Phase], models: Sequence[Model]) -> list[Tally]:
        tallies, n_reads = self.session.read(phases, models)
        self.n_extra_reads += n_reads
        return tallies

    def _evaluation(self, H: np.ndarray, *, sampled: bool) -> Evaluation:
        model, surveyed = self.session.inputs.model, self.surveyed
        coder = Coder(
            np.ascontiguousarray(H, model.dtype),
            model.loss,
            model.penalties.W,
            tol=min(self.nmf.tol, 1e-4) if self.nmf.tol else 1e-6,
            max_iter=max(self.nmf.max_iter, 1000),
            entries=self._entries,
            sum_to_one_weight=surveyed.sum_to_one_weight if model.variant.sum_to_one else 0.0,
            weights=model.variant.column_weights,
        )
        sample = RowSample(model.shape[0], model.seed, model.rows) if sampled else None
        return Evaluation(coder, model.dtype, surveyed, sample, self.session.V.source.sparse)


@contextmanager
def open_study(
    X: MatrixLike, ranks: Sequence[int], n_init: int, options: FitOptions, **nmf: Any
) -> Iterator[Study]:
    """A context with the study of every rank from `n_init` starts, fitted in the same reads of X.

    For the Frobenius loss no W is stored while the fits run; for other losses W is part of the iteration.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        As for `NMF.fit`, but stored by rows: a CSC matrix is refused.
    ranks : sequence of int
    n_init : int
    options : FitOptions
        `many` holds further fields of the identity of the run; with `resampling` each start has its own
        version of X.
    **nmf
        Parameters of `NMF`; ``init="random"`` unless given.
    """
    ranks = [int(rank) for rank in ranks]
    nmf = {"init": "random"} | nmf
    template = NMF(max(ranks), n_init=n_init, **nmf)
    if template.halving:
        raise ValueError(
            "halving is True, which drops starts; their agreement needs all of them at the end: leave "
            "halving out, or use NMF(n_init=, halving=True)."
        )
    options = replace(
        options,
        callbacks=(*options.callbacks, log_pass) if template.verbose else tuple(options.callbacks),
        many={"ranks": ranks, "n_init": int(n_init)} | (options.many or {}),
    )
    with session(*open_problem(template, X, options)) as opened:
        models = _models(opened.inputs.model, ranks, n_init)
        Execution(opened, models).run_passes()
        factorizations = factorizations_of(opened.run, [(model.k, model.seed) for model in models])
        yield Study(template, nmf, replace(opened, V=_unhidden(opened)), factorizations)


def _models(model: Model, ranks: Sequence[int], n_init: int) -> list[Model]:
    return [
        replace(model.reseeded(seed), k=rank, drops_W=True)
        for rank in ranks
        for seed in start_seeds(model.seed, n_init)
    ]


def _unhidden(opened: Session) -> OpenMatrix:
    """V without hidden entries."""
    source, entries = opened.V.source, opened.inputs.entries
    if entries is None or entries.holdout is None or not isinstance(source, WeightedSource):
        return opened.V
    return replace(opened.V, source=source.changed(entries=replace(entries, holdout=None)))


def finished_run(target: StoreLike, kind: str, maker: str) -> tuple[Run, schema.Many, dict[str, Any]]:
    """The finished run of a sweep or a consensus: the run, its ranks and starts, and its findings.

    Parameters
    ----------
    target : path, URL or Zarr store
    kind : "sweep" or "consensus"
    maker : str
        Name of the function that writes runs of this kind, for messages.

    Raises
    ------
    RunError
        If the run is of another kind or has not ended.
    """
    run = open_run(target)
    many, found = run.identity.many, run.found
    if many is None or not (many.method if kind == "sweep" else many.consensus):
        raise RunError(
            f"the run at {str(target)!r} is not a {kind}; open_{kind} takes the checkpoint of {maker}: use "
            "open_run."
        )
    if found is None or not run.concluded:
        raise RunError(
            f"the {kind} at {str(target)!r} has not ended, after {counted(run.n_passes, 'pass', 'es')}; its "
            "result exists at the end: wait for it, or repeat the same call to resume."
        )
    return run, many, found


def factorizations_of(
    run: MemoryRun | StoredRun | Run, models: Sequence[tuple[int, int]]
) -> tuple[Factorization, ...]:
    """The factorizations of a run.

    Parameters
    ----------
    run : MemoryRun, StoredRun or Run
    models : sequence of (int, int)
        Rank and seed of each model.
    """
    statuses, histories = run.progress.models, run.history.by_model()
    states = states_of(run.factors, [run.progress.location_of(status) for status in statuses])
    factorizations = []
    for status, state in zip(statuses, states, strict=True):
        records = histories[status.model] if len(models) > 1 else run.history
        # The history also holds the final pass of the run, which belongs to no model.
        last = next(each for each in reversed(records) if each.phase in ("exact", "evaluation"))
        factorizations.append(
            Factorization(
                *models[status.model],
                FactorState.checked(state).factor,
                float(last.loss or 0.0),
                float(last.objective or 0.0),
                last.holdout / last.hidden if last.holdout is not None and last.hidden else None,
                status.iteration,
                str(status.outcome),
            )
        )
    return tuple(factorizations)
