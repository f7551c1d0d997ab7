"""The progress of a run: the commit record, and the history of its passes."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import dask
import numpy as np
import zarr
from msgspec import Meta
from msgspec.structs import replace
from zarr.abc.store import Store

from dasknmf.core.history import History
from dasknmf.core.panels import Grid
from dasknmf.core.state import State
from dasknmf.errors import RunDamagedError
from dasknmf.store import arrays, records, schema
from dasknmf.store.factors import Factors, FactorVersion
from dasknmf.store.schema import Count, Ending, Identity, ModelNumber, PassName, PassNameOrNone, Record, Token


class FactorLocation(Record, frozen=True):
    """The location of the factors of one model in the store."""

    state: PassName
    """Name of the pass that wrote the state."""
    phase_index: ModelNumber
    """Number of the model's phase in that pass."""
    rows: FactorVersion | None
    """Version of the rows of W; None where they are not stored."""


class ModelStatus(Record, frozen=True):
    """The progress of one of the models that share the passes."""

    model: ModelNumber
    phase_indices: Annotated[tuple[ModelNumber, ...], Meta(min_length=1, max_length=schema.MOST_MODELS)] = (
        0,
    )
    """Numbers of the model's phases in the latest pass: several while starts compete."""
    leader: ModelNumber = 0
    """Number of the phase with the lowest objective."""
    iteration: Count = 0
    """Exact passes done."""
    outcome: Ending | None = None
    """How the fit of the model ended; None while it runs."""
    location: FactorLocation | None = None
    """The final factors, once their loss is known; only the best ended model has its rows stored."""
    objective: float | None = None
    """Objective of the last pass that computed one."""


class Progress(Record, frozen=True):
    """The progress of a run at its last commit."""

    passes: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Passes committed, of every phase."""
    start: Annotated[int, Meta(ge=0, le=2**10)] = 0
    """Start phases done."""
    iteration: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Exact passes done."""
    state: PassNameOrNone = ""
    """Name of the pass that wrote the latest state; empty before the first pass."""
    rows: Annotated[tuple[FactorVersion, ...], Meta(max_length=schema.MOST_MODELS)] = ()
    """The latest versions of rows of W."""
    models: Annotated[tuple[ModelStatus, ...], Meta(min_length=1, max_length=schema.MOST_MODELS)] = (
        ModelStatus(0),
    )
    """The models in the order of their numbers, without dropped ones."""
    outcome: Ending | None = None
    """How the fit ended; None while it runs."""
    conclusion: FactorLocation | None = None
    """The factors that a consensus or refit made from all models; None if the result is one model's."""

    @property
    def best(self) -> ModelStatus:
        """The model with the lowest objective; of equal ones the first."""
        return min(self.models, key=lambda model: objective_key(model.objective))

    @property
    def location(self) -> FactorLocation:
        """The location of the factors of the run."""
        return self.conclusion or self.location_of(self.best)

    def location_of(self, model: ModelStatus) -> FactorLocation:
        """The location of the final factors of a model or, if there are none, of its latest factors."""
        if model.location is not None:
            return model.location
        rows = (each for each in self.rows if model.leader in each.models)
        return FactorLocation(self.state, model.leader, next(rows, None))

    def with_outcome(self) -> Progress:
        """The progress with the run's outcome if all models have ended; only the best model keeps rows."""
        ended = [model for model in self.models if model.location is not None]
        if not ended:
            return self
        lowest = min(ended, key=lambda model: objective_key(model.objective))
        models = tuple(
            replace(model, location=replace(model.location, rows=None))
            if model.location is not None and model is not lowest
            else model
            for model in self.models
        )
        outcome = lowest.outcome if len(ended) == len(models) else self.outcome
        return replace(self, models=models, outcome=outcome)

    @property
    def versions(self) -> set[str]:
        """Names of the versions of rows that are in use."""
        return {each.name for each in (*self.rows, *(location.rows for location in self._locations)) if each}

    @property
    def states(self) -> dict[str, set[int]]:
        """The states that are in use: numbers of phases, by the name of the pass."""
        going = [model for model in self.models if model.location is None]
        needed = {self.state: {index for model in going for index in (*model.phase_indices, model.leader)}}
        for location in self._locations:
            needed.setdefault(location.state, set()).add(location.phase_index)
        return needed

    @property
    def _locations(self) -> list[FactorLocation]:
        ended = [model.location for model in self.models if model.location]
        return [*ended, self.conclusion] if self.conclusion else ended


class Commit(Record, frozen=True):
    """``commit``: the last committed progress and its writers."""

    writer_id: Token
    segments: Annotated[tuple[tuple[Count, Token], ...], Meta(max_length=2**20)]
    """The first pass of each writer, and its writer_id."""
    has_sums: bool
    """Whether the first pass has recorded Σv of each panel."""
    progress: Progress

    def __post_init__(self) -> None:
        at, numbers = self.progress, [model.model for model in self.progress.models]
        if numbers != sorted(set(numbers)):
            raise ValueError("each model must be there once, in the order of their numbers")
        first = [number for number, _ in self.segments]
        if first != sorted(set(first)) or (first[:1] != [0] if at.passes else bool(first)):
            raise ValueError("segments must begin with pass 0 and follow each other")
        if bool(at.state) != bool(at.passes):
            raise ValueError("there must be a state once there are passes")
        if at.outcome is not None and any(model.outcome is None for model in at.models):
            raise ValueError("the outcome must be None while models go on")
        if max(at.iteration, at.start) > at.passes:
            raise ValueError("iteration and start must be at most the number of passes")


def states_of(factors: Factors, locations: Sequence[FactorLocation]) -> list[State]:
    """The small states of several models; the states of one pass are read together."""
    phase_indices: dict[str, list[int]] = {}
    for location in locations:
        phase_indices.setdefault(location.state, []).append(location.phase_index)
    found = {
        (name, phase_index): state
        for name, own in phase_indices.items()
        for phase_index, state in zip(own, factors.read_states(name, own), strict=True)
    }
    return [found[location.state, location.phase_index] for location in locations]


def objective_key(objective: float | None) -> float:
    """The objective as a sort key; infinity if it is unknown or not finite."""
    return objective if objective is not None and math.isfinite(objective) else math.inf


@dataclass(frozen=True)
class Committed:
    """The content of the commits of a run.

    Parameters
    ----------
    progress : Progress
    history : History
    sums : tuple of float or None
        Σv of each panel, once the first pass has read V.
    segments : tuple of (int, str)
        The first pass of each writer, and its writer_id.
    """

    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)
    sums: tuple[float, ...] | None = None
    segments: tuple[tuple[int, str], ...] = ()


def committed(store: Store, identity: Identity) -> Committed:
    """The content of the commits of the run with this identity.

    Raises
    ------
    RunDamagedError
        If a record is missing or altered, or contains models that the run does not have.
    """
    commit = records.read_record(store, "commit", Commit)
    if commit is None:
        return Committed()
    passes = []
    for index in range(commit.progress.passes):
        writer_id = [writer_id for first, writer_id in commit.segments if first <= index][-1]
        path = f"history/{index}-{writer_id}"
        record = records.needed_record(store, path, schema.PassRecord)
        if identity.model.solver == "cd" and not record.has_violation:
            raise records.damaged(store, path, "measures of an exact pass have no 'violation'")
        passes.append(record)
    numbers = [model.model for model in commit.progress.models]
    numbers += [model.model for record in passes for model in record.models]
    if max(numbers) >= identity.n_models:
        reason = f"it names model {max(numbers)}, of {identity.n_models} in all"
        raise records.damaged(store, "commit", reason)
    history = History(record.record() for record in passes)
    return Committed(commit.progress, history, read_sums(store) if commit.has_sums else None, commit.segments)


def format_of(store: Store) -> int | None:
    """The format of the run in a store; None if there is no run."""
    try:
        about = records.document(store, "")
        return None if about is None else int(about["attributes"]["dasknmf"]["format"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def read_run(store: Store) -> schema.Problem | None:
    """The record ``run`` of a store; None if there is no run.

    Raises
    ------
    RunDamagedError
        If the record is altered or of another format.
    """
    found = format_of(store)
    if found not in (None, schema.FORMAT):
        raise RunDamagedError(
            f"the run at {str(store)!r} has format {found}; this version reads {schema.FORMAT}: use "
            "the version that wrote it, or start over with overwrite=True."
        )
    return None if found is None else records.read_record(store, "run", schema.Problem)


def read_sums(store: Store) -> tuple[float, ...]:
    sums = arrays.read_array(store, "panels/sums")
    if sums.ndim != 1 or sums.dtype != np.float64:
        raise arrays.damaged(store, "panels/sums", f"it is of {sums.dtype}, shape {sums.shape}")
    return tuple(sums.tolist())


def read_grid(store: Store, identity: Identity) -> Grid:
    """The panels (blocks of rows of V) of a run.

    Raises
    ------
    RunDamagedError
        If the edges do not ascend from 0 to the number of rows of V.
    """
    edges, n_rows = arrays.read_array(store, "panels/edges"), identity.n_rows
    is_cut = edges.ndim == 1 and edges.dtype == np.int64 and 2 <= len(edges) <= schema.MOST_PANELS
    if not is_cut or edges[0] != 0 or edges[-1] != n_rows or (np.diff(edges) <= 0).any():
        raise arrays.damaged(store, "panels/edges", f"it does not cut {n_rows} rows into panels")
    return Grid(tuple(edges.tolist()))


def environment() -> dict[str, str]:
    """Versions of libraries and the kind of machine; changes are logged when a run is resumed."""
    import numba
    import scipy
    import sklearn

    versions = {module.__name__: module.__version__ for module in (np, scipy, sklearn, numba, zarr, dask)}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}
