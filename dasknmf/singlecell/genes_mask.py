"""The genes of an AnnData that are factorized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from dasknmf.core.feature_names import aligned
from dasknmf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5


class Mask(Enum):
    """The default of `mask_var`: unlike a string, it cannot be the name of a column of `var`."""

    HIGHLY_VARIABLE = "highly_variable where present"


MaskLike: TypeAlias = Mask | ArrayLike | None
"""A column of `var` by its name, one boolean for each gene, or None for all genes."""


def mask_of(var: pd.DataFrame, mask_var: MaskLike) -> tuple[np.ndarray | None, str | None]:
    """The genes to factorize.

    Returns
    -------
    mask : ndarray of bool of shape (n_vars,), or None
        None: all genes.
    column : str or None
        Name of the column of `var` that holds the mask; None if the mask is an array.

    Raises
    ------
    ValueError
        If there is no such column of `var`, it is not boolean, or the array does not fit; or if a Series
        lacks genes of `var`.
    """
    if mask_var is Mask.HIGHLY_VARIABLE:
        mask_var = "highly_variable" if "highly_variable" in var else None
    if mask_var is None:
        return None, None
    name = mask_var if isinstance(mask_var, str) else None
    if name is not None and name not in var:
        flags = [str(column) for column in var.columns if _is_boolean(var[column])]
        raise ValueError(f"var has no column {name!r}; its boolean columns are {flags}: give one of these.")
    names = np.asarray(var.index, dtype=object)
    values = np.asarray(aligned(mask_var, names, "mask_var") if name is None else var[name])
    what = "mask_var" if name is None else f"var[{name!r}]"
    n_vars = len(var.index)  # a lazy table is as long as it has columns
    if values.shape != (n_vars,) or not _is_boolean(values):
        raise ValueError(
            f"{what} is {values.dtype} of shape {values.shape}; a mask has one boolean for each of "
            f"{n_vars} genes: convert it."
        )
    mask = values.astype(bool)
    if not mask.any():
        raise ValueError(f"{what} selects none of {len(mask)} genes: select at least one.")
    return mask, name


def _is_boolean(values: ArrayLike) -> bool:
    values = np.asarray(values)
    return values.dtype == bool or (
        values.dtype == object and all(isinstance(v, (bool, np.bool_)) for v in values)
    )


@contextmanager
def advising() -> Iterator[None]:
    """Extend the error about negative values: what they mean in an AnnData, and where the counts are.

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
            f"{error} In an AnnData, negative values often come from scanpy's scale or regress_out: "
            "factorize the counts, layer='counts' for example, or adata.raw.to_adata()."
        ) from error


def first_of(names: Sequence[str] | np.ndarray) -> str:
    """The first few names, for messages."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown
