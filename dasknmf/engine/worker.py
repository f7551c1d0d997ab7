"""Settings of a worker process while a fit works in it."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

import threadpoolctl
from distributed import WorkerPlugin

# Of malloc.h. glibc never maps more than 32 MiB of one allocation from its heap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 * 2**20
_MAPPED_FROM_BYTES = 32 * 2**20
_GLIBC_DEFAULTS = {_M_TRIM_THRESHOLD: 128 * 2**10, _M_MMAP_THRESHOLD: 128 * 2**10, _M_ARENA_MAX: 0}


_PROFILE_DEADLOCKS = sys.version_info < (3, 12, 3)
"""Until then Python's `sys._current_frames`, with which Dask's workers look at their threads every 10 ms, may
wait for the garbage collector, and that for it (gh-106883): a worker then stands still for good. Seen in 3 of
some 13 fits in processes of Python 3.11.7."""

_lock = threading.Lock()
_working: list[Any] = []
"""One entry for each fit that works in this process, with the limits that it found."""


class TunedWorker(WorkerPlugin):
    """One BLAS thread, and slabs that reuse the memory of the slab before.

    Dask's nannies start workers with ``MALLOC_TRIM_THRESHOLD_``, which makes glibc return every
    slab to the system at once, to be zeroed and mapped again page by page for the next one: measured
    on 16 MB chunks, a read took three times as long. And where Python may deadlock over it, Dask's profile of
    the worker rests.
    """

    def setup(self, worker: Any) -> None:
        if profile := _profile(worker):
            profile.stop()
        with _lock:
            _working.append(threadpoolctl.threadpool_limits(1, user_api="blas"))
            if len(_working) > 1:
                return
        _mallopt(
            {
                _M_ARENA_MAX: 1,
                _M_MMAP_THRESHOLD: _MAPPED_FROM_BYTES,
                _M_TRIM_THRESHOLD: _KEPT_BYTES,
            }
        )

    def teardown(self, worker: Any) -> None:
        with _lock:
            limits = _working.pop()
            if _working:
                return  # another fit still works here; the first one's limits are restored last
        if profile := _profile(worker):
            profile.start()
        limits.restore_original_limits()
        trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
        _mallopt(_GLIBC_DEFAULTS | ({_M_TRIM_THRESHOLD: int(trim)} if trim.isdigit() else {}))


def _profile(worker: Any) -> Any:
    """The callback that profiles the threads of a worker, where it may deadlock."""
    return worker.periodic_callbacks.get("profile") if _PROFILE_DEADLOCKS else None


def _mallopt(options: dict[int, int]) -> None:
    """Set options of glibc's allocator; other C libraries have none and need none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in options.items():
            mallopt(ctypes.c_int(option), ctypes.c_int(value))
