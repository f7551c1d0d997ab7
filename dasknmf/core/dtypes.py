"""The dtype that V is worked in."""

from __future__ import annotations

from typing import Any

import numpy as np


def working_dtype(stored: np.dtype, asked: Any = None) -> np.dtype:
    """float32 or float64: what V is converted to, tile by tile.

    Integers of up to 16 bits are exact in float32; other types become what scikit-learn makes of
    them.

    Raises
    ------
    ValueError
        If V is complex, or `asked` is neither float32 nor float64.
    """
    stored = np.dtype(stored)
    if stored.kind == "c":
        raise ValueError(f"Complex data not supported: X is {stored}; give its magnitude.")
    if stored.kind not in "biuf":
        raise ValueError(f"X is {stored}; V must be real numbers: convert it first.")
    if asked is not None:
        asked = np.dtype(asked)
        if asked not in (np.float32, np.float64):
            raise ValueError(f"dtype is {asked}; it must be float32, float64 or None: give one of these.")
        return np.dtype(asked)
    if stored == np.float32 or (stored.kind in "biu" and stored.itemsize <= 2):
        return np.dtype(np.float32)
    return np.dtype(np.float64)
