"""The command line on stacks of images: from a store to maps and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dasknmf import NMF, open_run
from dasknmf.cli.fixed_components import rows_at
from dasknmf.stacks import Stack, StackNMF, export_zarr, open_stack
from tests.cli.calls import done, refused
from tests.helpers import stored
from tests.stacks.draw import UNSTABLE, scene, write

pytestmark = [
    pytest.mark.filterwarnings(UNSTABLE),
    pytest.mark.filterwarnings("ignore:.* without any observed entry"),
    pytest.mark.filterwarnings("ignore:Maximum number of iterations"),
]

K = 3
FIT = ["-k", K, "--random-state", 0, "--max-iter", 3, "--tol", 0]
STACK = ["--sample-dims", "y,x"]
N_EMPTY = 12


def cloudy(seed=0) -> xr.DataArray:
    """A scene with a cloud on one date and a corner without observations."""
    obj = scene(seed=seed)
    obj[0, :, 5:15, 5:20] = 0
    obj[:, :, :3, :4] = 0
    return obj


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, Path]:
    """A scene whose nodata is 0, and a run of it."""
    directory = tmp_path_factory.mktemp("stack")
    path = write(cloudy(), directory / "scene.zarr", _FillValue=np.uint16(0))
    done("fit", path, directory / "run", *FIT, *STACK)
    return path, directory / "run"


def test_a_fit_is_that_of_the_stack_and_says_how_to_go_on(fitted, tmp_path):
    path, run = fitted
    said = done("fit", path, run, *FIT, *STACK).stdout
    assert "samples: y 40 × x 60\nfeatures: time 2 × band 3\n" in said
    assert f"maps: dasknmf export {run} maps.zarr   HTML report: dasknmf report {run}" in said
    model = NMF(K, random_state=0, max_iter=3, tol=0).fit(Stack(open_stack(path)))
    np.testing.assert_array_equal(open_run(run).H, model.components_)
    assert open_run(run).n_unobserved_samples == N_EMPTY
    assert "features: time 2 × band 3" in done("info", run).stdout
    assert json.loads(done("info", run, "--json").stdout)["dims"]["samples"] == {"y": 40, "x": 60}


@pytest.mark.slow
def test_options_of_a_fit_reach_the_model(fitted, tmp_path):
    path, run = fitted
    mask = xr.DataArray(np.arange(60) > 9, dims="x", name="land")
    mask.to_dataset().assign(sea=~mask).to_zarr(tmp_path / "mask.zarr", consolidated=False)
    np.save(tmp_path / "h.npy", open_run(run).H[:1])
    options = ["--mask", f"{tmp_path / 'mask.zarr'}:land", "--negatives", "clip", "--missing", 0]
    more = ["--sum-to-one", "--holdout", 0.05, "--fixed-components", tmp_path / "h.npy"]
    said = done("fit", path, tmp_path / "run", *FIT, *STACK, *options, *more).stdout
    assert "missing: nodata 0\nvalues below zero: taken as 0\nhidden from the fit: 5 % of the entries" in said
    assert "loss of held-out entries" in said
    one = open_run(tmp_path / "run")
    np.testing.assert_array_equal(one.H[0], open_run(run).H[0])
    images = one.layout.images(one.rows.compute())
    assert not images[:, :, :10].any()
    assert images[:, 20:, 10:].sum(axis=0) == pytest.approx(1, abs=0.1)
    assert "give " in refused(3, "fit", path, tmp_path / "no", *FIT, *STACK, "--mask", tmp_path / "mask.zarr")


def test_a_config_file_sets_them(fitted, tmp_path):
    path, run = fitted
    (tmp_path / "fit.toml").write_text(
        'sample-dims = ["y", "x"]\nvariable = "reflectance"\nn-components = 3\nmissing = 0\nmax-iter = 3\n'
        "random-state = 0\ntol = 0.0\n"
    )
    done("fit", path, tmp_path / "run", "--config", tmp_path / "fit.toml")
    np.testing.assert_array_equal(open_run(tmp_path / "run").H, open_run(run).H)
    (tmp_path / "nan.toml").write_text('n-components = 2\nmissing = nan\nmax-iter = 2\nsample-dims = "y,x"\n')
    said = done("fit", path, tmp_path / "other", "--config", tmp_path / "nan.toml").stderr
    assert "the stack declares 0 as its missing value; with --missing nan" in said


def test_missing_values_of_a_plain_matrix(tmp_path, low_rank):
    V = low_rank.copy()
    V[3, 4] = np.nan
    path = tmp_path / "v.zarr"
    stored(path, V, (30, 14))
    assert "give --missing nan" in refused(3, "fit", path, tmp_path / "run", *FIT)
    done("fit", path, tmp_path / "run", *FIT, "--missing", "nan")
    expected = NMF(K, random_state=0, max_iter=3, tol=0, missing_values="nan").fit(zarr.open_array(path))
    np.testing.assert_array_equal(open_run(tmp_path / "run").H, expected.components_)
    done("transform", tmp_path / "run", path, tmp_path / "w.zarr")
    V[3, 4] = -1
    stored(tmp_path / "other.zarr", V, (30, 14))
    done("transform", tmp_path / "run", tmp_path / "other.zarr", tmp_path / "x.zarr", "--missing", -1)
    W = [zarr.open_array(tmp_path / name, mode="r")[...] for name in ("w.zarr", "x.zarr")]
    np.testing.assert_array_equal(*W)
    for kind in ("xarray", "geotiff"):
        output = refused(4, "export", tmp_path / "run", tmp_path / "out", "--to", kind)
        assert "export it with --to csv, or fit its stack with --sample-dims" in output


def test_export_is_a_dataset_of_the_run(fitted, tmp_path):
    path, run = fitted
    for arguments in (["a.zarr"], ["b.zarr", "--xarray"], ["c.zarr", "--to", "xarray"]):
        done("export", run, tmp_path / arguments[0], *arguments[1:])
    opened = [xr.open_zarr(tmp_path / name, consolidated=False) for name in ("a.zarr", "b.zarr", "c.zarr")]
    xr.testing.assert_identical(opened[0], opened[1])
    xr.testing.assert_identical(opened[0], opened[2])
    np.testing.assert_array_equal(opened[0].endmember, StackNMF.from_run(run).endmember)
    assert opened[0].abundance.dims == ("component", "y", "x")
    xr.testing.assert_equal(opened[0].wavelength, open_stack(path).wavelength)
    assert "exists and is not replaced" in refused(4, "export", run, tmp_path / "a.zarr")
    done("export", run, tmp_path / "a.zarr", "--overwrite")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zarr", "b.zarr", "c.zarr"]


def test_export_replaces_exports_only_and_leaves_nothing_half_written(fitted, tmp_path, monkeypatch):
    path, run = fitted
    scene_of_a_user = tmp_path / "scene.zarr"
    shutil.copytree(path, scene_of_a_user)
    assert "was not written by an export" in refused(4, "export", run, scene_of_a_user, "--overwrite")
    xr.testing.assert_identical(open_stack(scene_of_a_user).load(), open_stack(path).load())
    # A run and an export use the same attribute.
    other = tmp_path / "other.zarr"
    shutil.copytree(run, other)
    assert "was not written by an export" in refused(4, "export", run, other, "--overwrite")
    np.testing.assert_array_equal(open_run(other).W, open_run(run).W)
    shutil.rmtree(other)
    done("export", run, tmp_path / "maps.zarr")
    before = xr.open_zarr(tmp_path / "maps.zarr", consolidated=False).load()

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    for name, flags in (("maps.zarr", ["--overwrite"]), ("new.zarr", [])):
        assert "No space left" in refused(3, "export", run, tmp_path / name, *flags)
    monkeypatch.undo()
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "maps.zarr", consolidated=False).load(), before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["maps.zarr", "scene.zarr"]


def test_tables_tell_pixels_and_planes_by_coordinates(fitted, tmp_path):
    _, run = fitted
    done("export", run, tmp_path / "tables", "--to", "csv")
    spectra = pd.read_csv(tmp_path / "tables" / "spectra.csv", index_col=0)
    assert spectra.columns[1] == "2024-01-03T10:30 B01"
    np.testing.assert_allclose(spectra.to_numpy(), open_run(run).H, rtol=1e-6)
    maps = StackNMF.from_run(run).abundance.load()
    usages = pd.read_csv(tmp_path / "tables" / "usages.csv").set_index(["y", "x"])
    assert len(usages) == 2400
    for y, x in [(390.0, 0.0), (120.0, 410.0)]:
        np.testing.assert_allclose(usages.loc[(y, x)], maps.sel(y=y, x=x), rtol=1e-6)
    # An exported endmember can be a fixed component of another fit.
    np.testing.assert_allclose(rows_at(str(tmp_path / "tables" / "spectra.csv")), spectra, rtol=1e-6)


def test_transform_gives_maps_of_another_scene(fitted, tmp_path):
    _, run = fitted
    other = cloudy().isel(y=slice(0, 20)).drop_vars("latitude")
    new = write(other, tmp_path / "new.zarr")  # which does not declare 0 as missing
    done("transform", run, new, tmp_path / "w.zarr")
    maps = xr.open_zarr(tmp_path / "w.zarr", consolidated=False).abundance
    assert maps.dims == ("component", "y", "x")
    np.testing.assert_array_equal(maps.y, other.y)
    expected = StackNMF.from_run(run).transform(Stack(open_stack(new), missing=0))
    np.testing.assert_array_equal(maps, expected)
    assert maps[:, :3, :4].isnull().all()
    assert "exists" in refused(4, "transform", run, new, tmp_path / "w.zarr")

    done("transform", run, new, tmp_path / "e.zarr", "--missing", "error")
    there = xr.open_zarr(tmp_path / "e.zarr", consolidated=False).abundance
    assert not np.array_equal(there, maps)
    another = write(other, tmp_path / "another.zarr", _FillValue=np.uint16(9))
    output = refused(2, "transform", run, another, tmp_path / "v.zarr")
    assert "declares 9.0 as its missing value, and in the fit it was 0: give --missing auto" in output
    fewer = write(other.isel(band=slice(2)), tmp_path / "fewer.zarr")
    refused(2, "transform", run, fewer, tmp_path / "v.zarr")
    assert not (tmp_path / "v.zarr").exists()


def test_what_does_not_go_together_is_refused(fitted, tmp_path, low_rank):
    path, run = fitted
    stored(tmp_path / "v.zarr", low_rank, (30, 14))
    matrix, new = tmp_path / "v.zarr", tmp_path / "new"
    for code, message, arguments in [
        (3, "give its sample dims (--sample-dims, StackNMF)", ["fit", path, new, *FIT]),
        (
            3,
            "pixels lie along sample dims: give --sample-dims",
            ["fit", path, new, *FIT, "--sample-dims", "a,b"],
        ),
        (2, "does not name dims: give for example y,x", ["fit", path, new, *FIT, "--sample-dims", "y,"]),
        (2, "--variable and --mask", ["fit", matrix, new, *FIT, "--variable", "a", "--mask", "m.zarr"]),
        (2, "--negatives", ["fit", matrix, new, *FIT, "--negatives", "clip"]),
        (2, "--missing auto can only be used", ["fit", matrix, new, *FIT, "--missing", "auto"]),
        (2, "neither a number nor auto nor error nor nan", ["fit", matrix, new, *FIT, "--missing", "none"]),
        (2, "--log1p", ["fit", path, new, *FIT, *STACK, "--log1p"]),
        (2, "is not a GeoTIFF; only GeoTIFFs", ["fit", path, path, new, *FIT, *STACK]),
        (2, "holdout is 2.0", ["fit", path, new, *FIT, *STACK, "--holdout", 2]),
        (2, "sum_to_one needs", ["fit", path, new, *FIT, *STACK, "--sum-to-one", "--solver", "mu"]),
        (2, "--xarray and --to csv", ["export", run, new, "--xarray", "--to", "csv"]),
        (2, "cannot be used with --to xarray", ["export", run, new, "--key-added", "a"]),
        (3, "is a URL", ["export", run, "s3://bucket/maps.zarr"]),
        (2, "--layer", ["transform", run, path, new, "--layer", "counts"]),
    ]:
        assert message in refused(code, *arguments), arguments
    assert not new.exists()


def test_known_rows_are_read_from_files(tmp_path):
    H = np.arange(12.0).reshape(2, 6)
    np.save(tmp_path / "h.npy", H)
    np.savetxt(tmp_path / "plain.csv", H, delimiter=",")
    pd.DataFrame(H).to_csv(tmp_path / "numbered.csv")
    pd.DataFrame(H, columns=list("abcdef")).to_csv(tmp_path / "named.csv", index=False)
    pd.DataFrame(H, index=["soil", "water"], columns=list("abcdef")).to_csv(tmp_path / "both.csv")
    (tmp_path / "rows.csv").write_text("soil,0,1,2,3,4,5\nwater,6,7,8,9,10,11\n")
    stored(tmp_path / "cube.zarr", H.reshape(2, 3, 2), (1, 3, 2))
    for name in ("h.npy", "plain.csv", "numbered.csv", "named.csv", "both.csv", "rows.csv", "cube.zarr"):
        np.testing.assert_array_equal(rows_at(str(tmp_path / name)), H, err_msg=name)
    (tmp_path / "words.csv").write_text("a,b\n1,two\n")
    for name in ("words.csv", "nowhere.npy", "nowhere.zarr"):
        arguments = ["fit", tmp_path / "cube.zarr", tmp_path / "run", *FIT]
        assert "--fixed-components: " in refused(3, *arguments, "--fixed-components", tmp_path / name)


def test_the_name_of_the_crs_may_be_in_an_attribute_only(tmp_path):
    dataset = scene().to_dataset()
    dataset["crs"] = ((), 0, {"crs_wkt": "LOCAL_CS[...]"})
    dataset["reflectance"].attrs["grid_mapping"] = "crs"
    path = tmp_path / "scene.zarr"
    dataset.to_zarr(path, consolidated=False)
    opened = open_stack(path)
    assert isinstance(opened, xr.DataArray)
    assert "crs" in opened.coords


def test_a_dataset_is_written_at_once(tmp_path):
    export_zarr.write_dataset(scene().to_dataset(), tmp_path / "deep" / "a.zarr")
    xr.testing.assert_equal(
        xr.open_zarr(tmp_path / "deep" / "a.zarr", consolidated=False), scene().to_dataset()
    )
