"""A run without a checkpoint, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dasknmf.core.history import History, Record
from dasknmf.store.factors import FactorVersion, MemoryFactors
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
        """Nothing: no other process can open this run."""

    found: dict[str, Any] | None = None
    """Findings of an earlier session: none."""

    def write_findings(self, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Nothing: the caller has them."""

    @property
    def concluded(self) -> bool:
        """Whether there are final factors made of all models."""
        return self.progress.conclusion is not None

    def forget(self, versions: Iterable[FactorVersion]) -> None:
        """Delete rows that were written but not committed."""
        for version in versions:
            self.factors.drop(version.name)

    def discard(self) -> None:
        """Nothing: there is nothing to delete."""

    def check_owner(self) -> None:
        """Nothing: the run has no other writer."""

    def close(self) -> None:
        """Nothing: nothing is open."""
