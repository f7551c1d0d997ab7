"""Counts of one task: bytes that reads fetch from stores, and repeated requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Counts:
    """Bytes fetched and requests repeated; several threads may add to the same counts.

    Attributes
    ----------
    nbytes : int or None
        Bytes of V fetched from its store; None where no read has reported any.
    retries : int
        Requests that were repeated after transient errors.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.nbytes: int | None = None
        self.retries = 0

    def add(self, *, nbytes: int | None = None, retries: int = 0) -> None:
        with self._lock:
            self.nbytes = self.nbytes if nbytes is None else nbytes + (self.nbytes or 0)
            self.retries += retries

    def taken_retries(self) -> int:
        """The retries since the last call; resets their number."""
        with self._lock:
            retries, self.retries = self.retries, 0
        return retries


_counts: ContextVar[Counts | None] = ContextVar("dasknmf_counts", default=None)


@contextmanager
def counting() -> Iterator[Counts]:
    """A context with the counts of this task, in Zarr's event loop too."""
    counts = Counts()
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)


def count(*, nbytes: int | None = None, retries: int = 0) -> None:
    """Add to the counts of this task, if it has any."""
    if (counts := _counts.get()) is not None:
        counts.add(nbytes=nbytes, retries=retries)
