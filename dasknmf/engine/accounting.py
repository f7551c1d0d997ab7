"""Statistics of a pass: bytes read and written, sums of panels, resident memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil

_REUSE_SECONDS = 0.005
"""Seconds for which a measurement of resident memory is reused, as a measurement takes 10 µs."""
_last_measurement = (-math.inf, 0)
"""Time in seconds and resident bytes of this process's last measurement."""


@dataclass(frozen=True)
class PassStats:
    """Statistics of the visits to some panels; those of disjoint sets of panels add up with ``+``."""

    bytes_read: int = 0
    bytes_written: int = 0
    sums: tuple[tuple[int, float], ...] = ()
    """Pairs of a panel's index and Σv over the panel; empty if the pass does not sum V."""
    lost: tuple[int, ...] = ()
    """Indices of the panels that a stage has lost."""
    memory: int = 0
    """Largest resident memory of a process, in bytes, measured during visits."""
    retries: int = 0
    """Number of repeated requests to storage."""

    def __add__(self, other: PassStats) -> PassStats:
        return PassStats(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.sums + other.sums,
            self.lost + other.lost,
            max(self.memory, other.memory),
            self.retries + other.retries,
        )


class MeasuredSlabs:
    """Slabs of a panel, with the resident memory of the process measured after the work on each slab.

    `peak` is the largest measurement, in bytes; memory between two measurements is not observed.
    """

    def __init__(self, slabs: Iterable[Any]) -> None:
        self._slabs = slabs
        self.peak = 0

    def __iter__(self) -> Iterator[Any]:
        for slab in self._slabs:
            yield slab
            self.peak = max(self.peak, recent_resident_bytes())
            del slab  # frees the slab before the next one is read


def recent_resident_bytes() -> int:
    """Resident bytes of this process, measured again after `_REUSE_SECONDS`."""
    global _last_measurement
    now = time.perf_counter()
    if now - _last_measurement[0] > _REUSE_SECONDS:
        _last_measurement = (now, resident_bytes())
    return _last_measurement[1]


def resident_bytes() -> int:
    """Resident bytes of this process now."""
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(1)
def _process(pid: int) -> psutil.Process:
    """The process with this id, cached because creating the object takes longer than a measurement."""
    return psutil.Process(pid)
