"""What the visits of a pass moved and saw, beside their tallies, and what their processes held."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil


@dataclass(frozen=True)
class Ledger:
    """What some visits of a pass moved and saw."""

    bytes_read: int = 0
    bytes_written: int = 0
    sums: tuple[tuple[int, float], ...] = ()
    """Panel and Σv, where the pass read V."""
    lost: tuple[int, ...] = ()
    """Panels that a stage no longer had."""
    memory: int = 0
    """Resident bytes of the largest process, as its visits saw it."""

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.sums + other.sums,
            self.lost + other.lost,
            max(self.memory, other.memory),
        )


class Watched:
    """Slabs of a panel, and what the process held while each of them was worked on.

    Asked once a slab, that is after at least a panel's worth of work or a slab's of reading: 10 µs beside
    milliseconds. A peak between two slabs of a process with one thread is not seen.
    """

    def __init__(self, slabs: Iterable[Any]) -> None:
        self._slabs = slabs
        self.peak = 0

    def __iter__(self) -> Iterator[Any]:
        for slab in self._slabs:
            yield slab
            self.peak = max(self.peak, resident_bytes())
            del slab  # nobody keeps it while the next one is read


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(1)
def _process(pid: int) -> psutil.Process:
    """Found once, which takes longer than to ask it; a child that was forked finds itself."""
    return psutil.Process(pid)
