"""Records of passes, and rules that stop a fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dasknmf.core.text import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Achieved:
    """The loss and objective of a model after a pass."""

    iteration: int
    """Exact passes so far; 0 during survey and start."""
    phase: str
    """Name of the phase."""
    loss: float | None
    """The divergence D(V | WH), without penalties; None in phases before W and H exist."""
    objective: float | None
    """The loss plus penalties, which the solver minimizes."""
    loss_at: str | None
    """The pair of which `loss` is the loss. ``"end"``: W and H at the end of the pass; ``"entry"``: those
    at its start; ``"solved"``: H at its start, with the W that the pass solved for this H."""
    measures: dict[str, float] = field(default_factory=dict, repr=False, kw_only=True)
    """Numbers for the solver's stop rule."""

    @property
    def achieved(self) -> dict[str, Any]:
        """The fields above, by name."""
        return {each.name: getattr(self, each.name) for each in fields(Achieved)}

    @property
    def holdout(self) -> float | None:
        """Divergence over the entries hidden by ``fit(holdout=)``, of W and H at the start of the pass."""
        return self.measures.get("holdout")

    @property
    def hidden(self) -> int | None:
        """Number of hidden entries."""
        return int(self.measures["hidden"]) if "hidden" in self.measures else None


@dataclass(frozen=True)
class ModelRecord(Achieved):
    """The results of one of the models that share a pass."""

    model: int
    """Number of the model."""


@dataclass(frozen=True)
class Record(Achieved):
    """The results of one pass; if several models share it, those of the best model so far."""

    change: float | None
    """Relative decrease of the objective since the last record that has one."""
    seconds: float
    """Wall time of the pass."""
    bytes_read: int
    """Bytes of V as fetched from its store, and of factors; reads from a stage do not count."""
    bytes_written: int
    """Bytes of factors."""
    reads: float
    """Number of reads of the whole of V so far, from its store or from a stage."""
    memory: int | None = None
    """Largest resident memory of a process during the pass, in bytes; None if it was not measured."""
    models: tuple[ModelRecord, ...] = field(default=(), repr=False)
    """The results of each model, if several share the pass."""
    retries: int = 0
    """Number of retries of reads and writes, of V and of factors, after transient errors."""

    @property
    def closed(self) -> bool:
        """Whether the loss is that of the W and H that are returned."""
        return self.phase in ("evaluation", "final")


Callback = Callable[[Record], None]


class History(tuple[Record, ...]):
    """The records of a run, the oldest first."""

    def __repr__(self) -> str:
        if not self:
            return "History(empty)"
        last = self[-1]
        passes, reads = counted(len(self), "pass", "es"), counted(last.reads, "read")
        return f"History({passes}, {reads} of V, objective {last.objective})"

    def plus(self, record: Record) -> History:
        return History((*self, record))

    def of_model(self, model: int) -> History:
        """The passes of one of several models, with its own results."""
        return self.by_model().get(model, History())

    def by_model(self) -> dict[int, History]:
        """The passes of each model, with its own results."""
        own: dict[int, list[Record]] = {}
        for record in self:
            for each in record.models:
                own.setdefault(each.model, []).append(replace(record, **each.achieved, models=()))
        return {model: History(records) for model, records in own.items()}

    @property
    def exact(self) -> list[Record]:
        """The exact passes."""
        return [record for record in self if record.phase == "exact"]

    @property
    def evaluated(self) -> list[Record]:
        """The passes that have a loss."""
        return [record for record in self if record.loss is not None]

    @property
    def reads(self) -> float:
        """Reads of V so far."""
        return self[-1].reads if self else 0.0

    @property
    def retries(self) -> int:
        """Number of retries of reads and writes so far."""
        return sum(record.retries for record in self)

    def columns(self) -> dict[str, list[Any]]:
        """The public fields, each as a list with one value per pass."""
        public = [each.name for each in fields(Record) if each.repr]
        return {name: [getattr(record, name) for record in self] for name in public}

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as arrays of numbers, or of str as objects; NaN or "" where a pass has no value."""
        columns: dict[str, np.ndarray] = {}
        for name, values in self.columns().items():
            if any(isinstance(value, str) for value in values):
                columns[name] = np.asarray([value or "" for value in values], dtype=object)
            else:
                columns[name] = np.asarray([np.nan if value is None else value for value in values])
        return columns

    def to_dataframe(self) -> pd.DataFrame:
        """A pandas data frame with a row per pass, with the loss over hidden entries if there are any."""
        import pandas as pd

        held = [record.holdout for record in self]
        more = {"holdout": held} if any(loss is not None for loss in held) else {}
        return pd.DataFrame(self.columns() | more)


class Ending(Enum):
    """The reason for the end of a fit, with advice to the user."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"

    @property
    def advice(self) -> str:
        if self is Ending.CONVERGED:
            return "The fit converged; a smaller tol continues it."
        return "The fit reached max_iter before it converged: raise max_iter or tol."


@dataclass(frozen=True)
class Stop:
    """The decision of a stop rule to end the fit."""

    at: str
    """The pair to keep. ``"end"``: W and H at the end of the last pass; ``"entry"``: those at its start."""


class StopRule(Protocol):
    """A rule that ends a fit. It uses the history only, so a resumed run ends like an uninterrupted one."""

    def decide(self, history: History) -> Stop | None:
        """The decision to end after the last record; None to go on."""


@dataclass(frozen=True)
class SmallGains:
    """A rule that stops when two passes in a row each lower the objective by at most `tol` of it.

    It also stops when the loss is below `floor`. On eight real and drawn matrices with the sample that holds
    all of V, fits ended after four or five reads, within 2e-4 of the objective of forty passes; with a sample
    of an eighth of V mostly after 7 to 20 reads, within 1e-3.
    """

    tol: float
    floor: float
    """The loss of an exact fit, from `exact_loss`."""
    count: int = 2
    """Number of small gains: more than two where blocks of components take more turns."""

    def decide(self, history: History) -> Stop | None:
        passes = history.exact
        if not passes or self.tol == 0:
            return None
        last = passes[-1]
        assert last.loss is not None
        assert last.loss_at is not None
        if last.loss_at == "solved":
            return None  # H was updated since, and the pair with this loss is not stored
        known = last.loss_at == "entry" or not last.measures.get("imprecise")
        if known and last.loss <= self.floor:
            return Stop(last.loss_at)
        own = self.count + 1
        if len(passes) < own or len({record.loss_at for record in passes[-own:]}) > 1:
            return None
        objectives = own_objectives(passes)[-own:]
        small = all(before - after <= self.tol * after for before, after in pairwise(objectives))
        return Stop(last.loss_at) if small else None


def exact_loss(dtype: np.dtype, scale: float) -> float:
    """The loss at or below which a fit counts as exact; `scale` is ‖V‖², or Σ v^β for another.

    For the Frobenius loss that is a residual of 1.4e-6 of V's norm in float64, and 4.5e-5 in float32.
    """
    return (1e-12 if dtype.itemsize == 8 else 1e-9) * scale


def rivals(objectives: Iterable[float]) -> dict[str, float]:
    """The objectives of several models, as measures of a pass."""
    return {f"rival {model}": objective for model, objective in enumerate(objectives)}


def own_objectives(passes: Sequence[Record]) -> list[float]:
    """The objectives of the winning model, also in passes in which another model was better."""
    compared = [record for record in passes if "rival 0" in record.measures]
    if not compared:
        return [float(record.objective or 0.0) for record in passes]
    last = {name: value for name, value in compared[-1].measures.items() if name.startswith("rival")}
    winner = min(last, key=lambda name: last[name])
    return [float(record.measures.get(winner, record.objective or 0.0)) for record in passes]


@dataclass(frozen=True)
class Violation:
    """scikit-learn's rule for ``solver="cd"``: the projected gradient relative to that of the first pass."""

    tol: float

    def decide(self, history: History) -> Stop | None:
        passes = history.exact
        if not passes:
            return None
        first, last = (passes[i].measures["violation"] for i in (0, -1))
        return Stop("end") if first == 0 or last / first <= self.tol else None


@dataclass(frozen=True)
class EveryTenth:
    """scikit-learn's rule for ``solver="mu"``: the decrease of √(2D) over ten iterations."""

    tol: float

    def decide(self, history: History) -> Stop | None:
        passes = history.exact
        if not passes or self.tol == 0:
            return None
        errors = self._errors(passes)
        last = len(errors) - 1
        if last < 10 or last % 10:
            return None
        if (errors[last - 10] - errors[last]) < self.tol * errors[0]:
            return Stop(str(passes[-1].loss_at))
        return None

    @staticmethod
    def _errors(passes: Sequence[Record]) -> list[float]:
        """√(2D) at the start and after each iteration of known loss."""
        losses: dict[int, float] = {}
        for record in passes:
            if "loss_at_start" in record.measures:
                losses[0] = record.measures["loss_at_start"]
            at = record.iteration if record.loss_at == "end" else record.iteration - 1
            losses[at] = float(record.loss or 0.0)
        return [math.sqrt(2 * max(losses[i], 0.0)) for i in sorted(losses)]
