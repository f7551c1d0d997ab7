"""Weights and starts on the dims of a stack, in the order of V's rows and columns."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from dasknmf.core.image_grid import Layout
from dasknmf.stacks import arrays
from dasknmf.stacks.checks import check_aligned

_OF_PIXELS = frozenset({"W", "sample_weight", "weights"})
"""Options of a fit that have a row for each pixel."""


def ordered(name: str, value: Any, layout: Layout, *, lazily: bool = False) -> Any:
    """The value of a fit option, in the order of V's rows or columns.

    A DataArray is matched by its dims; rows of other arrays are pixels in raster order.
    """
    if not isinstance(value, xr.DataArray):
        return _by_rows(name, value, layout) if name in _OF_PIXELS else value
    if name == "H":
        return fixed_rows(value, layout, "H")
    check_aligned(name, value, layout.coords)
    if name == "W":
        _check_dims(name, value, layout.sample_dims, "sample")
        return arrays.rows_of(value, layout)
    if name == "weights":
        lengths: dict[Any, int] = dict(zip(layout.sample_dims, layout.sample_shape, strict=True))
        lengths |= zip(layout.feature_dims, layout.feature_shape, strict=True)
        if any(lengths.get(dim) != length for dim, length in value.sizes.items()):
            raise ValueError(
                f"weights have the lengths {dict(value.sizes)} and the stack has {lengths}; dims of weights "
                "must be dims of the stack: select, rename or reindex_like it."
            )
        return arrays.matrix_of(value, layout, lazily=lazily)
    if set(value.dims) == set(layout.sample_dims):
        return arrays.rows_of(value, layout)
    if set(value.dims) == set(layout.feature_dims):
        return value.transpose(*layout.feature_dims).to_numpy().reshape(-1)
    raise ValueError(
        f"{name} has the dims {list(value.dims)}; sample_weight has the dims {list(layout.sample_dims)}, "
        f"feature_weight has {list(layout.feature_dims)}: give one of these, weights= for other dims, or "
        "mask= if weights are 0 and 1."
    )


def fixed_rows(fixed: Any, layout: Layout, name: str = "fixed_components") -> Any:
    """Rows of H; a DataArray is matched by its dims and coordinates."""
    if not isinstance(fixed, xr.DataArray):
        return fixed
    _check_dims(name, fixed, layout.feature_dims, "feature")
    check_aligned(name, fixed, layout.coords)
    return (
        fixed.transpose(arrays.COMPONENT, *layout.feature_dims).to_numpy().reshape(len(fixed.component), -1)
    )


def _check_dims(name: str, value: xr.DataArray, dims: tuple[str, ...], kind: str) -> None:
    """Raise an error unless a factor has the dim of components and these dims."""
    if set(value.dims) != {arrays.COMPONENT, *dims}:
        raise ValueError(
            f"{name} has the dims {list(value.dims)}; it must have {arrays.COMPONENT!r} and the {kind} dims "
            f"{list(dims)}: rename, select or expand_dims it."
        )


def _by_rows(name: str, value: Any, layout: Layout) -> Any:
    """Rows in raster order, put in the order of V's rows."""
    if value is None or layout.tiles.in_order:
        return value
    value = np.asarray(value) if name == "sample_weight" else value
    if not isinstance(value, (np.ndarray, da.Array)):
        raise ValueError(
            f"{name} is a {type(value).__name__}, whose rows cannot be taken in the order of the stack's "
            "tiles: give a NumPy or Dask array."
        )
    if len(value) != layout.n_samples:
        return value  # refused where it is compared with V
    return value[layout.tiles.places(0, layout.n_samples)]
