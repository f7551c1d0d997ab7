"""Checks of the dims, dtypes and coordinates of a stack, before its values are read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dasknmf.core.history import History
from dasknmf.core.image_grid import Coordinate
from dasknmf.errors import SourceError
from dasknmf.io.optional import needed
from dasknmf.stacks.encoding import STORED

if TYPE_CHECKING:
    from xarray import DataArray, Dataset, Variable

StackLike: TypeAlias = "DataArray | Dataset"
"""A stack as xarray has it."""

VARIABLE = "variable"
"""The dim along which the variables of a dataset lie."""
_RESERVED = ("component", "pass", "abundance", "endmember", "holdout", *History().columns())
"""Names in the dataset of a fitted model, beside the coordinates of the stack."""
_MASK_BYTES = 64 * 2**20
"""Largest size in bytes of a mask whose values are digested, which takes a read of the mask before a fit."""
_SLACK = 0.01
"""The largest difference of equal coordinates after rounding, as a share of a pixel."""


def variables_of(obj: StackLike) -> dict[str, Variable]:
    """The variables of a stack by their names."""
    xarray = needed("xarray", "stacks", "xarray")
    if isinstance(obj, xarray.DataArray):
        return {str(obj.name): obj.variable}
    if not isinstance(obj, xarray.Dataset):
        raise SourceError(
            f"the stack is a {type(obj).__module__}.{type(obj).__name__}; it must be an xarray.DataArray or "
            "xarray.Dataset: make one, or give a matrix to dasknmf.NMF."
        )
    if not obj.data_vars:
        raise SourceError(
            "the dataset has no variables; a stack needs at least one: check how it was opened."
        )
    return {str(name): array.variable for name, array in obj.data_vars.items()}


def check_dims(variables: Mapping[str, Variable], samples: tuple[str, ...], is_dataset: bool) -> None:
    """Raise `SourceError` if the dims of the variables are not those of images with these sample dims."""
    first_name, first = max(variables.items(), key=lambda item: _alike(item[1], variables))
    for name, variable in variables.items():
        what = f"variable {name!r}" if is_dataset else "the stack"
        absent = [dim for dim in samples if dim not in variable.dims]
        if absent:
            remedy = f" or leave it out with drop_vars({name!r})" if is_dataset else ""
            raise SourceError(
                f"sample_dims has {absent[0]!r}, and {what} has the dims {list(variable.dims)}; pixels lie "
                f"along sample dims: give sample_dims= some of these{remedy}."
            )
        if set(variable.dims) != set(first.dims):
            raise SourceError(
                f"{what} has the dims {list(variable.dims)} and {first_name!r} has {list(first.dims)}; "
                "all variables must have the same dims: use select or expand_dims, or leave one variable out "
                f"with drop_vars({name!r})."
            )
    if not samples or len(set(samples)) != len(samples):
        raise SourceError(
            f"sample_dims is {list(samples)}; it must name at least one dim, and each only once: correct it."
        )
    if not is_dataset and len(samples) == len(first.dims):
        raise SourceError(
            f"sample_dims is {list(samples)}, which are all dims of the stack; at least one dim must be a "
            "feature: give fewer sample_dims, or a stack with a dim of bands or dates."
        )
    if is_dataset and VARIABLE in first.dims:
        raise SourceError(
            f"the dataset has a dim {VARIABLE!r}, a name that dasknmf gives to the dim of the variables: "
            f"rename it with rename({VARIABLE}=...)."
        )


def check_dtypes(variables: Mapping[str, Variable]) -> None:
    """Raise `SourceError` if the variables are not real numbers of one dtype."""
    first_name, first = max(variables.items(), key=lambda item: _alike(item[1], variables))
    for name, variable in variables.items():
        if variable.dtype.kind not in "biuf":
            raise SourceError(
                f"the values of {name!r} are {variable.dtype}; V must be real numbers: convert them, or "
                "leave the variable out."
            )
        unsigned = str(variable.attrs.get("_Unsigned", "")).lower()
        if (unsigned, variable.dtype.kind) in (("true", "i"), ("false", "u")):
            raise SourceError(
                f"variable {name!r} is {variable.dtype} with the attribute _Unsigned={unsigned!r}; dasknmf "
                "reads stored values and does not apply this attribute: decode them with xarray.decode_cf, "
                "or view them as the other kind of integers and delete the attribute."
            )
        if variable.dtype != first.dtype:
            raise SourceError(
                f"variable {name!r} is {variable.dtype} and {first_name!r} is {first.dtype}; one V has one "
                f"dtype: convert one of them with astype, or leave it out with drop_vars({name!r})."
            )


def _alike(variable: Variable, variables: Mapping[str, Variable]) -> tuple[int, int, int]:
    """How many variables have the same dims, how many dims these are, and how many have the same dtype.

    A message names the odd one out, a layer of classes for example, and not an image.
    """
    others = variables.values()
    dims = sum(set(other.dims) == set(variable.dims) for other in others)
    return dims, len(variable.dims), sum(other.dtype == variable.dtype for other in others)


def mask_of(mask: DataArray, sizes: Mapping[Hashable, int], coords: Mapping[str, Coordinate]) -> Variable:
    """The variable of a mask, which must fit the lengths and coordinates of the stack."""
    if not isinstance(mask, needed("xarray", "stacks", "xarray").DataArray):
        raise SourceError(
            f"mask is a {type(mask).__name__}; dims are needed to match a mask with the stack: give an "
            "xarray.DataArray of bool."
        )
    if mask.dtype != bool:
        raise SourceError(
            f"mask is {mask.dtype}; it must be bool, True for values to use: give mask > 0, for example."
        )
    unknown = [dim for dim in mask.dims if dim not in sizes]
    if unknown:
        raise SourceError(
            f"mask has a dim {unknown[0]!r}, and the stack has {list(sizes)}; dims of a mask must be dims of "
            "the stack: rename, select or squeeze it."
        )
    for dim in mask.dims:
        if mask.sizes[dim] != sizes[dim]:
            raise SourceError(
                f"mask has length {mask.sizes[dim]} along {dim!r} and the stack has {sizes[dim]}; the "
                "lengths must be equal: give mask.reindex_like(stack)."
            )
    check_aligned("mask", mask, coords)
    return mask.variable


def described_mask(mask: Variable, order: Sequence[str], variables: Sequence[Variable]) -> str:
    """A digest of a mask, the same for any order of its dims.

    The digest is that of the values and the lengths; of the lengths alone where the mask is large or is
    computed from the stack.
    """
    lengths = " ".join(f"{dim}={mask.sizes[dim]}" for dim in order if dim in mask.dims)
    if mask.size > _MASK_BYTES or _computed_from(mask, variables):
        return f"bool of {lengths}"
    values = mask.transpose(*(dim for dim in order if dim in mask.dims)).to_numpy()
    return f"{hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]} of {lengths}"


def _computed_from(mask: Variable, variables: Sequence[Variable]) -> bool:
    """Whether computing a mask would read the stack."""
    if mask.chunks is None:
        return False
    tasks = set(mask.data.__dask_graph__())
    graphs = [each.data.__dask_graph__() for each in variables if each.chunks is not None]
    return any(key in tasks for graph in graphs for key in graph)


def check_aligned(what: str, array: DataArray, coords: Mapping[str, Coordinate]) -> None:
    """Raise an error if coordinates of an array differ from those of the stack, as in a flipped image."""
    for dim in map(str, array.dims):
        if dim not in coords or dim not in array.coords:
            continue
        here, there = np.asarray(array.coords[dim].values), coords[dim].values
        if not _are_alike(here, there):
            raise SourceError(
                f"{what} goes from {here[0]!s} to {here[-1]!s} along {dim!r} and the stack from {there[0]!s} "
                f"to {there[-1]!s}; coordinates must be the same, in the same order: use "
                f"reindex_like(stack), or drop_vars({dim!r}) to match by position."
            )


def _are_alike(here: np.ndarray, there: np.ndarray) -> bool:
    """Whether coordinates are equal; numbers may differ by a small share of a step."""
    if here.shape != there.shape or here.dtype.kind not in "iuf" or there.dtype.kind not in "iuf":
        return np.array_equal(here, there)
    steps = np.abs(np.diff(there.astype(np.float64)))
    slack = _SLACK * float(steps.min()) if steps.size else 0.0
    return bool(np.allclose(here, there, rtol=1e-12, atol=slack, equal_nan=True))


def check_unique(coords: Mapping[str, Coordinate], dims: Sequence[str]) -> None:
    """Raise an error if two features have the same coordinate."""
    for dim in dims:
        if dim not in coords:
            continue
        values, counts = np.unique(coords[dim].values, return_counts=True)
        most = int(np.argmax(counts))
        if counts[most] > 1:
            raise SourceError(
                f"the coordinate {dim!r} has {values[most]!s} {counts[most]} times; coordinates of features "
                f"must be unique: use drop_duplicates({dim!r}), or groupby({dim!r}) and take a mean."
            )


def coords_of(obj: StackLike) -> dict[str, Coordinate]:
    """The coordinates of a stack, in memory.

    Coordinates that a run cannot store, such as lists and None in the metadata of a catalogue, are left out
    with a warning; along a dim they are refused.

    Raises
    ------
    SourceError
        If a name is reserved, or the coordinate of a dim cannot be stored.
    """
    found: dict[str, Coordinate] = {}
    dropped: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name in (*obj.dims, *obj.coords):
        if name in _RESERVED or not isinstance(name, str):
            raise SourceError(
                f"the stack has a dim or coordinate {name!r}; names must be str, and {list(_RESERVED)} are "
                "names in the results of a fit: rename it."
            )
    for name, coord in obj.coords.items():
        assert isinstance(name, str)  # others were refused above
        values = _storable(coord)
        if isinstance(values, np.ndarray):
            found[name] = Coordinate(tuple(map(str, coord.dims)), values, described(coord.attrs))
        else:
            (refused if name in obj.dims else dropped)[name] = f"{name!r} ({values})"
    if refused:
        raise SourceError(
            f"the coordinates {', '.join(refused.values())} cannot be stored; numbers, bools, str and "
            "datetime64 can: convert them, dates with a time zone by obj.assign_coords(time="
            "obj.indexes['time'].tz_localize(None)), those of another calendar by obj.assign_coords(time="
            "obj.time.dt.strftime('%Y-%m-%d')), a MultiIndex by reset_index, or "
            f"drop_vars({list(refused)})."
        )
    if dropped:
        warnings.warn(
            f"the coordinates {', '.join(dropped.values())} are left out of the results, which store only "
            f"numbers, bools, str and datetime64: convert them, or drop_vars({list(dropped)}) beforehand.",
            UserWarning,
            stacklevel=4,
        )
    return found


def _storable(coord: DataArray) -> np.ndarray | str:
    """The values of a coordinate that a run can store; the kind of the values if it cannot."""
    if getattr(coord.dtype, "tz", None) is not None:
        return str(coord.dtype)  # the values would be those of another zone, and pandas warns of that
    values = np.asarray(coord.values)
    if values.dtype.kind in "OT":
        kinds = {type(each) for each in values.reshape(-1).tolist()}
        if not all(issubclass(kind, str) for kind in kinds):
            return f"object of {' and '.join(sorted(kind.__name__ for kind in kinds))}"
        return np.array(values.tolist(), dtype=str).reshape(values.shape)
    return values if values.dtype.kind in "biufMmU" else str(coord.dtype)


def described(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON values, without those of the encoding."""
    return {str(name): json_value(value) for name, value in attrs.items() if name not in STORED}


def json_value(value: object) -> Any:
    """A parameter or an attribute as a JSON value: arrays as lists, objects without a JSON form as str."""

    def plain(other: object) -> Any:
        return other.tolist() if isinstance(other, (np.ndarray, np.generic)) else str(other)

    return json.loads(json.dumps(value, default=plain))
