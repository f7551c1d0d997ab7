"""Decorators for compiled kernels, so that all kernels are compiled with the same options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and multiply-adds fused so that inner loops vectorise; the order is fixed
# at compile time, so a kernel gives the same bits whenever it runs on the same kind of CPU.
# NaN and infinities follow IEEE 754, also for division by zero: a check of every division would keep
# the loop from being vectorised.
_FASTMATH = {"reassoc", "contract", "nsz"}


def kernel(function: F) -> F:
    """Compile `function` without the GIL, cached on disk where a cache can be written."""
    return _compiled(function)


def inlined(function: F) -> F:
    """Compile `function` to be inlined in other kernels.

    Without inlining, a call runs the callee's own code in the process that compiles both kernels, but the
    caller's copy in a process that loads the caller from the cache. Sums in the two codes may be ordered
    differently, and so differ in the last bits.
    """
    return _compiled(function, forceinline=True)


def _compiled(function: F, **more: Any) -> F:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", **more}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no writable directory: a read-only install
        return cast(F, numba.njit(**options)(function))
