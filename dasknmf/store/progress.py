"""Where a run stands: what its commit record says, and the history that it names."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
import zarr

from dasknmf.core.history import History, Record, from_json
from dasknmf.core.panels import Grid
from dasknmf.core.state import State
from dasknmf.errors import RunDamagedError
from dasknmf.store import arrays, records, schema
from dasknmf.store.factors import Factors, FactorVersion
from dasknmf.store.json_checks import MOST_PANELS
from dasknmf.store.records import Told
from dasknmf.store.schema import FORMAT


@dataclass(frozen=True)
class FactorLocation:
    """Where the factors of one model lie."""

    state: str
    """Name of the pass that left its state."""
    phase_index: int
    """Its number among the phases of that pass."""
    rows: FactorVersion | None
    """Where its rows are; None where they are kept nowhere."""


@dataclass(frozen=True)
class ModelStatus:
    """Where one of the models that share the passes stands."""

    model: int
    phase_indices: tuple[int, ...] = (0,)
    """Phases of the latest pass, by number, which go on for it: several while a start has rivals."""
    leader: int = 0
    """The one of them with the lowest objective."""
    iteration: int = 0
    """Exact passes done."""
    outcome: str | None = None
    """How its fit ended; None while it runs."""
    location: FactorLocation | None = None
    """What it ended with, once its loss is known; its rows while it is the lowest that has ended."""
    objective: float | None = None
    """Of the last pass that told it."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after its last commit."""

    passes: int = 0
    """Passes committed, of every phase."""
    start: int = 0
    """Start phases done."""
    iteration: int = 0
    """Exact passes done."""
    state: str = ""
    """Name of the pass that left the latest state."""
    rows: tuple[FactorVersion, ...] = ()
    """The latest versions."""
    models: tuple[ModelStatus, ...] = (ModelStatus(0),)
    """The models, in the order of their numbers, without those that were given up."""
    outcome: str | None = None
    """How the fit ended; None while it runs."""
    conclusion: FactorLocation | None = None
    """What was made of all the models, where that is not one of them."""

    @property
    def best(self) -> ModelStatus:
        """What the fit would return: the lowest objective, the first of equals."""
        return min(self.models, key=lambda member: height(member.objective))

    @property
    def location(self) -> FactorLocation:
        """Where the factors lie that the run is asked for."""
        return self.conclusion or self.location_of(self.best)

    def location_of(self, member: ModelStatus) -> FactorLocation:
        """Where the factors of a member lie, or have come to so far."""
        if member.location is not None:
            return member.location
        rows = (each for each in self.rows if member.leader in each.models)
        return FactorLocation(self.state, member.leader, next(rows, None))

    def closed(self) -> Progress:
        """With the outcome of the run once all have ended; of those, the lowest keeps its rows."""
        ended = [member for member in self.models if member.location is not None]
        if not ended:
            return self
        lowest = min(ended, key=lambda member: height(member.objective))
        members = tuple(
            replace(member, location=replace(member.location, rows=None))
            if member.location is not None and member is not lowest
            else member
            for member in self.models
        )
        outcome = lowest.outcome if len(ended) == len(members) else self.outcome
        return replace(self, models=members, outcome=outcome)

    @property
    def versions(self) -> set[str]:
        """Names of all that hold rows which are still needed."""
        return {each.name for each in (*self.rows, *(location.rows for location in self._locations)) if each}

    @property
    def states(self) -> dict[str, set[int]]:
        """The states that are still needed: numbers of phases, by the names of the passes that left them."""
        going = [member for member in self.models if member.location is None]
        needed = {
            self.state: {
                phase_index for member in going for phase_index in (*member.phase_indices, member.leader)
            }
        }
        for location in self._locations:
            needed.setdefault(location.state, set()).add(location.phase_index)
        return needed

    @property
    def _locations(self) -> list[FactorLocation]:
        ended = [member.location for member in self.models if member.location]
        return [*ended, self.conclusion] if self.conclusion else ended


def states_of(factors: Factors, locations: Sequence[FactorLocation]) -> list[State]:
    """The small states of several models: those that one pass has left are read at once."""
    phase_indices: dict[str, list[int]] = {}
    for location in locations:
        phase_indices.setdefault(location.state, []).append(location.phase_index)
    found = {
        (name, phase_index): state
        for name, own in phase_indices.items()
        for phase_index, state in zip(own, factors.read_states(name, own), strict=True)
    }
    return [found[location.state, location.phase_index] for location in locations]


def height(objective: float | None) -> float:
    """An objective to compare by: one that is not known, or out of range, is above any other."""
    return objective if objective is not None and math.isfinite(objective) else math.inf


def committed(
    store: Any, identity: dict[str, Any]
) -> tuple[Progress, History, tuple[float, ...] | None, list[tuple[int, str]]]:
    """Where a run of that identity stands, its history, Σv of its panels, and who wrote which passes.

    Raises
    ------
    RunDamagedError
        If a record is missing, not as it was written, or tells of what the run has not.
    """
    content = records.read(store, "commit", schema.COMMIT)
    if content is None:
        return Progress(), History(), None, []
    if content["format"] != FORMAT:
        raise RunDamagedError(
            f"the run at {str(store)!r} has format {content['format']}; this version reads {FORMAT}: use "
            "the version that wrote it, or start over with overwrite=True."
        )
    segments = [(int(first), str(writer_id)) for first, writer_id in content["segments"]]
    progress = Progress(
        content["passes"],
        content["start"],
        content["iteration"],
        content["state"],
        tuple(_version(rows) for rows in content["rows"]),
        tuple(_member(member) for member in content["models"]),
        content["outcome"],
        _location(content["conclusion"]),
    )
    history = []
    for index in range(progress.passes):
        writer_id = [writer_id for first, writer_id in segments if first <= index][-1]
        path = f"history/{index}-{writer_id}"
        record = records.read(store, path, schema.HISTORY)
        if record is None:
            raise RunDamagedError(
                f"the history of pass {index} of the run at {str(store)!r} is missing; the commit names "
                "it: restore the store from a copy, or start over with overwrite=True."
            )
        measures = Told(f"the record {path!r} of the run at {str(store)!r}", record["measures"])
        history.append(replace(from_json(record), measures=measures))
    _check_models(store, schema.models_of(identity), progress, history)
    sums = read_sums(store) if content["has_sums"] else None
    return progress, History(history), sums, segments


def _check_models(store: Any, n_models: int, progress: Progress, history: Sequence[Record]) -> None:
    """Refuse models that the run has not, as members of its commit or in its history."""
    numbers = [member.model for member in progress.models]
    numbers += [advance.model for record in history for advance in record.models]
    if max(numbers) >= n_models:
        raise records.damaged(store, "commit", f"it tells of model {max(numbers)}, of {n_models} in all")


def _version(content: dict[str, Any]) -> FactorVersion:
    return FactorVersion(content["name"], tuple((int(m), str(n), int(c)) for m, n, c in content["widths"]))


def _location(content: dict[str, Any] | None) -> FactorLocation | None:
    if content is None:
        return None
    rows = content["rows"]
    return FactorLocation(content["state"], content["phase_index"], None if rows is None else _version(rows))


def _member(content: dict[str, Any]) -> ModelStatus:
    return ModelStatus(
        **content
        | {"phase_indices": tuple(content["phase_indices"]), "location": _location(content["location"])}
    )


def format_of(store: Any) -> int | None:
    try:
        about = records.document(store, "")
        return None if about is None else int(about["attributes"]["dasknmf"]["format"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def write_sums(store: Any, sums: tuple[float, ...]) -> None:
    arrays.write(store, "panels/sums", np.asarray(sums))


def read_sums(store: Any) -> tuple[float, ...]:
    sums = arrays.read(store, "panels/sums")
    if sums.ndim != 1 or sums.dtype != np.float64:
        raise arrays.damaged(store, "panels/sums", f"it is of {sums.dtype}, shape {sums.shape}")
    return tuple(sums.tolist())


def columns_of(identity: dict[str, Any]) -> int:
    """Columns of V as it is read, and so of H."""
    return int(identity["shape"][1 - int(identity["transposed"])])


def read_grid(store: Any, identity: dict[str, Any]) -> Grid:
    """The panels that a run was begun with.

    Raises
    ------
    RunDamagedError
        If they are not a cut of the rows of V.
    """
    edges = arrays.read(store, "panels/edges")
    n_rows = identity["shape"][int(identity["transposed"])]
    is_cut = edges.ndim == 1 and edges.dtype == np.int64 and 2 <= len(edges) <= MOST_PANELS
    if not is_cut or edges[0] != 0 or edges[-1] != n_rows or (np.diff(edges) <= 0).any():
        raise arrays.damaged(store, "panels/edges", f"it is no cut of {n_rows} rows into panels")
    return Grid(tuple(edges.tolist()))


def environment() -> dict[str, str]:
    """What made the numbers, for the log line on resume: nothing here has to match."""
    import numba
    import scipy
    import sklearn

    versions = {module.__name__: module.__version__ for module in (np, scipy, sklearn, numba, zarr, dask)}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}
