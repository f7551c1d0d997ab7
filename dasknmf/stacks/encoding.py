"""What the stored values of a stack stand for, as the stack itself says: nodata, scale and offset."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from dasknmf.core.blocks.entries import EntryWeights, Negatives
from dasknmf.errors import SourceError

_NODATA = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")
"""Names that CF, rioxarray, odc-stac and rasterio give to one thing."""
STORED = frozenset((*_NODATA, "scale_factor", "add_offset", "_Unsigned"))
"""Attributes that tell how values are stored, and so hold for no array that is computed from them."""

NEGATIVES = (
    "such values are common in reflectances, Sentinel-2 L2A since baseline 04.00 has an offset of -1000, so "
    "that dark valid pixels are below zero; give negatives='clip' to take them as 0, or negatives='mask' as "
    "not observed, or, where the offset was applied twice, delete add_offset from the attrs"
)
"""What to do about values below zero in a stack."""


def entries_of(
    variables: Sequence[Any], n_planes: Sequence[int], missing: Any, negatives: Any
) -> EntryWeights:
    """How a tile reads the values of a stack.

    What was decoded when the stack was opened has left its attributes in `encoding`, and is not applied
    again; attributes that still stand in `attrs` are. Floats with a scale in `attrs` are refused, unless they
    are what was opened lazily and never computed with: xarray keeps attributes through arithmetic, so that
    they may have been scaled already.

    Parameters
    ----------
    variables : sequence of xarray.Variable
    n_planes : sequence of int
        Columns of V that each of them gives.
    missing : "auto", "error", "nan" or float
    negatives : "error", "clip" or "mask"

    Raises
    ------
    ValueError
        If `missing` or `negatives` is none of these.
    SourceError
        If an attribute is not a number, or floats have a scale or an offset that may have been applied.
    """
    if negatives not in ("error", "clip", "mask"):
        raise ValueError(
            f"negatives is {negatives!r}; values below zero are refused, taken as 0 or as not observed: give "
            "'error', 'clip' or 'mask'."
        )
    is_number = isinstance(missing, (int, float, np.number)) and not isinstance(missing, bool)
    if not is_number and missing not in ("auto", "error", "nan"):
        raise ValueError(
            f"missing is {missing!r}; it says which values were not observed: give 'auto', 'error', 'nan' or "
            "a stored value."
        )
    floats = any(variable.dtype.kind == "f" for variable in variables)
    if is_number:
        nodata = [float(missing)] * len(variables)
        told = {_nodata(variable) for variable in variables}
        if other := sorted(value for value in told if value != float(missing) and not np.isnan(value)):
            warnings.warn(
                f"the stack says that {other[0]:g} stands for nothing observed, and missing is {missing}: "
                f"{other[0]:g} is taken as a value; leave missing out to go by the stack.",
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


def is_plain(entries: EntryWeights) -> bool:
    """Whether values are what is stored, and all of them count."""
    unscaled = np.all(entries.scale == 1) and np.all(entries.offset == 0)
    return bool(unscaled and not entries.masks and entries.negatives == "error")


def _nodata(variable: Any) -> float:
    """The stored value for nothing observed; NaN where there is none, or it is NaN itself."""
    for name in _NODATA:
        if variable.attrs.get(name) is not None:
            return _number(variable.attrs, name, np.nan)
    # Decoding makes floats: what is an integer has not been decoded, however it was opened.
    if variable.dtype.kind in "iu" and variable.encoding.get("_FillValue") is not None:
        return _number(variable.encoding, "_FillValue", np.nan)
    return float(np.nan)


def _check_unscaled(variable: Any) -> None:
    """Refuse floats that say how they are scaled, and may have been."""
    lazily_opened = variable.chunks is None and not variable._in_memory
    if variable.dtype.kind != "f" or lazily_opened:
        return
    plain = {"scale_factor": 1.0, "add_offset": 0.0}
    left = {name: _number(variable.attrs, name, default) for name, default in plain.items()}
    left = {name: value for name, value in left.items() if value != plain[name]}
    if left:
        told = " and ".join(f"{name}={value:g}" for name, value in left.items())
        raise SourceError(
            f"the stack is {variable.dtype} with {told} in its attrs, which xarray keeps through arithmetic: "
            "it cannot be told whether these floats are scaled already; where they are, give obj.drop_attrs()"
            ", or delete them; where they are not, decode them with xarray.decode_cf."
        )


def _number(attrs: Mapping[Any, Any], name: str, default: float) -> float:
    value = attrs.get(name)
    if value is None:
        return default
    numbers = np.unique(np.asarray(value).reshape(-1))  # rasterio gives one for each band
    if numbers.dtype.kind not in "iuf" or len(numbers) != 1:
        raise SourceError(
            f"the attribute {name!r} is {value!r}; it must be one number: mend it with "
            f"obj.attrs[{name!r}] = ..., or delete it."
        )
    return float(numbers[0])


def _by_column(values: Sequence[float], n_planes: Sequence[int]) -> Any:
    """One number where all variables have the same, else one for each column of V."""
    if len(np.unique(values)) == 1:  # of NaNs too
        return values[0]
    return np.repeat(np.asarray(values, np.float64), n_planes)
