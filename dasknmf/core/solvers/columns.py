"""Columns of H in parts, which all cores of the process update side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import joblib

from dasknmf.core.phase import Map

_COLUMNS = 512
"""Least number of columns in a part."""


def parts_of(n_columns: int, entries: int = 0, k: int = 1) -> list[slice]:
    """Slices of the columns of H: at least 512 columns each, or about `entries` entries of H if that is more.

    Slices do not depend on the number of cores, so results are the same, bit for bit, for any number.
    """
    width = max(_COLUMNS, entries // k)
    return [slice(first, first + width) for first in range(0, n_columns, width)]


@contextmanager
def mapped(parts: Sequence[Any]) -> Iterator[Map]:
    """A context with a `map` over the cores; of this thread alone if there is only one part."""
    if len(parts) == 1:
        yield map
        return
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        yield pool.map
