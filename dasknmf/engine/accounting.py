"""What the visits of a pass moved and saw, beside their tallies, and what their processes held."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil

_MOMENT = 0.005
"""Seconds; to ask takes 10 µs."""
_lately = (-math.inf, 0)
"""When this process asked last, and the answer."""


@dataclass(frozen=True)
class PassStats:
    """What some visits of a pass moved and saw."""

    bytes_read: int = 0
    bytes_written: int = 0
    sums: tuple[tuple[int, float], ...] = ()
    """Panel and Σv, where the pass read V."""
    lost: tuple[int, ...] = ()
    """Panels that a stage no longer had."""
    memory: int = 0
    """Resident bytes of the largest process, as its visits saw it."""
    retries: int = 0
    """How often storage was asked again."""

    def __add__(self, other: PassStats) -> PassStats:
        return PassStats(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.sums + other.sums,
            self.lost + other.lost,
            max(self.memory, other.memory),
            self.retries + other.retries,
        )


class Watched:
    """Slabs of a panel, and what the process held at the end of the work on each of them.

    A peak between two such moments, in a process with one thread, is not seen.
    """

    def __init__(self, slabs: Iterable[Any]) -> None:
        self._slabs = slabs
        self.peak = 0

    def __iter__(self) -> Iterator[Any]:
        for slab in self._slabs:
            yield slab
            self.peak = max(self.peak, lately_resident())
            del slab  # nobody keeps it while the next one is read


def lately_resident() -> int:
    """What this process held a moment ago: a pass over little takes no longer for being watched."""
    global _lately
    now = time.perf_counter()
    if now - _lately[0] > _MOMENT:
        _lately = (now, resident_bytes())
    return _lately[1]


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(1)
def _process(pid: int) -> psutil.Process:
    """Found once, which takes longer than to ask it; a child that was forked finds itself."""
    return psutil.Process(pid)
