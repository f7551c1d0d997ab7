"""The interface between algorithms and the engine: visit, add, update.

A phase reads V (or only factor rows) in passes. In one pass

1. every panel is *visited*: its rows of W are updated, and its share of the sums that the update of H
   needs is returned as a tally;
2. the tallies are *added*;
3. the total *updates* H and gives the outcome of the pass, such as the loss.

The engine does not depend on the algorithm; phases do not depend on Dask or Zarr.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from dasknmf.core.blocks import matrix
from dasknmf.core.blocks.base import Block
from dasknmf.core.state import State
from dasknmf.errors import NumericalError

Rows = dict[str, np.ndarray]
"""Named arrays with one row per sample of a panel."""


@dataclass(frozen=True)
class SampledRows:
    """A sample of V's rows, or of values of rows; ``+`` stacks two samples."""

    width: int
    dtype: np.dtype
    capacity: int
    """Expected bytes of the sampled rows of all panels."""
    parts: tuple[tuple[np.ndarray, matrix.Matrix], ...] = ()

    def plus(self, indices: np.ndarray, values: matrix.Matrix) -> SampledRows:
        """The sample with more rows, whose row numbers in V are `indices`."""
        return self + replace(self, parts=((indices, values),)) if len(indices) else self

    def __add__(self, other: SampledRows) -> SampledRows:
        return replace(self, parts=self.parts + other.parts)

    @property
    def indices(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *(indices for indices, _ in self.parts)])

    @property
    def values(self) -> matrix.Matrix:
        """The rows, shape (n_sampled, width): sparse if V is, dense if the sample is empty."""
        if not self.parts:
            return np.zeros((0, self.width), self.dtype)
        return matrix.stacked([values for _, values in self.parts])

    def in_order(self) -> SampledRows:
        """The sample with rows in V's order; panels and tiles may come in another order."""
        indices = self.indices
        if (indices[1:] > indices[:-1]).all():
            return self
        order = np.argsort(indices)
        return replace(self, parts=((indices[order], self.values[order]),))

    def packed(self) -> SampledRows:
        """The sample with its rows in one matrix."""
        return replace(self, parts=((self.indices, self.values),) if self.parts else ())

    @property
    def nbytes(self) -> int:
        return sum(indices.nbytes + matrix.nbytes(values) for indices, values in self.parts)


class Tally(dict[str, Any]):
    """A panel's share of the sums of a pass: named float64 arrays and sampled rows, added with ``+``."""

    @classmethod
    def zeros(cls, shapes: Mapping[str, tuple[int, ...]]) -> Tally:
        return cls({name: np.zeros(shape) for name, shape in shapes.items()})

    def __add__(self, other: Tally) -> Tally:
        return Tally({name: value + other[name] for name, value in self.items()})

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values())

    def packed(self) -> Tally:
        """The tally with each sample of rows in one matrix, to be sent as one."""
        sampled = {name: value.packed() for name, value in self.items() if isinstance(value, SampledRows)}
        return Tally(self | sampled)

    @property
    def capacity(self) -> int:
        """Expected bytes of the sampled rows in the sum of all tallies."""
        return sum(value.capacity for value in self.values() if isinstance(value, SampledRows))


@dataclass(frozen=True)
class Outcome:
    """The results of a pass, for the history and the stop rule: plain numbers only."""

    loss: float | None = None
    """The divergence D(V | WH), without penalties."""
    objective: float | None = None
    """The loss plus penalties, which the solver minimizes."""
    loss_at: str | None = None
    """The pair of which `loss` is the loss; see `dasknmf.core.history.Record`."""
    measures: dict[str, float] = field(default_factory=dict)
    """Numbers for the solver's stop rule."""


class Phase(ABC):
    """The algorithm of one pass. A phase is frozen and small, as it is sent to every worker.

    Subclasses define `name` and `update`; the other members have defaults.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the phase in the history and on the dashboard."""

    @property
    def reads_data(self) -> bool:
        """Whether visits read V; if not, they get ranges of rows only."""
        return True

    @property
    def widths(self) -> Mapping[str, int]:
        """Number of columns of each array of rows that the phase writes."""
        return {}

    @property
    def lines_bytes(self) -> int | None:
        """Bytes of the packed products of all features in the phase; None: depends on the model."""
        return None

    @property
    def batching(self) -> Batching | None:
        """The function that visits tiles for several models together; None: models visit tiles separately."""
        return None

    def prepare(self, state: State) -> Any:
        """Inputs that all visits share, computed once per pass."""
        return None

    def tally(self) -> Tally:
        """A tally of zeros."""
        return Tally({})

    def tile(self, tile: Any, rows: Rows, inputs: Any, tally: Tally) -> None:  # noqa: B027 (some phases read no V)
        """Visit one tile: update `rows` and add to `tally`, both in place."""

    @abstractmethod
    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        """The next state and the outcome of the pass, from the sum of all tallies."""


@dataclass(frozen=True)
class PhaseWrapper(Phase):
    """A phase that delegates to another phase all members that a subclass does not override.

    `batching` is not delegated: a subclass may use other inputs or tiles.

    Parameters
    ----------
    phase : Phase
    """

    phase: Phase

    @property
    def name(self) -> str:
        return self.phase.name

    @property
    def reads_data(self) -> bool:
        return self.phase.reads_data

    @property
    def widths(self) -> Mapping[str, int]:
        return self.phase.widths

    @property
    def lines_bytes(self) -> int | None:
        return self.phase.lines_bytes

    def prepare(self, state: State) -> Any:
        return self.phase.prepare(state)

    def tally(self) -> Tally:
        return self.phase.tally()

    def tile(self, tile: Any, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, inputs, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        return self.phase.update(tally, state)


Map = Callable[..., Iterable[Any]]
"""The function ``map``, or that of a pool of threads."""
Walk = Callable[[Any], None]
"""A function that is called for each tile of a panel."""


@dataclass(frozen=True)
class Visitor:
    """A phase with the inputs of its visit to one panel."""

    phase: Phase
    inputs: Any
    rows: Rows
    """The rows of the panel, which the visit updates in place."""

    def rows_of(self, tile: Any) -> Rows:
        """Views of the rows of a tile."""
        return {name: array[tile.rows] for name, array in self.rows.items()}

    def tile(self, tally: Tally, tile: Any) -> None:
        """Visit one tile: update its rows and add to the tally."""
        self.phase.tile(tile, self.rows_of(tile), self.inputs, tally)


Batching = Callable[[Sequence[Visitor], Sequence[Tally]], Walk]
"""A function that combines the visits of several models to each tile."""


def finite(values: np.ndarray) -> np.ndarray:
    """The values, after a check that all of them are finite.

    Raises
    ------
    NumericalError
    """
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise NumericalError(
            f"{count} of {values.size} entries of a factor are not finite after an update; the values of V "
            "are too large, or differ too much, for this dtype: rescale V to a mean near 1, or give "
            "dtype=np.float64."
        )
    return values


def visit(block: Block, visitors: Sequence[Visitor]) -> list[Tally]:
    """The tally of each visitor, after one walk over a panel that all visitors share.

    The order of tiles, and so of sums, depends only on the panel. Phases with the same `batching` share
    visits.
    """
    tallies = [visitor.phase.tally() for visitor in visitors]
    walks = _walks(visitors, tallies)
    with np.errstate(all="ignore"):  # `finite` raises an error for overflows
        for tile in block.tiles():
            for walk in walks:
                walk(tile)
    return [tally.packed() for tally in tallies]


def _walks(visitors: Sequence[Visitor], tallies: Sequence[Tally]) -> list[Walk]:
    batches: dict[Batching | int, list[int]] = {}
    for model, visitor in enumerate(visitors):
        batches.setdefault(visitor.phase.batching or model, []).append(model)
    walks: list[Walk] = []
    for batching, models in batches.items():
        if len(models) > 1 and not isinstance(batching, int):
            walks.append(batching([visitors[i] for i in models], [tallies[i] for i in models]))
        else:
            walks.append(partial(visitors[models[0]].tile, tallies[models[0]]))
    return walks


def add(parts: Iterable[Tally]) -> Tally:
    """The sum of tallies, added in the given order, which rounding errors depend on."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first
