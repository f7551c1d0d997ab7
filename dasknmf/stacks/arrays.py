"""Factors as arrays of xarray: W as images, H as spectra, on the coordinates of their stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.task_spec import TaskRef

from dasknmf.core.image_grid import Coordinate, Layout, with_gaps
from dasknmf.store import raster

COMPONENT = "component"
_OF_VALUES = frozenset({"units", "long_name", "standard_name", "valid_range", "valid_min", "valid_max"})
"""Attributes of the values of a stack that do not hold for abundances."""


def abundance(
    W: np.ndarray | da.Array, layout: Layout, n_components: int, *, gaps: bool = False
) -> xr.DataArray:
    """W, NumPy or Dask of shape (n_samples, n_components), as (component, *sample_dims).

    With `gaps`, pixels with zeros in all components are NaN; see `with_gaps`.
    """
    if gaps:
        W = W.map_blocks(with_gaps, 0, meta=W._meta) if isinstance(W, da.Array) else with_gaps(W, 0)
    images = raster.images(W, layout.tiles) if isinstance(W, da.Array) else layout.images(W)
    attrs = {name: value for name, value in layout.attrs.items() if name not in _OF_VALUES}
    return _array(
        images, "abundance", layout.sample_dims, layout, n_components, {**attrs, "long_name": "abundance"}
    )


def endmember(H: np.ndarray, layout: Layout, *, gaps: bool = False) -> xr.DataArray:
    """H of shape (n_components, n_features) as (component, *feature_dims), in the units of the stack.

    With `gaps`, features with zeros in all components are NaN; see `with_gaps`.
    """
    H = with_gaps(H, 1) if gaps else H
    return _array(layout.spectra(H), "endmember", layout.feature_dims, layout, len(H), dict(layout.attrs))


def rows_of(images: xr.DataArray, layout: Layout) -> np.ndarray:
    """The inverse of `abundance`, or the values of one image as a vector, in the order of V's rows.

    NaN of a map, where nothing was observed, is 0 in a factor.
    """
    if COMPONENT in images.dims:
        return layout.rows(images.fillna(0).transpose(COMPONENT, *layout.sample_dims).to_numpy())
    return layout.rows(images.transpose(*layout.sample_dims).to_numpy()[None])[:, 0]


def matrix_of(values: xr.DataArray, layout: Layout, *, lazily: bool) -> np.ndarray | da.Array:
    """Values over any dims of a stack, repeated along the others, as a matrix like V: NumPy or Dask.

    Parameters
    ----------
    values : xarray.DataArray
        Of the lengths of the stack.
    layout : Layout
    lazily : bool
        Whether to make a Dask array, with one task for each tile of the stack.
    """
    dims = (*layout.feature_dims, *layout.sample_dims)
    order = [dim for dim in dims if dim in values.dims]
    variable = values.variable.transpose(*order)
    lacking = tuple(axis for axis, dim in enumerate(dims) if dim not in values.dims)
    if not lazily:
        whole = np.expand_dims(variable.to_numpy(), lacking)
        whole = np.broadcast_to(whole, (*layout.feature_shape, *layout.sample_shape))
        return layout.rows(whole.reshape(layout.n_features, *layout.sample_shape))
    lengths = dict(zip(layout.sample_dims, layout.tiles.lengths, strict=True))
    chunked = variable.chunk({dim: lengths.get(dim, -1) for dim in order}).data
    found: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for number, tile in enumerate(layout.tiles):
        where = dict(zip(layout.sample_dims, tile.index, strict=True))
        source = TaskRef((chunked.name, *(where.get(dim, 0) for dim in order)))
        found[number, 0] = (_rows, source, lacking, layout.feature_shape, tile.shape)
    chunks = (tuple(np.diff(layout.tiles.cuts).tolist()), (layout.n_features,))
    return raster.dask_array(found, chunked, chunks, values.dtype)


def _rows(
    part: np.ndarray, lacking: tuple[int, ...], features: tuple[int, ...], pixels: tuple[int, ...]
) -> np.ndarray:
    """Values over the features and pixels of a tile, which may lack some of the dims, as rows of V."""
    whole = np.broadcast_to(np.expand_dims(part, lacking), (*features, *pixels))
    return np.ascontiguousarray(whole.reshape(math.prod(features), -1).T)


def reconstruction(images: xr.DataArray, spectra: xr.DataArray, layout: Layout) -> xr.DataArray | xr.Dataset:
    """WH, like the stack: lazy where the images are."""
    if images.chunks is not None:
        # Plane by plane: a tile of all features would be many times as large as one of W.
        spectra = spectra.chunk({layout.feature_dims[0]: 1})
    product = xr.dot(images.astype(spectra.dtype, copy=False), spectra, dim=COMPONENT, optimize=True)
    dims = [*layout.feature_dims[:1], *layout.dims] if layout.variables is not None else layout.dims
    values = product.variable.transpose(*dims)
    found = xr.DataArray(values, name=layout.name, attrs=dict(layout.attrs))
    found = found.assign_coords(variables(layout.coords_over(layout.feature_dims)))
    found = found.assign_coords({name: coord for name, coord in images.coords.items() if name != COMPONENT})
    if layout.variables is None:
        return found
    dataset = found.to_dataset(dim=layout.feature_dims[0], promote_attrs=True)
    for name, attrs in layout.variables.items():
        dataset[name].attrs = dict(attrs)
    return dataset


def _array(
    values: np.ndarray | da.Array,
    name: str,
    dims: tuple[str, ...],
    layout: Layout,
    k: int,
    attrs: dict[str, Any],
) -> xr.DataArray:
    coords = variables(layout.coords_over(dims))
    coords[COMPONENT] = xr.Variable((COMPONENT,), np.arange(k))
    return xr.DataArray(values, dims=(COMPONENT, *dims), coords=coords, name=name, attrs=attrs)


def variables(coords: Mapping[str, Coordinate]) -> dict[str, xr.Variable]:
    """Coordinates as xarray's variables."""
    return {name: xr.Variable(each.dims, each.values, dict(each.attrs)) for name, each in coords.items()}
