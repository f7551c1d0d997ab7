"""One decorator for compiled kernels, so that every kernel is compiled under the same rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and multiply-adds fused so that inner loops vectorise; the order is fixed
# at compile time, so a kernel gives the same bits whenever it runs on the same kind of CPU.
# NaN and infinities keep their meaning, and a division by zero gives them: a test for it in every
# division would keep its loop from becoming vector code.
_FASTMATH = {"reassoc", "contract", "nsz"}


def kernel(function: F) -> F:
    """Compile `function` without the GIL, cached on disk where a cache can be written."""
    return _compiled(function)


def inlined(function: F) -> F:
    """Compile `function` for other kernels, each of which gets the code of the function itself.

    A call from one kernel to another may run two codes: in the process that compiles both, the
    callee's own; in a process that loads the caller from the cache, the caller's copy. Sums that may
    be reordered differ between the two in last bits.
    """
    return _compiled(function, forceinline=True)


def _compiled(function: F, **more: Any) -> F:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", **more}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no writable directory: a read-only install
        return cast(F, numba.njit(**options)(function))
