"""The genes of an AnnData that are factorized, and what its values must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from dasknmf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5


class Mask(Enum):
    """A value of `mask_var` that no column of `var` can have for a name."""

    HIGHLY_VARIABLE = "highly_variable where present"


def mask_of(var: pd.DataFrame, mask_var: Any) -> np.ndarray | None:
    """The genes to factorize as a boolean array, shape (n_vars,), or None for all.

    Raises
    ------
    ValueError
        If there is no such column of `var`, it is not boolean, or the array does not fit.
    """
    name = mask_name(var, mask_var)
    if name is None and (mask_var is None or mask_var is Mask.HIGHLY_VARIABLE):
        return None
    if name is not None and name not in var:
        flags = [str(column) for column in var.columns if _is_boolean(var[column])]
        raise ValueError(f"var has no column {name!r}; its boolean columns are {flags}: give one of these.")
    values = np.asarray(mask_var if name is None else var[name])
    what = "mask_var" if name is None else f"var[{name!r}]"
    n_vars = len(var.index)  # a lazy table is as long as it has columns
    if values.shape != (n_vars,) or not _is_boolean(values):
        raise ValueError(
            f"{what} is {values.dtype} of shape {values.shape}; a mask has one boolean for each of "
            f"{n_vars} genes: convert it."
        )
    mask = values.astype(bool)
    if not mask.any():
        raise ValueError(f"{what} selects none of {len(mask)} genes: select some.")
    return mask


def mask_name(var: pd.DataFrame, mask_var: Any) -> str | None:
    """The column of `var` that `mask_var` means, or None where it means none."""
    if mask_var is Mask.HIGHLY_VARIABLE:
        return "highly_variable" if "highly_variable" in var else None
    return mask_var if isinstance(mask_var, str) else None


def _is_boolean(values: Any) -> bool:
    values = np.asarray(values)
    return values.dtype == bool or (
        values.dtype == object and all(isinstance(v, (bool, np.bool_)) for v in values)
    )


@contextmanager
def advising() -> Iterator[None]:
    """Say what negative values mean in an AnnData, and where the counts are.

    Raises
    ------
    DataError
    """
    try:
        yield
    except DataError as error:
        if "Negative values" not in str(error):  # scikit-learn's words, which all of them begin with
            raise
        raise DataError(
            f"{error} In an AnnData they come from scanpy's scale or regress_out: factorize the counts, "
            "layer='counts' for example, or adata.raw.to_adata()."
        ) from error


def first_of(names: Sequence[str] | np.ndarray) -> str:
    """A few names, to be recognised by."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown
