"""The contract between algorithms and the engine: visit, add, update.

A phase reads V (or only factor rows) in passes. In one pass

1. every panel is *visited*: its rows of W move, and what the small factor needs is tallied;
2. the tallies are *added*;
3. the total *updates* the small factor and says what the pass achieved.

The engine knows these three and nothing of nonnegative matrix factorization; the phases know
nothing of Dask or Zarr.
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
    """Some rows of V, or a value of each, which add by standing one below the other."""

    width: int
    dtype: np.dtype
    capacity: int
    """Bytes that the rows of all panels are expected to take together."""
    parts: tuple[tuple[np.ndarray, matrix.Matrix], ...] = ()

    def plus(self, indices: np.ndarray, values: matrix.Matrix) -> SampledRows:
        """With more rows, whose places are given."""
        return self + replace(self, parts=((indices, values),)) if len(indices) else self

    def __add__(self, other: SampledRows) -> SampledRows:
        return replace(self, parts=self.parts + other.parts)

    @property
    def indices(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *(indices for indices, _ in self.parts)])

    @property
    def values(self) -> matrix.Matrix:
        """The rows, shape (drawn, width): sparse where V is, dense where there are none."""
        if not self.parts:
            return np.zeros((0, self.width), self.dtype)
        return matrix.stacked([values for _, values in self.parts])

    def in_order(self) -> SampledRows:
        """With its rows by their places: panels and tiles may come in another order."""
        indices = self.indices
        if (indices[1:] > indices[:-1]).all():
            return self
        order = np.argsort(indices)
        return replace(self, parts=((indices[order], self.values[order]),))

    def packed(self) -> SampledRows:
        """With its rows in one piece."""
        return replace(self, parts=((self.indices, self.values),) if self.parts else ())

    @property
    def nbytes(self) -> int:
        return sum(indices.nbytes + matrix.nbytes(values) for indices, values in self.parts)


class Tally:
    """Named float64 arrays, and rows drawn from V, that add: what a panel leaves behind."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def zeros(cls, shapes: Mapping[str, tuple[int, ...]]) -> Tally:
        return cls({name: np.zeros(shape) for name, shape in shapes.items()})

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = value

    def __add__(self, other: Tally) -> Tally:
        return Tally({name: value + other.values[name] for name, value in self.values.items()})

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values.values())

    def packed(self) -> Tally:
        """With the rows drawn from the tiles of a panel in one piece, to travel as one."""
        whole = {
            name: value.packed() for name, value in self.values.items() if isinstance(value, SampledRows)
        }
        return Tally(self.values | whole)

    @property
    def capacity(self) -> int:
        """Bytes that drawn rows will take in the whole tally."""
        return sum(value.capacity for value in self.values.values() if isinstance(value, SampledRows))


@dataclass(frozen=True)
class Outcome:
    """What a pass achieved, for the history and the stop rule. Only plain numbers."""

    loss: float | None = None
    """The divergence D(V | WH), without penalties."""
    objective: float | None = None
    """The loss with penalties: what the solver lowers."""
    loss_at: str | None = None
    """``"end"``: of the pair that the pass made; ``"entry"``: of the pair that entered it; ``"solved"``:
    of the H that entered with the W that the pass solved for it."""
    measures: dict[str, float] = field(default_factory=dict)
    """What the solver's own stop rule needs."""


class Phase(ABC):
    """One kind of pass. Frozen and small: it is sent to every worker.

    `name` and `update` are every phase's own; all else has a default, which leaves things as they are.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What history and the dashboard call it."""

    @property
    def reads_data(self) -> bool:
        """Whether a visit walks V; if not, it sees row ranges only."""
        return True

    @property
    def widths(self) -> Mapping[str, int]:
        """Columns of each row array that the phase leaves behind."""
        return {}

    @property
    def lines_bytes(self) -> int | None:
        """Bytes of the packed products of all features that the phase holds; None: as its model does."""
        return None

    @property
    def together(self) -> Together | None:
        """Maker of the walk of several models, for phases whose products with V can be one."""
        return None

    def prepare(self, state: State) -> Any:
        """What every tile needs, made once per pass."""
        return None

    def tally(self) -> Tally:
        """A tally of zeros."""
        return Tally({})

    def tile(self, tile: Any, rows: Rows, small: Any, tally: Tally) -> None:  # noqa: B027
        """Visit one tile: change its rows in place and add to the tally."""

    def walked(self, tile: Any, rows: Rows, N: np.ndarray, small: Any, tally: Tally) -> np.ndarray:
        """Visit one tile, given N = V Hᵀ, and leave A to the caller.

        Returns
        -------
        ndarray of shape (n_rows, n_components)
            diag(a) W, of which A = Wᵀ diag(a) V is made. Only phases with a walk `together` have it.
        """
        raise NotImplementedError

    @abstractmethod
    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        """The next state from the whole tally."""


@dataclass(frozen=True)
class PhaseWrapper(Phase):
    """A phase around another one, which it equals in all that it does not define itself.

    Products that several models share are those of the phase within, and so are not the wrapper's.

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

    def prepare(self, state: State) -> Any:
        return self.phase.prepare(state)

    def tally(self) -> Tally:
        return self.phase.tally()

    def tile(self, tile: Any, rows: Rows, small: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, small, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        return self.phase.update(tally, state)


Map = Callable[..., Iterable[Any]]
"""``map``, or that of a pool of threads: how blocks are spread over the cores of this process."""
Walk = Callable[[Any], None]
"""What is done at each tile of a panel."""


@dataclass(frozen=True)
class Visitor:
    """A phase with what its visit of one panel needs."""

    phase: Phase
    small: Any
    rows: Rows
    """Changed in place by the visit: the caller hands over a copy of its own."""

    def rows_of(self, tile: Any) -> Rows:
        """Views of a tile's rows."""
        return {name: array[tile.rows] for name, array in self.rows.items()}


Together = Callable[[Sequence[Visitor], Sequence[Tally]], Walk]
"""Maker of one walk for the visits of several models."""


def finite(values: np.ndarray) -> np.ndarray:
    """The values, if every step that made them stayed in range: called before they are kept.

    Raises
    ------
    NumericalError
    """
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise NumericalError(
            f"{count} of {values.size} entries of a factor are not finite after a step; V's scale, or "
            "its spread, exceeds what products can hold: rescale V to a mean near 1, or give "
            "dtype=np.float64."
        )
    return values


def visit(block: Block, visitors: Sequence[Visitor]) -> list[Tally]:
    """Walk one panel once, for every model at the same time.

    The order of tiles, and so of every sum, depends on the panel alone. Phases of several models that have
    the same `together` are visited by the one walk which that makes for them.
    """
    tallies = [visitor.phase.tally() for visitor in visitors]
    walks = _walks(visitors, tallies)
    with np.errstate(all="ignore"):  # `finite` tells what left its range, once and in words
        for tile in block.tiles():
            for walk in walks:
                walk(tile)
    return [tally.packed() for tally in tallies]


def _walks(visitors: Sequence[Visitor], tallies: Sequence[Tally]) -> list[Walk]:
    parties: dict[Together | int, list[int]] = {}
    for model, visitor in enumerate(visitors):
        parties.setdefault(visitor.phase.together or model, []).append(model)
    walks: list[Walk] = []
    for together, models in parties.items():
        if len(models) > 1 and not isinstance(together, int):
            walks.append(together([visitors[i] for i in models], [tallies[i] for i in models]))
        else:
            walks.append(partial(_alone, visitors[models[0]], tallies[models[0]]))
    return walks


def _alone(visitor: Visitor, tally: Tally, tile: Any) -> None:
    visitor.phase.tile(tile, visitor.rows_of(tile), visitor.small, tally)


def add(parts: Iterable[Tally]) -> Tally:
    """Sum from the first to the last: the order is part of the result."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first
