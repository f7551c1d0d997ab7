"""A run without a checkpoint, in this process."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.core.history import History, Record
from dasknmf.store.factors import MemoryFactors
from dasknmf.store.progress import Progress
from dasknmf.store.schema import Plan


class MemoryRun:
    """A run without a checkpoint, in this process."""

    def __init__(self) -> None:
        self.factors = MemoryFactors()
        self.progress = Progress()
        self.history = History()
        self.sums: tuple[float, ...] | None = None
        self.writer_id = "memory"

    def commit(self, progress: Progress, record: Record | None, sums: tuple[float, ...] | None) -> None:
        for version in self.progress.versions - progress.versions:
            self.factors.drop(version)
        self.factors.forget_states(progress.states)
        self.progress = progress
        self.history = self.history.plus(record) if record else self.history
        self.sums = sums

    def plan(self, plan: Plan) -> None:
        """Do nothing: no other process can open this run."""

    found: dict[str, Any] | None = None
    """Findings of an earlier session, which a run in memory does not have."""

    def write_findings(self, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Do nothing: the caller has the findings."""

    @property
    def concluded(self) -> bool:
        """Whether final factors were made from all models."""
        return self.progress.conclusion is not None

    def discard(self) -> None:
        """Do nothing: nothing is stored."""

    def check_owner(self) -> None:
        """Do nothing: the run has no other writer."""

    def close(self) -> None:
        """Do nothing: nothing is open."""
