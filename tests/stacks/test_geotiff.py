"""GeoTIFFs in and out: opened lazily as stacks, written back as maps on their grid."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from dasknmf import open_run
from dasknmf.cli.stacks import mask_at
from dasknmf.errors import SourceError
from dasknmf.io.atomic import placed
from dasknmf.stacks import Stack, StackNMF, geotiff_in, geotiff_out, open_stack
from tests.cli.calls import done, refused

rasterio = pytest.importorskip("rasterio", reason="the raster extra is not installed")
pytest.importorskip("rioxarray", reason="the raster extra is not installed")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* without any observed entry"),
    pytest.mark.filterwarnings("ignore:Maximum number of iterations"),
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification"),
]

SHAPE = (3, 300, 280)
FIT = ["-k", 2, "--random-state", 0, "--max-iter", 2, "--tol", 0]
N_EMPTY = 30 * 40


def tiff(path, seed=0, shape=SHAPE, **changes):
    """A GeoTIFF of digital numbers, in blocks of 128 pixels, with a corner of nodata."""
    rng = np.random.default_rng(seed)
    values = np.einsum(
        "kb,kyx->byx", rng.gamma(0.7, size=(2, shape[0])), rng.gamma(0.5, size=(2, *shape[1:]))
    )
    values = (800 * values + 20 * rng.random(shape) + 1).astype("uint16")
    values[:, :30, :40] = 0
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": shape[0],
        "height": shape[1],
        "width": shape[2],
        "crs": "EPSG:32632",
        "transform": rasterio.Affine(10, 0, 600000, 0, -10, 5000000),
        "nodata": 0,
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
    } | {name: value for name, value in changes.items() if name not in ("scales", "descriptions")}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.scales = changes.get("scales", (1e-4,) * shape[0])
        file.descriptions = changes.get("descriptions", ("B02", "B03", "B04")[: shape[0]])
    return values


def test_a_file_is_opened_as_it_is_stored(tmp_path):
    values = tiff(tmp_path / "a.tif")
    opened = open_stack(tmp_path / "a.tif")
    assert not opened.variable._in_memory
    assert opened.dtype == np.uint16
    assert opened.band.values.tolist() == ["B02", "B03", "B04"]
    assert opened.rio.crs.to_epsg() == 32632
    stack = Stack(opened)
    assert not stack.is_in_memory
    assert stack.entries.nodata == 0
    assert stack.entries.scale == 1e-4
    np.testing.assert_array_equal(opened, values)


def test_tiles_are_whole_blocks_of_the_file(tmp_path, monkeypatch):
    tiff(tmp_path / "a_20220103.tif")
    tiff(tmp_path / "b_20220108.tif", seed=1)
    monkeypatch.setattr("dasknmf.stacks.stack._TILE_BYTES", 0)
    monkeypatch.setattr(geotiff_in, "_CHUNK_BYTES", 0)
    for path in (tmp_path / "a_20220103.tif", sorted(tmp_path.iterdir())):
        assert Stack(open_stack(path)).layout.tiles.lengths == ((128, 128, 44), (128, 128, 24))


def test_files_of_one_grid_lie_along_time(tmp_path):
    names = ["T32_20220108_SR.tif", "T32_2022-01-03_SR.TIFF", "T32_20220113_SR.tif"]
    values = [tiff(tmp_path / name, seed) for seed, name in enumerate(names)]
    opened = open_stack([tmp_path / name for name in names])
    assert opened.dims == ("time", "band", "y", "x")
    days = ["2022-01-08", "2022-01-03", "2022-01-13"]
    np.testing.assert_array_equal(opened.time, np.array(days, "datetime64[ns]"))
    assert opened.chunks is not None
    np.testing.assert_array_equal(opened, np.stack(values))
    stack = Stack(opened)
    assert stack.entries.nodata == 0
    assert stack.entries.scale == 1e-4
    assert stack.entries.groups == 3  # dates
    # Without a date of its own each is known by its name.
    tiff(tmp_path / "before_20220108.tif")
    labels = open_stack([tmp_path / "before_20220108.tif", tmp_path / names[0]]).time.values.tolist()
    assert labels == ["before_20220108", "T32_20220108_SR"]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("dims", {"shape": (3, 300, 281)}),
        ("dims", {"shape": (2, 300, 280)}),
        ("dtype", {"dtype": "int32"}),
        ("CRS", {"crs": "EPSG:32633"}),
        ("transform", {"transform": rasterio.Affine(10, 0, 600010, 0, -10, 5000000)}),
        ("bands", {"descriptions": ("B02", "B03", "B8A")}),
        ("_FillValue", {"nodata": 65535}),
        ("scale_factor", {"scales": (1e-3,) * 3}),
    ],
)
def test_files_of_other_grids_are_refused_by_name(tmp_path, what, changes):
    tiff(tmp_path / "a_20220103.tif")
    tiff(tmp_path / "b_20220108.tif", **changes)
    with pytest.raises(SourceError, match=rf"b_20220108.tif' has the {what} .* and .*a_20220103.tif' has"):
        open_stack(sorted(tmp_path.iterdir()))


def test_what_is_no_stack_of_files_is_refused(tmp_path):
    tiff(tmp_path / "a.tif", scales=(1, 2, 3))
    (tmp_path / "deep").mkdir()
    tiff(tmp_path / "deep" / "b.tif")
    tiff(tmp_path / "b.tif")
    (tmp_path / "text.tif").write_text("no picture")
    for place, message in [
        ("a.tif", "the bands of .* have different scales"),
        ("text.tif", "cannot be opened as a GeoTIFF"),
        ("nowhere.tif", "cannot be opened as a GeoTIFF"),
        (["b.tif", "deep/b.tif"], "2 files are named 'b'"),
        (["b.tif", "b.zarr"], "are not all GeoTIFFs"),
    ]:
        path = [tmp_path / each for each in place] if isinstance(place, list) else tmp_path / place
        with pytest.raises(SourceError, match=message):
            open_stack(path)
    with pytest.raises(SourceError, match="has bands and no variables"):
        open_stack(tmp_path / "b.tif", "B02")


def test_maps_come_back_on_the_grid_of_the_file(tmp_path, monkeypatch):
    path, run, out = tmp_path / "scene.tif", tmp_path / "run", tmp_path / "maps.tif"
    tiff(path)
    monkeypatch.setattr("dasknmf.stacks.stack._TILE_BYTES", 0)
    said = done("fit", path, run, *FIT).stdout
    assert f"maps: dasknmf export {run} maps.tif" in said
    assert f"abundance of 2 components, NaN in {N_EMPTY:,} pixels: {out}" in done("export", run, out).stdout
    expected = StackNMF.from_run(run).abundance.to_numpy()
    expected[:, :30, :40] = np.nan
    with rasterio.open(path) as was, rasterio.open(out) as now:
        assert (now.crs, now.transform, now.shape) == (was.crs, was.transform, was.shape)
        assert now.descriptions == ("component 0", "component 1")
        assert set(now.dtypes) == {"float32"}
        assert np.isnan(now.nodata)
        assert now.block_shapes == [(256, 256)] * 2
        np.testing.assert_array_equal(now.read(), expected)
    assert "exists and is not replaced" in refused(4, "export", run, out)
    done("export", run, out, "--overwrite")
    assert "was not written by an export" in refused(4, "export", run, path, "--overwrite")
    # The same scene for the same endmembers.
    done("transform", run, path, tmp_path / "again.tif")
    with rasterio.open(tmp_path / "again.tif") as again:
        assert again.crs.to_epsg() == 32632
        np.testing.assert_array_equal(np.isnan(again.read()), np.isnan(expected))


@pytest.mark.slow
def test_several_files_are_fitted_with_a_mask_of_their_grid(tmp_path):
    paths = [tmp_path / f"s_2022010{day}.tif" for day in (1, 2)]
    for path in paths:
        tiff(path)
    mask = tmp_path / "mask.tif"
    tiff(mask, shape=(1, *SHAPE[1:]), descriptions=("land",))
    done("fit", *paths, tmp_path / "run", *FIT, "--mask", mask)
    run = open_run(tmp_path / "run")
    assert run.layout.feature_dims == ("time", "band")
    assert run.n_unobserved_samples == N_EMPTY
    assert "is not a GeoTIFF" in refused(2, "fit", paths[0], tmp_path / "run", tmp_path / "new", *FIT)
    assert "leave out --variable" in refused(2, "fit", *paths, tmp_path / "new", *FIT, "--variable", "B02")


@pytest.mark.parametrize("nodata", [255, 0, None, np.nan])
def test_what_a_mask_has_not_observed_does_not_count(tmp_path, nodata):
    dtype = "float32" if nodata is not None and np.isnan(nodata) else "uint8"
    values = np.ones((20, 30), dtype)
    values[:3], values[3:5] = 0, 255 if nodata is None else nodata
    profile = {"driver": "GTiff", "dtype": dtype, "count": 1, "height": 20, "width": 30, "nodata": nodata}
    with rasterio.open(tmp_path / "mask.tif", "w", **profile, transform=rasterio.Affine.scale(2)) as file:
        file.write(values, 1)
    mask = mask_at(str(tmp_path / "mask.tif"))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.arange(20)[:, None] >= np.full(30, 3 if nodata is None else 5))


def fitted(obj, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StackNMF(2, random_state=0, max_iter=2).fit(obj, **options)


def grid(**coords) -> xr.DataArray:
    values = np.random.default_rng(0).random((20, 3, 30)) + 1
    return xr.DataArray(values, dims=("x", "band", "y"), coords=coords)


def test_dims_go_where_a_picture_has_them(tmp_path):
    """y down and x across, whatever the order of the sample dims; without CRS, by coordinates alone."""
    obj = grid(x=100 + 10.0 * np.arange(20), y=500 - 5.0 * np.arange(30)).chunk(x=10)
    for dims in (("y", "x"), ("x", "y")):
        model = fitted(obj, sample_dims=dims, checkpoint=tmp_path / f"{dims[0]}.zarr")
        run = open_run(tmp_path / f"{dims[0]}.zarr")
        out = tmp_path / f"{dims[0]}.tif"
        written = geotiff_out.write_geotiff(out, run.rows, run.layout, may_be_unobserved=False)
        assert (written.n_nan, written.has_crs) == (0, False)
        with rasterio.open(out) as file:
            assert file.transform[:6] == (10, 0, 95, 0, -5, 502.5)
            maps = model.abundance.transpose("component", "y", "x")
            np.testing.assert_array_equal(file.read(), maps.astype("float32"))


@pytest.mark.parametrize("names", [("lat", "lon"), ("latitude", "longitude"), ("Northing", "Easting")])
def test_dims_are_known_by_their_names(tmp_path, names):
    """Longitude goes to the right, also where it is the first sample dim; steps of float32 are even."""
    down, across = names
    degrees = (170 + 0.01 * np.arange(20)).astype("float32")
    obj = grid(x=degrees, y=50 - 0.5 * np.arange(30)).rename(y=down, x=across).chunk({across: 10})
    model = fitted(obj, sample_dims=(across, down), checkpoint=tmp_path / "run")
    run = open_run(tmp_path / "run")
    geotiff_out.write_geotiff(tmp_path / "out.tif", run.rows, run.layout, may_be_unobserved=False)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.shape == (30, 20)
        assert file.transform[:6] == pytest.approx((0.01, 0, 169.995, 0, -0.5, 50.25), rel=1e-4)
        maps = model.abundance.transpose("component", down, across)
        np.testing.assert_array_equal(file.read(), maps.astype("float32"))


@pytest.mark.parametrize(
    ("sample_dims", "coords", "message"),
    [
        (("y",), {}, "a GeoTIFF has two dims"),
        (("y", "x"), {"x": np.arange(20.0) ** 2}, "steps from 1 to 37; pixels of a GeoTIFF are evenly"),
        (("y", "x"), {"x": [f"plot {i}" for i in range(20)]}, "coordinate 'x' is <U7; coordinates"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, sample_dims, coords, message):
    fitted(grid(**coords), sample_dims=sample_dims, checkpoint=tmp_path / "run")
    assert message in refused(3, "export", tmp_path / "run", tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"y": slice(3, 4)}, (10, 0, 95, 0, -10, 490)),
        ({"x": slice(2, 3)}, (5, 0, 117.5, 0, -5, 502.5)),
        ({"x": slice(2, 3), "y": slice(3, 4)}, None),
    ],
)
def test_an_image_of_one_line_has_square_pixels(part, expected):
    obj = grid(x=100 + 10.0 * np.arange(20), y=500 - 5.0 * np.arange(30)).isel(part)
    layout = Stack(obj).layout
    W = da.ones((layout.n_samples, 2))
    if expected is None:
        with pytest.raises(SourceError, match="is one pixel at x=120, y=485"):
            geotiff_out._grid(W, layout)
    else:
        assert geotiff_out._grid(W, layout)["transform"][:6] == expected


def test_zero_pixels_are_counted_apart_from_unobserved_ones(tmp_path):
    obj = grid()
    obj[4, :, 5] = 0.0
    obj[6, :, 7] = np.nan
    fitted(obj.chunk(y=15), checkpoint=tmp_path / "run")
    result = done("export", tmp_path / "run", tmp_path / "out.tif")
    assert "observed pixels that are 0 in every component: 1; the GeoTIFF has NaN there" in result.stderr
    assert "the stack has no CRS" in result.stderr
    with rasterio.open(tmp_path / "out.tif") as file:
        assert np.isnan(file.read(1)).sum() == 2


def test_a_file_that_fails_leaves_nothing(tmp_path):
    def fail():
        with placed(tmp_path / "a.tif", lambda path: True) as spare:
            spare.write_text("half")
            raise OSError("full")

    (tmp_path / "a.tif").write_text("old")
    with pytest.raises(OSError, match="full"):
        fail()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
