"""Abundance maps as a GeoTIFF: a band for each component, written tile by tile."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from dasknmf.core.image_grid import Layout
from dasknmf.errors import SourceError
from dasknmf.io.atomic import placed
from dasknmf.io.optional import needed
from dasknmf.stacks.arrays import COMPONENT, abundance
from dasknmf.stacks.pixels import tiles_of


@dataclass(frozen=True)
class Written:
    """Facts about a written GeoTIFF.

    Parameters
    ----------
    n_nan : int
        The number of pixels that are NaN.
    has_crs : bool
        Whether the file has a coordinate reference system.
    """

    n_nan: int
    has_crs: bool


_BLOCK = 256
_ACROSS = {"x", "lon", "long", "longitude", "easting", "eastings"}
_DOWN = {"y", "lat", "latitude", "northing", "northings"}
"""Names of dims that go right and down in a picture, in any order; by default the first dim goes down."""
_OFF = 0.05
"""The share of a pixel by which centres may lie off an even grid, as those in float32 do."""
_TAG = "TIFFTAG_SOFTWARE"


def write_geotiff(
    path: Path, W: da.Array, layout: Layout, *, may_be_unobserved: bool, overwrite: bool = False
) -> Written:
    """Write W as float32, with the CRS and the transform of its stack.

    Parameters
    ----------
    path : Path
    W : dask.array.Array of shape (n_samples, n_components)
        In chunks of whole tiles; no more than one is in memory.
    layout : Layout
    may_be_unobserved : bool
        Whether pixels with zeros in all components are written as NaN, as they may be unobserved.
    overwrite : bool
        Whether to replace an export of dasknmf at the path.

    Returns
    -------
    written : Written

    Raises
    ------
    SourceError
        If images do not have two dims, or their coordinates are not evenly spaced.
    RunError
        If there is something else at the path, or an export and `overwrite` is False.
    """
    rasterio = needed("rasterio", "GeoTIFFs", "raster")
    grid = _grid(W, layout)
    axis = layout.sample_dims.index(grid["y_dim"])
    k, n_nan = int(W.shape[1]), 0
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": k,
        "height": layout.sample_shape[axis],
        "width": layout.sample_shape[1 - axis],
        "crs": grid["crs"],
        "transform": grid["transform"],
        "nodata": np.nan,
        "interleave": "band",
        "bigtiff": "IF_SAFER",
    }
    if min(profile["height"], profile["width"]) >= _BLOCK:
        profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    ours = _is_ours if overwrite else None
    with placed(path, ours) as spare, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(spare, "w", **profile) as file:
            file.update_tags(**{_TAG: "dasknmf"})
            for component in range(k):
                file.set_band_description(component + 1, f"{COMPONENT} {component}")
            for tile, rows in tiles_of(W, layout):
                rows = rows.astype(np.float32)
                if may_be_unobserved:
                    nothing = ~rows.any(axis=1)
                    rows[nothing] = np.nan
                    n_nan += int(np.count_nonzero(nothing))
                planes = rows.T.reshape(k, *tile.shape)
                y, x = tile.slices[axis], tile.slices[1 - axis]
                window = rasterio.windows.Window.from_slices((y.start, y.stop), (x.start, x.stop))
                file.write(planes if axis == 0 else planes.swapaxes(1, 2), window=window)
    return Written(n_nan, grid["crs"] is not None)


def _grid(W: da.Array, layout: Layout) -> dict[str, Any]:
    """The dim that goes down, the CRS and the transform, from the coordinates."""
    needed("rioxarray", "GeoTIFFs", "raster")
    if len(layout.sample_dims) != 2:
        raise SourceError(
            f"the rows of W lie along {list(layout.sample_dims)}; a GeoTIFF has two dims: export to Zarr "
            "(--to xarray)."
        )
    maps: Any = abundance(W, layout, W.shape[1])
    y, x = layout.sample_dims
    if y.lower() in _ACROSS or x.lower() in _DOWN:
        y, x = x, y
    maps = maps.rio.set_spatial_dims(x_dim=x, y_dim=y)
    for dim in layout.sample_dims:
        _check_even(dim, layout)
    transform = _of_one_line(x, y, layout) or maps.rio.transform(recalc=True)
    return {"y_dim": y, "crs": maps.rio.crs, "transform": transform}


def _of_one_line(x: str, y: str, layout: Layout) -> Any:
    """The transform of an image of one row or column, whose pixels are taken as square; else None."""
    if not all(dim in layout.coords for dim in (x, y)):
        return None
    across, down = (layout.coords[dim].values.astype(np.float64) for dim in (x, y))
    if min(len(across), len(down)) > 1:
        return None
    if max(len(across), len(down)) == 1:
        raise SourceError(
            f"the image is one pixel at {x}={across[0]:g}, {y}={down[0]:g}, whose size is unknown: "
            "export to Zarr (--to xarray)."
        )
    steps = [(axis[-1] - axis[0]) / (len(axis) - 1) if len(axis) > 1 else 0.0 for axis in (across, down)]
    right = steps[0] or abs(steps[1])
    below = steps[1] or -abs(steps[0])
    affine = needed("rasterio", "GeoTIFFs", "raster").Affine
    return affine(right, 0, across[0] - right / 2, 0, below, down[0] - below / 2)


def _check_even(dim: str, layout: Layout) -> None:
    coord = layout.coords.get(dim)
    if coord is None:
        return
    if coord.values.dtype.kind not in "iuf":
        raise SourceError(
            f"the coordinate {dim!r} is {coord.values.dtype}; coordinates of a GeoTIFF are numbers: export "
            "to Zarr (--to xarray)."
        )
    if len(coord.values) < 3:
        return
    values = coord.values.astype(np.float64)
    even = np.linspace(values[0], values[-1], len(values))
    if not np.abs(values - even).max() < _OFF * abs(even[1] - even[0]):
        steps = np.diff(values)
        raise SourceError(
            f"the coordinate {dim!r} goes in steps from {steps.min():g} to {steps.max():g}; pixels of a "
            "GeoTIFF are evenly spaced: export to Zarr (--to xarray)."
        )


def _is_ours(path: Path) -> bool:
    rasterio = needed("rasterio", "GeoTIFFs", "raster")
    try:
        with rasterio.open(path) as file:
            return bool(file.tags().get(_TAG) == "dasknmf")
    except rasterio.errors.RasterioError:
        return False
