"""Many factorizations of one V, in the same reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from zarr.storage import StoreLike

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.history import Callback, History
from dasknmf.core.phase import Phase, Tally
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.solvers.resampled import Resampling
from dasknmf.core.starts.survey import Survey
from dasknmf.core.state import FactorState, State
from dasknmf.data.source import Matrix, MatrixLike
from dasknmf.data.weighted import WeightedSource
from dasknmf.errors import RunError
from dasknmf.estimator import NMF
from dasknmf.fitting.decide import open_problem
from dasknmf.fitting.loop import logged
from dasknmf.fitting.model import Model
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.fitting.problem import FitOptions, spawned
from dasknmf.fitting.session import Session, session
from dasknmf.selection.evaluation import DRAWN_ROWS, Draw, Evaluation
from dasknmf.store import schema
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.progress import states_of
from dasknmf.store.run import Run, open_run, oriented
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Factorization:
    """One of many.

    Parameters
    ----------
    n_components : int
    seed : int
        The `random_state` with which `NMF` alone, from the same `init`, begins with the same H; where W is
        kept, as for losses other than Frobenius, it makes the same one of the same V.
    components : ndarray of shape (n_components, n_features)
        H.
    loss, objective : float
        D(V | WH), and the same with penalties; of a perturbed V, that of its own version.
    holdout : float or None
        The divergence over hidden entries, per entry.
    n_iter : int
        Exact passes.
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
class Many:
    """All of them.

    Parameters
    ----------
    factorizations : tuple of Factorization
        Those of the first rank first, in the order of their starts.
    history : History
        One record per pass; `record.models` holds each of them, in the same order.
    """

    factorizations: tuple[Factorization, ...]
    history: History

    @property
    def n_reads(self) -> float:
        """Of V, for all of them together."""
        return self.history.reads

    def of_rank(self, n_components: int) -> list[Factorization]:
        """Those with so many components."""
        return [each for each in self.factorizations if each.n_components == n_components]


@dataclass(frozen=True)
class Evaluated:
    """The fit of one H to V.

    Parameters
    ----------
    loss : float
        D(V | WH), with the best W.
    usage : ndarray of shape (n_components,), float64
        Sums of the columns of W.
    rows : ndarray of shape (at most 4096, n_components)
        Some rows of W, drawn from all over V, the same ones for every H.
    """

    loss: float
    usage: np.ndarray
    rows: np.ndarray


@dataclass
class Study:
    """Many factorizations that have ended, and their V, still open for reading.

    Parameters
    ----------
    nmf : NMF
        Parameters, and the names of features.
    work : Session
    many : Many
    n_asked : int
        Reads of V so far that were no passes.
    """

    nmf: NMF
    work: Session
    many: Many
    n_asked: int = 0

    @cached_property
    def surveyed(self) -> State:
        """What a survey of all of V finds: one more read where models have seen versions or a part of it."""
        at, model = self.work.run.progress, self.work.inputs.model
        if model.variant.resampling is None and not model.variant.hidden:
            location = at.location_of(at.models[0])
            return self.work.run.factors.read_state(location.state, location.phase_index)
        phase = Survey(model.shape, model.loss, model.variant.masked)
        (tally,) = self._asked([phase], [model])
        return phase.update(tally, State())[0]

    @property
    def sum_of_squares(self) -> float:
        """Σ v², with the weights of entries."""
        return self.surveyed.squares

    @property
    def X(self) -> Matrix:
        """X, opened and checked."""
        return self.work.inputs.X

    @property
    def V(self) -> OpenMatrix:
        """X open for reading, with nothing hidden."""
        return self.work.V

    @property
    def concluded(self) -> bool:
        """Whether the run holds its conclusion already."""
        return self.work.run.concluded

    def evaluated(self, spectra: Sequence[np.ndarray]) -> list[Evaluated]:
        """The fit of each H to V: one read for all, as far as they fit into memory together."""
        phases = [self._evaluation(H, drawn=True) for H in spectra]
        models = [replace(self.work.inputs.model, k=len(H)) for H in spectra]
        tallies = self._asked(phases, models)
        return [self._evaluated(*each) for each in zip(phases, tallies, strict=True)]

    def conclude(self, H: np.ndarray) -> None:
        """Write W for this H: the two are the result of the run from here on. One read."""
        self.work.final_pass(self._evaluation(H, drawn=False))

    def returned_W(self) -> np.ndarray | da.Array:
        """W of the result: a Dask array where X is chunked."""
        run, inputs = self.work.run, self.work.inputs
        W, _ = oriented(run.factors, run.progress.location, inputs.grid, transposed=False)
        return self.work.returned(W, lazy=inputs.chunked)

    @property
    def _entries(self) -> EntryWeights | None:
        """How entries of X are read, where some are missing: a Gram matrix for each row is dear."""
        entries: EntryWeights | None = self.V.source.entries
        if entries is None or entries.masks or self.V.source.masked:
            return entries
        return None  # what was hidden from the fits is there

    def _asked(self, phases: Sequence[Phase], models: Sequence[Model]) -> list[Tally]:
        tallies, n_reads = self.work.read(phases, models)
        self.n_asked += n_reads
        return tallies

    def _evaluation(self, H: np.ndarray, *, drawn: bool) -> Evaluation:
        model, surveyed = self.work.inputs.model, self.surveyed
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
        draw = Draw(model.shape[0], model.seed, model.rows) if drawn else None
        return Evaluation(coder, model.dtype, surveyed, draw, self.V.source.sparse)

    @staticmethod
    def _evaluated(phase: Evaluation, tally: Tally) -> Evaluated:
        rows = np.asarray(tally["drawn"].in_order().values)[:DRAWN_ROWS]
        return Evaluated(phase.loss_of(tally), tally["usage"], rows)


def many(X: MatrixLike, ranks: Sequence[int], n_init: int, **parameters: Any) -> Many:
    """Every rank from `n_init` starts; see `studying` for the parameters."""
    with studying(X, ranks, n_init, **parameters) as study:
        return study.many


@contextmanager
def studying(
    X: MatrixLike,
    ranks: Sequence[int],
    n_init: int,
    *,
    holdout: float | None = None,
    resampling: Resampling | None = None,
    described: dict[str, Any] | None = None,
    checkpoint: StoreLike | None = None,
    overwrite: bool = False,
    stage: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **nmf: Any,
) -> Iterator[Study]:
    """Every rank from `n_init` starts, in the same reads of X, which stays open for further questions.

    W is kept nowhere while the fits run (of the Frobenius loss; for others it is part of the iteration).

    Parameters
    ----------
    X : as for `NMF.fit`
        Rows are samples, whatever its shape: a CSC matrix is refused.
    ranks : sequence of int
    n_init : int
    holdout : float, optional
        The same entries are hidden from all of them.
    perturbation : Resampling, optional
        Each start then sees a version of X of its own.
    described : dict, optional
        Further fields of the run's identity, as JSON values.
    checkpoint, overwrite, stage, callbacks
        As for `NMF.fit`.
    **nmf
        Parameters of `NMF`; ``init`` is ``"random"`` unless given.
    """
    ranks = [int(rank) for rank in ranks]
    nmf = {"init": "random"} | nmf
    template = NMF(max(ranks), n_init=n_init, **nmf)
    if template.halving:
        raise ValueError(
            "halving is True; what starts agree on needs all of them, to their ends: leave it out, or "
            "use NMF(n_init=, halving=True)."
        )
    several = {"ranks": ranks, "n_init": n_init} | (described or {})
    options = FitOptions(
        holdout=holdout,
        checkpoint=checkpoint,
        overwrite=overwrite,
        stage=stage,
        callbacks=(*callbacks, logged) if template.verbose else tuple(callbacks),
        resampling=resampling,
        many=several,
    )
    problem, inputs = open_problem(template, X, options)
    with session(problem, inputs, options) as work:
        models = _models(work.inputs.model, ranks, n_init)
        work.fit(models)
        work = replace(work, V=_whole(work))
        found = found_in(work.run, [(model.k, model.seed) for model in models])
        yield Study(template, work, Many(found, work.run.history))


def _models(model: Model, ranks: Sequence[int], n_init: int) -> list[Model]:
    return [
        replace(model.reseeded(seed), k=rank, forgetful=True)
        for rank in ranks
        for seed in spawned(model.seed, n_init)
    ]


def _whole(work: Session) -> OpenMatrix:
    """V with nothing hidden."""
    source, entries = work.V.source, work.inputs.entries
    if entries is None or entries.holdout is None or not isinstance(source, WeightedSource):
        return work.V
    return replace(work.V, source=source.with_entries(replace(entries, holdout=None)))


def ended(target: StoreLike, kind: str, field: str, maker: str) -> tuple[Run, schema.Many, dict[str, Any]]:
    """The run of many factorizations at a path, how many they are, and what was found.

    Parameters
    ----------
    target : path, URL or Zarr store
    kind, field, maker : str
        What the run must be, the field of its identity that marks it, and the function that makes it.

    Raises
    ------
    RunError
        If it is another, or has not ended.
    """
    run = open_run(target)
    many, found = run.identity.many, run.found
    if many is None or not (many.method if field == "method" else many.consensus):
        raise RunError(
            f"the run at {str(target)!r} is no {kind}; open_{kind} takes the checkpoint of {maker}: use "
            "open_run."
        )
    if found is None or not run.concluded:
        raise RunError(
            f"the {kind} at {str(target)!r} has not ended, it stands after {run.n_passes} passes; what it "
            "finds is known at the end: start the same command again."
        )
    return run, many, found


def found_in(run: MemoryRun | StoredRun | Run, made: Sequence[tuple[int, int]]) -> tuple[Factorization, ...]:
    """The factorizations of a run.

    Parameters
    ----------
    run : MemoryRun, StoredRun or Run
    made : sequence of (int, int)
        Rank and seed of each model.
    """
    found = []
    statuses, histories = run.progress.models, run.history.by_model()
    states = states_of(run.factors, [run.progress.location_of(status) for status in statuses])
    for status, state in zip(statuses, states, strict=True):
        own = histories[status.model] if len(made) > 1 else run.history
        # Beside the passes of a fit stands that of a conclusion.
        last = next(each for each in reversed(own) if each.phase in ("exact", "evaluation"))
        hidden = last.holdout / last.hidden if last.holdout is not None and last.hidden else None
        rank, seed = made[status.model]
        found.append(
            Factorization(
                rank,
                seed,
                FactorState.checked(state).factor,
                float(last.loss or 0.0),
                float(last.objective or 0.0),
                hidden,
                status.iteration,
                str(status.outcome),
            )
        )
    return tuple(found)
