"""Settings of a worker process during a fit."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

import threadpoolctl
from distributed import WorkerPlugin

# Constants of malloc.h. 32 MiB is the largest value of M_MMAP_THRESHOLD that glibc accepts.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 * 2**20
_MAPPED_FROM_BYTES = 32 * 2**20
_GLIBC_DEFAULTS = {_M_TRIM_THRESHOLD: 128 * 2**10, _M_MMAP_THRESHOLD: 128 * 2**10, _M_ARENA_MAX: 0}


_PROFILE_DEADLOCKS = sys.version_info < (3, 12, 3)
"""Before Python 3.12.3 `sys._current_frames`, which the profiler of Dask's workers calls every 10 ms, may
deadlock with the garbage collector (python/cpython gh-106883): 3 of 13 fits with Python 3.11.7 hung."""

_lock = threading.Lock()
_blas_limits: list[Any] = []
"""For each fit that runs in this process, the BLAS limits in force when the fit began."""


class TunedWorker(WorkerPlugin):
    """A worker plugin that sets one BLAS thread and lets slabs reuse the memory of earlier slabs.

    Dask's nannies set ``MALLOC_TRIM_THRESHOLD_``, with which glibc returns every freed slab to the
    system; the pages of the next slab are then mapped and zeroed anew: reads of 16 MB chunks took three
    times as long. The plugin also stops Dask's profiler where it may deadlock (`_PROFILE_DEADLOCKS`).
    """

    def setup(self, worker: Any) -> None:
        if profile := _profile(worker):
            profile.stop()
        with _lock:
            _blas_limits.append(threadpoolctl.threadpool_limits(1, user_api="blas"))
            if len(_blas_limits) > 1:
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
            limits = _blas_limits.pop()
            if _blas_limits:
                return  # another fit still runs here; the last one to end restores the settings
        if profile := _profile(worker):
            profile.start()
        limits.restore_original_limits()
        trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
        _mallopt(_GLIBC_DEFAULTS | ({_M_TRIM_THRESHOLD: int(trim)} if trim.isdigit() else {}))


def _profile(worker: Any) -> Any:
    """The callback that profiles the threads of a worker; None where it cannot deadlock."""
    return worker.periodic_callbacks.get("profile") if _PROFILE_DEADLOCKS else None


def _mallopt(options: dict[int, int]) -> None:
    """Set options of glibc's allocator; other C libraries do not need them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in options.items():
            mallopt(ctypes.c_int(option), ctypes.c_int(value))
