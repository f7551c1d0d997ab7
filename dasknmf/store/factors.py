"""The factors that tasks read and write: versions of W, and small states.

A version is W after one pass, panel by panel. The name of a version contains the number of the pass and a
token of the client, and is never used twice, so a late task cannot overwrite factors in use.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta

from dasknmf.core.phase import Rows
from dasknmf.core.state import State
from dasknmf.errors import RunDamagedError
from dasknmf.store.schema import MOST_COMPONENTS, MOST_MODELS, ModelNumber, PassName, Record, Text


class FactorVersion(Record, frozen=True):
    """A version of W: the rows that one pass writes.

    Parameters
    ----------
    name : str
        ``"<pass>-<writer_id>"``.
    widths : tuple of (int, str, int)
        Model, name and number of columns of each array, from left to right.
    """

    name: PassName
    widths: Annotated[
        tuple[tuple[ModelNumber, Text, Annotated[int, Meta(ge=0, le=MOST_COMPONENTS)]], ...],
        Meta(min_length=1, max_length=4 * MOST_MODELS),
    ]

    @property
    def width(self) -> int:
        return sum(columns for _, _, columns in self.widths)

    @classmethod
    def of(cls, name: str, widths: Sequence[Mapping[str, int]], first: int = 0) -> FactorVersion:
        """The version of models, counted from `first`, whose phases write arrays of these widths."""
        flat = (
            (model, array, columns)
            for model, arrays in enumerate(widths, first)
            for array, columns in arrays.items()
        )
        return cls(name, tuple(flat))

    @property
    def models(self) -> frozenset[int]:
        """Models with rows in this version."""
        return frozenset(model for model, _, _ in self.widths)

    def of_model(self, block: np.ndarray, model: int) -> np.ndarray:
        """A view of the columns of a block that are the W of one model."""
        first = 0
        for owner, name, columns in self.widths:
            if (owner, name) == (model, "W"):
                return block[:, first : first + columns]
            first += columns
        raise RunDamagedError(
            f"the version {self.name!r} of W lacks model {model}, which the commit names: restore the store "
            "from a copy, or start over with overwrite=True."
        )

    def split(self, block: np.ndarray, models: Collection[int]) -> dict[int, Rows]:
        """Copies of the columns of some models, by model and name of the array."""
        parts: dict[int, Rows] = {}
        first = 0
        for model, name, columns in self.widths:
            if model in models:
                parts.setdefault(model, {})[name] = block[:, first : first + columns].copy(order="C")
            first += columns
        return parts

    def joined(self, models: Mapping[int, Rows]) -> np.ndarray:
        """The inverse of `split`."""
        parts = [models[model][name] for model, name, _ in self.widths]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def pass_of(name: str) -> int:
    """The pass number in the name of a version or state; `sys.maxsize` for any other name."""
    number = name.split("-")[0]
    return int(number) if number.isdecimal() else sys.maxsize


class Factors(Protocol):
    """The interface of both kinds of factor store."""

    def begin(self, version: FactorVersion) -> None:
        """Create a version, before tasks write to it."""

    def read_rows(self, version: FactorVersion, panel: int, n_rows: int) -> np.ndarray:
        """The rows of a panel, shape (n_rows, version.width); read-only by convention."""

    def write_rows(self, version: FactorVersion, panel: int, block: np.ndarray) -> None:
        """Store the rows of a panel; the caller must not change the block afterwards."""

    def read_state(self, name: str, model: int) -> State:
        """The small state of one model after the pass `name`; empty if the name is empty."""

    def read_states(self, name: str, models: Sequence[int]) -> list[State]:
        """The states of several models, which may be named more than once."""

    def write_states(self, name: str, first: int, states: Sequence[State]) -> None:
        """Store the small states of models `first`, `first` + 1, …"""

    def forget_states(self, live: Mapping[str, Collection[int]]) -> None:
        """Delete all states but the live ones: model numbers by name of the pass."""

    def drop(self, version: str) -> None:
        """Delete a version of rows."""


class MemoryFactors:
    """Factors in this process: for runs without a checkpoint on one machine."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, np.ndarray]] = {}
        self._states: dict[str, dict[int, State]] = {}

    def begin(self, version: FactorVersion) -> None:
        self._rows[version.name] = {}

    def read_rows(self, version: FactorVersion, panel: int, n_rows: int) -> np.ndarray:
        return self._rows[version.name][panel]

    def write_rows(self, version: FactorVersion, panel: int, block: np.ndarray) -> None:
        self._rows[version.name][panel] = block

    def read_state(self, name: str, model: int) -> State:
        return self._states[name][model] if name else State()

    def read_states(self, name: str, models: Sequence[int]) -> list[State]:
        return [self.read_state(name, model) for model in models]

    def write_states(self, name: str, first: int, states: Sequence[State]) -> None:
        self._states.setdefault(name, {}).update(enumerate(states, first))

    def forget_states(self, live: Mapping[str, Collection[int]]) -> None:
        # Models end in many passes, and each pass has the states of all that took part.
        self._states = {
            name: {model: states[model] for model in live[name] if model in states}
            for name, states in self._states.items()
            if name in live
        }

    def drop(self, version: str) -> None:
        self._rows.pop(version, None)
