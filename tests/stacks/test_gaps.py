"""What was not observed is missing in maps, spectra, exports and pictures alike, whatever marks it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import zarr
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from sklearn.exceptions import ConvergenceWarning

from dasknmf import open_run, plots
from dasknmf.stacks import Stack, StackNMF, open_stack
from tests.cli.calls import done

pytestmark = [
    pytest.mark.filterwarnings("ignore:X has .* without any observed entry"),
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"),
]
PARAMETERS = {"random_state": 0, "max_iter": 3}
N_BANDS, NY, NX = 4, 12, 10
HOLE = np.zeros((NY, NX), bool)
HOLE[:3, :4] = True


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    values = np.einsum(
        "kyx,kb->byx", rng.dirichlet(np.ones(2), (NY, NX)).T.swapaxes(1, 2), rng.random((2, 4))
    )
    coords = {"y": 5000.0 - 30 * np.arange(NY), "x": 400.0 + 30 * np.arange(NX), "band": list("bgrn")}
    return xr.DataArray(values + 0.1, dims=("band", "y", "x"), coords=coords, name="reflectance")


def gaps_of(maps):
    return np.isnan(maps.transpose("component", "y", "x").to_numpy())


def test_unobserved_pixels_are_missing_everywhere(tmp_path, scene):
    seen = scene.where(~xr.DataArray(HOLE, dims=("y", "x")))
    model = StackNMF(2, sum_to_one=True, **PARAMETERS).fit(seen.chunk(y=6), checkpoint=tmp_path / "run")
    done("export", tmp_path / "run", tmp_path / "maps.zarr")
    done("export", tmp_path / "run", tmp_path / "tables", "--to", "csv")
    table = (
        pd.read_csv(tmp_path / "tables" / "usages.csv", index_col=[0, 1])
        .to_xarray()
        .to_dataarray("component")
    )
    for maps in (
        model.abundance,
        model.transform(seen),
        StackNMF.from_run(tmp_path / "run").abundance,
        model.to_dataset()["abundance"],
        xr.open_zarr(tmp_path / "maps.zarr")["abundance"],
        table.sel(y=scene.y, x=scene.x),
        StackNMF(2, **PARAMETERS).fit_transform(seen),
    ):
        np.testing.assert_array_equal(gaps_of(maps), [HOLE, HOLE])
    # Means over a map are those of what was observed.
    assert float(model.abundance.sum("component").where(~HOLE).mean()) == pytest.approx(1, abs=1e-3)
    assert float(model.abundance.mean()) == pytest.approx(0.5, abs=1e-3)
    for source in (model, open_run(tmp_path / "run")):
        for ax in plots.abundances(source):
            assert ax.get_images()[0].get_array().mask.sum() == HOLE.sum()
    # The factor has zeros, and maps are a start again.
    assert not np.isnan(np.asarray(open_run(tmp_path / "run").W)).any()
    H = model.endmember.to_numpy()
    StackNMF(2, init="custom", **PARAMETERS).fit(seen, W=model.abundance.compute(), H=H)


def test_unobserved_bands_are_missing(scene):
    scene[2] = np.nan
    model = StackNMF(2, **PARAMETERS).fit(scene)
    np.testing.assert_array_equal(np.isnan(model.endmember), [[False, False, True, False]] * 2)
    assert not np.isnan(model.abundance).any()
    line = plots.components(model, kind="spectra")[0].get_lines()[0]
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), [False, False, True, False])


@pytest.mark.parametrize("kind", ["internal", "beside", "alpha", "nodata"])
def test_masks_of_a_geotiff(tmp_path, scene, kind):
    values = (scene.to_numpy() * 1e4).astype("uint16")
    bands = N_BANDS + (kind == "alpha")
    profile = {"driver": "GTiff", "width": NX, "height": NY, "count": bands, "dtype": "uint16"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(400, 5000, 30, 30)}
    profile |= {"nodata": 7} if kind == "nodata" else {}
    inside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal")
    with inside, rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(np.where(HOLE, 7, values), list(range(1, N_BANDS + 1)))
        if kind == "alpha":
            file.write(np.where(HOLE, 0, 255).astype("uint16"), bands)
            file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
        elif kind != "nodata":
            file.write_mask(~HOLE)
    model = StackNMF(2, **PARAMETERS).fit(tmp_path / "a.tif")
    assert model.layout.n_features == N_BANDS
    np.testing.assert_array_equal(gaps_of(model.abundance), [HOLE, HOLE])
    stack = open_stack(tmp_path / "a.tif")
    np.testing.assert_array_equal(stack.to_numpy()[:, ~HOLE], values[:, ~HOLE])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarrs_own_fill_value_is_data(tmp_path, zarr_format):
    """Format 2 has a fill value in every array: 0, unless its writer gave another."""
    counts = np.random.default_rng(0).poisson(1.0, (N_BANDS, NY, NX)).astype("uint16")
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=zarr_format)
    for name, fill in (("plain", {}), ("declared", {"fill_value": 65535} if zarr_format == 2 else {})):
        names = {"dimension_names": ["band", "y", "x"]} if zarr_format == 3 else {}
        array = group.create_array(
            name, shape=counts.shape, chunks=(4, 6, 5), dtype="uint16", **fill, **names
        )
        array[...] = counts
        array.attrs["_ARRAY_DIMENSIONS"] = ["band", "y", "x"]
    if zarr_format == 3:
        group["declared"].attrs["_FillValue"] = 65535
        plain = open_stack(tmp_path / "v.zarr", "plain")
    else:
        with pytest.warns(
            UserWarning, match=r"\['plain'\] have Zarr's fill value 0 .* give missing_values=0"
        ):
            plain = open_stack(tmp_path / "v.zarr", "plain")
        assert Stack(plain, missing=0).entries.nodata == 0  # as the warning says
    assert Stack(plain).entries is None
    assert Stack(open_stack(tmp_path / "v.zarr", "declared")).entries.nodata == 65535


def test_several_files_with_an_alpha_band_stay_lazy(tmp_path, scene):
    profile = {"driver": "GTiff", "width": NX, "height": NY, "count": 2, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(400, 5000, 30, 30)}
    for day in ("20240101", "20240201"):
        with rasterio.open(tmp_path / f"a_{day}.tif", "w", **profile) as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
            file.write((scene[:1].to_numpy() * 100).astype("uint8"), [1])
            file.write(np.where(HOLE, 0, 255).astype("uint8"), 2)
    stack = open_stack(sorted(tmp_path.glob("*.tif")))
    assert stack.chunks is not None
    assert stack.sizes["band"] == 1
    np.testing.assert_array_equal(stack.isnull().any(("time", "band")), HOLE)
