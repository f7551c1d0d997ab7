"""Memory of a pass in one process."""

from __future__ import annotations

from dataclasses import dataclass

from dask.utils import format_bytes

from dasknmf.errors import MemoryLimitError

_DRAWN_COPIES = 4
"""Rows that a start draws are held as they come, in one piece, scaled, and a part of them again."""


_RUNTIME_BYTES = 192 * 2**20
"""What a process has only once it has run: compiled kernels, the threads of the store, and freed
slabs that the allocator keeps for the next."""


@dataclass(frozen=True)
class Projection:
    """Bytes that one process will hold at the peak of a pass.

    Parameters
    ----------
    baseline : int
        What the process holds before the pass.
    threads : int
        Tasks that run in it at once.
    slab, tiles, rows, tally, small : int
        Bytes of a slab and of its copies while it is read, of the buffers of a tile, of a panel's factor
        rows, of a tally, and of what every panel needs.
    drawn : int
        Bytes of the rows of V that a start gathers in one task.
    held : int
        Bytes of all factor rows that are in the process at once: none with a factor store.
    fan_in : int
        Tallies that one addition holds.
    staged : int
        Bytes of V that stay in the process between passes: none without ``stage="memory"``.
    """

    baseline: int
    threads: int
    slab: int
    tiles: int
    rows: int
    tally: int
    small: int
    drawn: int
    held: int
    fan_in: int
    staged: int

    @property
    def peak(self) -> int:
        # Rows are held as they were read and as they are written.
        each = self.slab + self.tiles + 3 * self.rows + 2 * self.tally
        shared = (self.fan_in + 2) * self.tally + self.small + self.held + self.staged
        shared += _DRAWN_COPIES * self.drawn
        return self.baseline + _RUNTIME_BYTES + self.threads * each + shared

    def check(self, limit: int) -> None:
        """Refuse a pass that cannot fit.

        Raises
        ------
        MemoryLimitError
        """
        if self.peak > limit:
            parts = (
                f"{format_bytes(self.baseline)} now, and for each of {self.threads} threads a slab of "
                f"{format_bytes(self.slab)}, factor rows of {format_bytes(self.rows)} and a tally of "
                f"{format_bytes(self.tally)}"
            )
            remedy = "store V in smaller chunks of rows"
            if self.staged:
                parts += f", and {format_bytes(self.staged)} of V in stage='memory'"
                remedy = "give stage= a directory"
            raise MemoryLimitError(
                f"a pass is projected to peak at {format_bytes(self.peak)} ({parts}); a process has "
                f"{format_bytes(limit)}: give it more memory or fewer threads, {remedy}, "
                "or ask for fewer components."
            )
