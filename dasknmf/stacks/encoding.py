"""Nodata, scale and offset of a stack, taken from its attributes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from dasknmf.core.blocks.entries import EntryWeights, Negatives
from dasknmf.errors import SourceError

if TYPE_CHECKING:
    from xarray import Variable

Missing: TypeAlias = str | float
"""The stored value for missing values, or a rule: "auto", "error" or "nan"."""
_NODATA = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")
"""The names of nodata in CF, rioxarray, odc-stac and rasterio."""
STORED = frozenset((*_NODATA, "scale_factor", "add_offset", "_Unsigned"))
"""Attributes of the encoding, which no array computed from the stack has."""

NEGATIVES = (
    "a value of missing pixels that the stack does not declare, such as -9999, is given as "
    "missing_values=-9999 (--missing); other such values are common in reflectances (Sentinel-2 L2A since "
    "baseline 04.00 has an offset of -1000, so that dark valid pixels are below zero): give negatives='clip' "
    "to take them as 0, or negatives='mask' to treat them as missing; if the offset was applied twice, "
    "delete add_offset from the attrs"
)
"""The remedy for values below zero in a stack."""


def entries_of(
    variables: Sequence[Variable], n_planes: Sequence[int], missing: Missing, negatives: str
) -> EntryWeights:
    """The decoding of a stack's values, from its attributes and the parameters.

    Attributes in `attrs` are applied; those in `encoding` are not, as xarray has applied them when it decoded
    the stack. Floats with a scale in `attrs` are refused, unless they are opened lazily and no computation
    was made with them: xarray keeps attributes through arithmetic, so that the values may be scaled already.

    Parameters
    ----------
    variables : sequence of xarray.Variable
    n_planes : sequence of int
        The number of columns of V of each variable.
    missing : "auto", "error", "nan" or float
    negatives : "error", "clip" or "mask"

    Raises
    ------
    ValueError
        If `missing` or `negatives` has another value.
    SourceError
        If an attribute is not a number, or floats have a scale or an offset that may have been applied.
    """
    if negatives not in ("error", "clip", "mask"):
        raise ValueError(
            f"negatives is {negatives!r}; values below zero can be refused ('error'), taken as 0 ('clip') or "
            "treated as missing ('mask'): give one of these."
        )
    is_number = isinstance(missing, (int, float, np.number)) and not isinstance(missing, bool)
    if not is_number and missing not in ("auto", "error", "nan"):
        raise ValueError(
            f"missing is {missing!r}; it says which values are missing: give 'auto', 'error', 'nan' or a "
            "stored value."
        )
    floats = any(variable.dtype.kind == "f" for variable in variables)
    if is_number:
        nodata = [float(missing)] * len(variables)
        stated = {_nodata(variable) for variable in variables}
        if other := sorted(value for value in stated if value != float(missing) and not np.isnan(value)):
            warnings.warn(
                f"the stack declares {other[0]:g} as its missing value, and missing is {missing}, so that "
                f"{other[0]:g} is taken as a value: leave out missing to use the declared missing value.",
                UserWarning,
                stacklevel=4,
            )
    elif missing == "auto":
        nodata = [_nodata(variable) for variable in variables]
    else:
        nodata = [np.nan] * len(variables)
    found = _by_column(nodata, n_planes)
    for variable in variables:
        _check_unscaled(variable)
    return EntryWeights(
        nan=floats and missing != "error",
        nodata=None if np.isnan(found).all() else found,
        scale=_by_column([_number(v.attrs, "scale_factor", 1.0) for v in variables], n_planes),
        offset=_by_column([_number(v.attrs, "add_offset", 0.0) for v in variables], n_planes),
        negatives=cast(Negatives, negatives),
    )


Units: TypeAlias = tuple[float, float]
"""Scale and offset."""
PLAIN: Units = (1.0, 0.0)


def units_of(entries: EntryWeights | None) -> Units | None:
    """Scale and offset; None if those of the variables differ."""
    if entries is None:
        return PLAIN
    scale, offset = entries.scale, entries.offset
    return None if isinstance(scale, np.ndarray) or isinstance(offset, np.ndarray) else (scale, offset)


def is_plain(entries: EntryWeights) -> bool:
    """Whether the stored values are those of V, and no value is missing."""
    unscaled = np.all(entries.scale == 1) and np.all(entries.offset == 0)
    return bool(unscaled and not entries.masks and entries.negatives == "error")


def _nodata(variable: Variable) -> float:
    """The stored value for missing values; NaN if there is no such value, or if it is NaN."""
    for name in _NODATA:
        if variable.attrs.get(name) is not None:
            return _number(variable.attrs, name, np.nan)
    # Decoding makes floats: integers have not been decoded.
    if variable.dtype.kind in "iu" and variable.encoding.get("_FillValue") is not None:
        return _number(variable.encoding, "_FillValue", np.nan)
    return float(np.nan)


def _check_unscaled(variable: Variable) -> None:
    """Raise an error for floats with a scale that may have been applied already."""
    lazily_opened = variable.chunks is None and not variable._in_memory
    if variable.dtype.kind != "f" or lazily_opened:
        return
    plain = {"scale_factor": 1.0, "add_offset": 0.0}
    left = {name: _number(variable.attrs, name, default) for name, default in plain.items()}
    left = {name: value for name, value in left.items() if value != plain[name]}
    if left:
        scaling = " and ".join(f"{name}={value:g}" for name, value in left.items())
        raise SourceError(
            f"the stack is {variable.dtype} with {scaling} in its attrs, which xarray keeps through "
            "arithmetic: these floats may be scaled already; if they are, give obj.drop_attrs(), or delete "
            "the attributes; if they are not, decode them with xarray.decode_cf."
        )


def _number(attrs: Mapping[Any, Any], name: str, default: float) -> float:
    value = attrs.get(name)
    if value is None:
        return default
    numbers = np.unique(np.asarray(value).reshape(-1))  # rasterio gives one for each band
    if numbers.dtype.kind not in "iuf" or len(numbers) != 1:
        raise SourceError(
            f"the attribute {name!r} is {value!r}; it must be one number: correct it with "
            f"obj.attrs[{name!r}] = ..., or delete it."
        )
    return float(numbers[0])


def _by_column(values: Sequence[float], n_planes: Sequence[int]) -> float | np.ndarray:
    """One number if all variables have the same number, otherwise a number for each column of V."""
    if len(np.unique(values)) == 1:  # of NaNs too
        return values[0]
    return np.repeat(np.asarray(values, np.float64), n_planes)
