"""Scenes for the tests of stacks, and helpers that fit and read them."""

from __future__ import annotations

import warnings

import dask
import numpy as np
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf.core.image_grid import Layout
from dasknmf.data import grid_of, source_of
from dasknmf.data.source import PanelSlabs
from dasknmf.stacks import Stack, StackNMF

PARAMETERS = {"random_state": 0, "max_iter": 6, "tol": 0.0}

UNSTABLE = "ignore:.*does not have a Zarr V3 specification"
"""Zarr on strings in its format 3."""


def scene(shape=(2, 3, 40, 60), dtype="uint16", rank=3, seed=0) -> xr.DataArray:
    """Reflectances of dims time, band, y, x, of low rank and noise, with coordinates of every kind."""
    rng = np.random.default_rng(seed)
    n_times, n_bands, height, width = shape
    spectra = rng.gamma(0.7, size=(rank, n_times, n_bands))
    values = np.einsum("ktb,kyx->tbyx", spectra, rng.gamma(0.5, size=(rank, height, width)))
    values = 800 * values + rng.gamma(2.0, 20.0, size=shape) + 1
    days = np.datetime64("2024-01-03T10:30", "ns") + np.arange(n_times) * np.timedelta64(5, "D")
    return xr.DataArray(
        values.astype(dtype),
        dims=("time", "band", "y", "x"),
        name="reflectance",
        attrs={"units": "1", "long_name": "surface reflectance", "bounds": [0.0, 1.5], "title": "a scene"},
        coords={
            "time": days,
            "band": [f"B{i:02}" for i in range(n_bands)],
            "y": ("y", 10.0 * np.arange(height)[::-1], {"units": "m"}),
            "x": ("x", 10.0 * np.arange(width), {"units": "m"}),
            "spatial_ref": ((), 0, {"crs_wkt": "LOCAL_CS[...]"}),
            "wavelength": ("band", 0.4 + 0.1 * np.arange(n_bands), {"units": "um"}),
            "latitude": (("y", "x"), rng.random((height, width))),
            "sun": (("time", "y"), rng.random((n_times, height))),
            "platform": ("time", [f"S2{'AB'[i % 2]}" for i in range(n_times)]),
        },
    )


def write(obj, path, chunks=(1, 1, 20, 20), zarr_format=2, **encoding):
    """Write a scene as xarray does, every variable in these chunks."""
    dataset = obj.to_dataset() if isinstance(obj, xr.DataArray) else obj
    options = {name: {"chunks": chunks, **encoding} for name in dataset.data_vars}
    dataset.to_zarr(path, zarr_format=zarr_format, encoding=options, consolidated=False)
    return path


def matrix(obj: xr.DataArray, layout: Layout) -> np.ndarray:
    """V as xarray stacks it, its rows in the order of a layout."""
    stacked = obj.transpose(*layout.feature_dims, *layout.sample_dims).to_numpy()
    return layout.rows(stacked.reshape(layout.n_features, *layout.sample_shape))


def fitted(obj, n_components=3, fit=None, **parameters) -> StackNMF:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=".* without any observed entry")
        return StackNMF(n_components, **(PARAMETERS | parameters)).fit(obj, **(fit or {}))


def slabs_of(stack: Stack) -> list[tuple[int, np.ndarray]]:
    """The first row of each slab, and the slab, read as a task reads it."""
    source = source_of(stack)
    found = []
    for panel in grid_of(source):
        graph = source.upstream()
        chunks = [[dask.get(graph, key) for key in row] for row in source.chunk_keys(panel)]
        row = panel.start
        for slab in PanelSlabs(source, panel.start, panel.stop, chunks):
            found.append((row, slab))
            row += len(slab)
    return found


def as_variables(obj: xr.DataArray) -> xr.Dataset:
    return obj.drop_vars("wavelength").to_dataset(dim="band")
