"""What tasks read and write: generations of W, and the small states.

A generation is every panel's rows after one pass. It is never written twice: its name holds the
number of the pass and a token of the client that ran it, so a task that wakes up late writes
beside the live factors, not over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dasknmf.passes import Rows, State


@dataclass(frozen=True)
class Generation:
    """The rows that one pass leaves behind.

    Parameters
    ----------
    name : str
        ``"<pass>-<epoch>"``.
    widths : tuple of (int, str, int)
        Model, name and columns of each array, in the order in which they stand side by side.
    """

    name: str
    widths: tuple[tuple[int, str, int], ...]

    @property
    def width(self) -> int:
        return sum(columns for _, _, columns in self.widths)

    @classmethod
    def of(cls, name: str, widths: list[Mapping[str, int]]) -> Generation:
        """The generation of models whose phases leave arrays of these widths."""
        flat = (
            (model, array, columns)
            for model, arrays in enumerate(widths)
            for array, columns in arrays.items()
        )
        return cls(name, tuple(flat))

    def of_model(self, block: np.ndarray, model: int) -> np.ndarray:
        """The columns of a block that are one model's W: a view."""
        first = 0
        for owner, name, columns in self.widths:
            if (owner, name) == (model, "W"):
                return block[:, first : first + columns]
            first += columns
        raise KeyError(model)

    def split(self, block: np.ndarray) -> list[Rows]:
        """The block's columns as named arrays of each model: copies, for visits to change."""
        models: list[Rows] = [{} for _ in range(1 + max((m for m, _, _ in self.widths), default=-1))]
        first = 0
        for model, name, columns in self.widths:
            models[model][name] = block[:, first : first + columns].copy(order="C")
            first += columns
        return models

    def joined(self, models: list[Rows]) -> np.ndarray:
        """The inverse of `split`."""
        parts = [models[model][name] for model, name, _ in self.widths]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Factors(Protocol):
    """Both kinds of factor store, as the engine sees them."""

    def begin(self, generation: Generation) -> None:
        """Make room for a generation, before any task writes to it."""

    def read_rows(self, generation: Generation, panel: int, n_rows: int) -> np.ndarray:
        """A panel's rows, shape (n_rows, generation.width). Not to be changed."""

    def write_rows(self, generation: Generation, panel: int, block: np.ndarray) -> None:
        """Keep a panel's rows; the block is not changed afterwards."""

    def read_state(self, name: str, model: int) -> State:
        """One model's small state after the pass of that name; empty before the first."""

    def write_state(self, name: str, model: int, state: State) -> None:
        """Keep one model's small state."""

    def drop(self, generation: str) -> None:
        """Delete a generation that no commit needs any more."""


class MemoryFactors:
    """Factors in this process: for runs without a checkpoint on one machine."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, np.ndarray]] = {}
        self._states: dict[str, dict[int, State]] = {}

    def begin(self, generation: Generation) -> None:
        self._rows[generation.name] = {}

    def read_rows(self, generation: Generation, panel: int, n_rows: int) -> np.ndarray:
        return self._rows[generation.name][panel]

    def write_rows(self, generation: Generation, panel: int, block: np.ndarray) -> None:
        self._rows[generation.name][panel] = block

    def read_state(self, name: str, model: int) -> State:
        return self._states[name][model] if name else {}

    def write_state(self, name: str, model: int, state: State) -> None:
        # Only the state before a pass and the one after it can still be asked for.
        for old in list(self._states)[:-2]:
            self._states.pop(old, None)  # another model's update may have been here
        self._states.setdefault(name, {})[model] = state

    def drop(self, generation: str) -> None:
        self._rows.pop(generation, None)
