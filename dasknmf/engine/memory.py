"""Projected peak memory of a pass in one process."""

from __future__ import annotations

from dataclasses import dataclass

from dask.utils import format_bytes

from dasknmf.errors import MemoryLimitError

_SAMPLE_COPIES = 4
"""Copies of a start's sampled rows: parts, their concatenation, the scaled rows, and a subset."""
_RUNTIME_BYTES = 192 * 2**20
"""Bytes that a process gains while it works: compiled kernels, threads of the store, freed slabs that
the allocator keeps."""


@dataclass(frozen=True)
class Projection:
    """Parts of the memory of one process during a pass, in bytes unless stated otherwise.

    Parameters
    ----------
    baseline : int
        Resident memory before the pass.
    threads : int
        Number of tasks that run at once.
    slab : int
        Size of a slab with its copies during the read.
    tiles : int
        Size of the buffers of the tiles of one task.
    rows : int
        Size of the factor rows of a panel.
    tally : int
        Size of a tally.
    inputs : int
        Size of the inputs that all tasks share.
    sampled : int
        Size of the rows of V that a start samples, gathered in one task.
    factors : int
        Size of all factor rows, if they are kept in memory; 0 with a factor store.
    fan_in : int
        Number of tallies that one task adds.
    staged : int
        Size of the staged panels of V; 0 without ``stage="memory"``.
    """

    baseline: int
    threads: int
    slab: int
    tiles: int
    rows: int
    tally: int
    inputs: int
    sampled: int
    factors: int
    fan_in: int
    staged: int

    @property
    def peak(self) -> int:
        # Three copies of the rows: as read, as updated, and as written.
        each = self.slab + self.tiles + 3 * self.rows + 2 * self.tally
        shared = (self.fan_in + 2) * self.tally + self.inputs + self.factors + self.staged
        shared += _SAMPLE_COPIES * self.sampled
        return self.baseline + _RUNTIME_BYTES + self.threads * each + shared

    def check(self, limit: int) -> None:
        """Raise an error if the projected peak exceeds `limit` bytes.

        Raises
        ------
        MemoryLimitError
        """
        if self.peak > limit:
            parts = (
                f"{format_bytes(self.baseline)} now, and for each thread, of which there may be "
                f"{self.threads}, {format_bytes(self.slab)} for a part of V, {format_bytes(self.rows)} for "
                f"rows of W and {format_bytes(self.tally)} for sums"
            )
            remedy = "store V in smaller chunks of rows"
            if self.staged:
                parts += f", and {format_bytes(self.staged)} of V in stage='memory'"
                remedy = "give stage= a directory"
            raise MemoryLimitError(
                f"a pass is projected to peak at {format_bytes(self.peak)} ({parts}); a process has "
                f"{format_bytes(limit)}: give it more memory or fewer threads, {remedy}, or fit fewer "
                "components."
            )
