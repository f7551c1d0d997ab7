"""Statistics of the visits of a pass: bytes moved, sums, and memory of their processes."""

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
"""Seconds for which a measurement counts as current; one takes 10 µs."""
_lately = (-math.inf, 0)
"""Time and result of the last measurement in this process."""


@dataclass(frozen=True)
class PassStats:
    """Statistics of some visits of a pass; they add."""

    bytes_read: int = 0
    bytes_written: int = 0
    sums: tuple[tuple[int, float], ...] = ()
    """Panel and Σv, where the pass read V."""
    lost: tuple[int, ...] = ()
    """Panels that a stage no longer had."""
    memory: int = 0
    """Resident bytes of the largest process, as its visits saw it."""
    retries: int = 0
    """Repeated requests to storage."""

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
    """Slabs of a panel, with the peak memory of the process at the end of the work on each of them.

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
    """Resident bytes of this process a moment ago: to watch a pass over little data costs nothing."""
    global _lately
    now = time.perf_counter()
    if now - _lately[0] > _MOMENT:
        _lately = (now, resident_bytes())
    return _lately[1]


def resident_bytes() -> int:
    """Resident bytes of this process now."""
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(1)
def _process(pid: int) -> psutil.Process:
    """The process of this id: found once, which takes longer than to measure it."""
    return psutil.Process(pid)
