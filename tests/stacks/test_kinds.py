"""Files and arrays of other kinds: opened, or refused with a remedy, which is run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import zarr
from rasterio.transform import from_origin
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF
from dasknmf.errors import DataError, SourceError
from dasknmf.stacks import Stack, StackNMF, open_stack

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}",
    "ignore:Consolidated metadata",
)
PARAMETERS = {"random_state": 0, "max_iter": 2}
VALUES = np.random.default_rng(0).random((3, 12, 10)).astype("float32") + 0.1
SCENE = xr.DataArray(VALUES, dims=("band", "y", "x"), name="reflectance")


def write_geotiff(path, values=VALUES):
    profile = {"driver": "GTiff", "width": 10, "height": 12, "count": len(values), "dtype": "float32"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=from_origin(0, 0, 30, 30), **profile) as file:
        file.write(values)
    return path


def test_patterns_and_lists_of_files(tmp_path):
    paths = [write_geotiff(tmp_path / f"a_2024010{day}.tif") for day in (1, 2)]
    for given in (paths, [str(path) for path in paths], str(tmp_path / "a_*.tif")):
        assert dict(open_stack(given).sizes) == {"time": 2, "band": 3, "y": 12, "x": 10}
        assert StackNMF(2, **PARAMETERS).fit(given).layout.feature_dims == ("time", "band")
    with pytest.raises(SourceError, match=r"no file matches '.*b_"):
        open_stack(str(tmp_path / "b_*.tif"))
    with pytest.raises(SourceError, match=r"a directory with 2 GeoTIFFs.*give a pattern, '.*\*.tif'"):
        open_stack(tmp_path)


def test_one_file_for_each_band(tmp_path):
    paths = [write_geotiff(tmp_path / f"B0{band}.tif", VALUES[band : band + 1]) for band in range(3)]
    stack = open_stack(paths)
    assert dict(stack.sizes) == {"band": 3, "y": 12, "x": 10}
    assert stack["band"].values.tolist() == ["B00", "B01", "B02"]
    np.testing.assert_array_equal(stack, VALUES)


def test_a_virtual_raster(tmp_path):
    write_geotiff(tmp_path / "a.tif")
    source = (
        '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{0}</SourceBand>'
    )
    band = f'<VRTRasterBand dataType="Float32" band="{{0}}">{source}</SimpleSource></VRTRasterBand>'
    bands = "".join(map(band.format, (1, 2)))
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="10" rasterYSize="12">{bands}</VRTDataset>')
    np.testing.assert_array_equal(open_stack(tmp_path / "a.vrt"), VALUES[:2])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_levels_of_a_multiscale_image(tmp_path, zarr_format):
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=zarr_format)
    for level in range(2):
        values = VALUES[:, :: 2**level, :: 2**level]
        named = {"dimension_names": ["c", "y", "x"]} if zarr_format == 3 else {"fill_value": None}
        array = group.create_array(str(level), shape=values.shape, chunks=(3, 6, 5), dtype="f4", **named)
        array[...] = values
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = ["c", "y", "x"]
    with pytest.raises(SourceError, match=r"different sizes, \{'0': \(3, 12, 10\), .* give variable="):
        open_stack(tmp_path / "image.zarr")
    for found in (open_stack(tmp_path / "image.zarr", "1"), open_stack(tmp_path / "image.zarr" / "1")):
        np.testing.assert_array_equal(found, VALUES[:, ::2, ::2])
        assert StackNMF(2, **PARAMETERS).fit(found).abundance.shape == (2, 6, 5)


def test_netcdf(tmp_path):
    SCENE.to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(SourceError, match=r"give xarray.open_dataset"):
        open_stack(tmp_path / "a.nc")
    model = StackNMF(2, **PARAMETERS).fit(xr.open_dataset(tmp_path / "a.nc", chunks={}))
    np.testing.assert_allclose(
        model.endmember, StackNMF(2, **PARAMETERS).fit(SCENE.chunk()).endmember.to_numpy()[:, None]
    )


def test_scalars_of_a_dataset_are_no_images():
    dataset = SCENE.to_dataset().assign(spatial_ref=((), 0, {"crs_wkt": "LOCAL_CS[...]"}))
    assert "spatial_ref" in StackNMF(2, **PARAMETERS).fit(dataset).abundance.coords


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_odd_variable_is_named(first, dtype):
    classes = xr.DataArray(np.ones((12, 10), dtype), dims=("y", "x"), name="classes")
    images = (
        SCENE.to_dataset("band").rename({0: "B2", 1: "B3", 2: "B4"})
        if dtype == "uint8"
        else SCENE.to_dataset()
    )
    dataset = xr.merge([classes, images] if first else [images, classes])
    with pytest.raises(SourceError, match=r"drop_vars\('classes'\)"):
        Stack(dataset)
    Stack(dataset.drop_vars("classes"))


def test_an_undeclared_value_of_missing_pixels():
    scene = SCENE.where(SCENE.y > 3, -9999)
    with pytest.raises(DataError, match="such as -9999, is given as missing_values=-9999"):
        StackNMF(2, **PARAMETERS).fit(scene)
    with pytest.warns(UserWarning, match="without any observed entry"):
        model = StackNMF(2, missing_values=-9999, **PARAMETERS).fit(scene)
    assert model.model_.n_unobserved_samples_ == 40


def test_a_sketch_of_floats_names_its_way_out():
    with pytest.raises(ValueError, match="or missing_values='error' if none is missing"):
        StackNMF(2, init="sketch", **PARAMETERS).fit(SCENE)
    assert (
        StackNMF(2, init="sketch", missing_values="error", **PARAMETERS).fit(SCENE).model_.init_ == "sketch"
    )


def test_a_custom_start_of_data_arrays():
    W = xr.DataArray(np.ones((2, 12, 10), "f4"), dims=("component", "y", "x"))
    H = xr.DataArray(VALUES[:, :2, 0].T, dims=("component", "band"))
    ours = StackNMF(2, init="custom", **PARAMETERS).fit(SCENE, W=W, H=H)
    right = StackNMF(2, init="custom", **PARAMETERS).fit(
        SCENE, W=np.ones((120, 2), "f4"), H=VALUES[:, :2, 0].T
    )
    np.testing.assert_array_equal(ours.endmember, right.endmember)
    with pytest.raises(
        ValueError, match=r"H has the dims \['band'\]; it must have 'component' and the feature"
    ):
        StackNMF(2, init="custom").fit(SCENE, W=W, H=H[0])


def test_dates_of_another_calendar():
    pytest.importorskip("cftime")
    times = xr.date_range("2000-02-27", periods=3, calendar="360_day", use_cftime=True)
    scene = SCENE.rename(band="time").assign_coords(time=times)
    with pytest.raises(
        SourceError, match=r"another calendar by obj.assign_coords\(time=obj.time.dt.strftime"
    ):
        Stack(scene)
    Stack(scene.assign_coords(time=scene.time.dt.strftime("%Y-%m-%d")))


def test_files_of_matrices_that_others_open(tmp_path):
    X = np.random.default_rng(0).random((20, 4))
    np.save(tmp_path / "a.npy", X)
    pd.DataFrame(X).to_csv(tmp_path / "a.csv")
    write_geotiff(tmp_path / "a.tif")
    for name, opened in (
        ("a.npy", lambda path: np.load(path, mmap_mode="r")),
        ("a.csv", lambda path: pd.read_csv(path, index_col=0)),
        ("a.tif", lambda path: Stack(open_stack(path))),
    ):
        with pytest.raises(SourceError, match="is a file that another library opens: give "):
            NMF(2).fit(tmp_path / name)
        NMF(2, **PARAMETERS).fit(opened(tmp_path / name))
