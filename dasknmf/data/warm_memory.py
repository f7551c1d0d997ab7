"""Memory for slabs and encoded chunks, which is used again as soon as no array refers to it.

The first access to each page of fresh memory is a page fault, and the page faults of a slab take up to a
third of the time of decoding it. Whether the allocator returns warm memory depends on threads and sizes.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

_SMALLEST = 2**17
"""Smaller arrays come from the allocator."""
_KEPT_BYTES = 128 * 2**20
"""Largest amount of unused memory of one size that the process keeps, in bytes."""

_unused: defaultdict[int, list[np.ndarray]] = defaultdict(list)
"""Unused memory by its size in bytes, a power of two."""


def empty(nbytes: int) -> np.ndarray:
    """An array of bytes with any content, shape (nbytes,), uint8."""
    if nbytes < _SMALLEST:
        return np.empty(nbytes, np.uint8)
    size = 1 << (nbytes - 1).bit_length()
    unused = _unused[size]
    try:
        memory = unused.pop()
    except IndexError:
        memory = np.empty(size, np.uint8)
    return np.asarray(_Lent(memory, unused))[:nbytes]


class _Lent:
    """Memory in use. It is the base of an array, and every view of the array keeps it alive."""

    def __init__(self, memory: np.ndarray, unused: list[np.ndarray]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._unused = memory, unused

    def __del__(self) -> None:
        if (len(self._unused) + 1) * len(self._memory) <= _KEPT_BYTES:
            self._unused.append(self._memory)
