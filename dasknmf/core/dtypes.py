"""The dtypes of V in a fit, and in compiled loops over stored values."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


def working_dtype(stored: DTypeLike, dtype: DTypeLike | None = None) -> np.dtype:
    """The dtype to which V is converted, tile by tile: float32 or float64.

    Numbers of up to 16 bits are exact in float32; other dtypes are converted as scikit-learn converts them.

    Parameters
    ----------
    stored : dtype
        Dtype of X.
    dtype : dtype, optional
        The requested dtype.

    Raises
    ------
    ValueError
        If X is not of real numbers, or `dtype` is neither float32 nor float64.
    """
    stored = np.dtype(stored)
    if stored.kind == "c":
        raise ValueError(f"Complex data not supported: X is {stored}; give its magnitude.")
    if stored.kind not in "biuf":
        raise ValueError(f"X is {stored}; V must be real numbers: convert it first.")
    if dtype is not None:
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is {dtype}; it must be float32, float64 or None: give one of these.")
        return dtype
    if stored.itemsize <= 2 or (stored.kind == "f" and stored.itemsize == 4):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def native_dtype(stored: DTypeLike) -> np.dtype:
    """The dtype in which compiled loops read stored values: native, and of floats float32 or float64.

    Half precision is exact in float32; long doubles are rounded to float64.
    """
    stored = np.dtype(stored)
    if stored.kind == "f" and stored.itemsize not in (4, 8):
        return np.dtype(np.float32 if stored.itemsize < 4 else np.float64)
    return stored.newbyteorder("=")
