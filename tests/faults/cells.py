"""Table of faults: what fails, where, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One row of the table of faults."""

    fault: str
    """What goes wrong."""
    strikes: str
    """Where in a run: survey, start, before read, after W write, between H and commit, during commit,
    evaluation, export."""
    holds: str
    """What must hold after."""
    check: Callable[..., None]
    """Brings it about, and asserts that it holds."""

    def __str__(self) -> str:
        return f"{self.fault}, {self.strikes}"
