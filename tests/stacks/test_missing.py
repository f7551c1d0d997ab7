"""Stacks with clouds: missing entries by attributes, masks and negative values."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from dasknmf import NMF, open_run
from dasknmf.errors import DataError, RunMismatchError, SourceError
from dasknmf.stacks import Stack, StackNMF, open_stack
from tests.helpers import computing
from tests.stacks.draw import PARAMETERS, UNSTABLE, as_variables, fitted, matrix, scene, slabs_of, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE, "ignore:Maximum number of iterations")


def clouds(obj: xr.DataArray, share=0.2) -> xr.DataArray:
    """True under a cloud, over time and space."""
    rng = np.random.default_rng(5)
    values = rng.random((obj.sizes["time"], obj.sizes["y"], obj.sizes["x"])) < share
    return xr.DataArray(values, dims=("time", "y", "x"))


ATTRIBUTES = [
    ({"_FillValue": 0, "scale_factor": 0.0001, "add_offset": -0.1}, (0, 0.0001, -0.1)),
    ({"missing_value": 65535}, (65535, 1, 0)),
    ({"nodata": 7.0}, (7, 1, 0)),
    ({"nodatavals": (0, 0, 0), "scale_factor": [2, 2, 2]}, (0, 2, 0)),
]


@pytest.mark.parametrize(("attrs", "expected"), ATTRIBUTES, ids=range(len(ATTRIBUTES)))
def test_entries_are_what_the_attributes_say(attrs, expected):
    entries = Stack(scene().assign_attrs(attrs)).entries
    assert (entries.nodata, entries.scale, entries.offset) == expected
    assert not entries.nan
    assert entries.groups == 2


def test_what_was_decoded_is_not_decoded_again(tmp_path):
    path = write(
        scene(dtype="float32"),
        tmp_path / "v",
        dtype="uint16",
        scale_factor=0.5,
        add_offset=-1.0,
        _FillValue=0,
    )
    stored = Stack(open_stack(path)).entries
    assert (stored.nodata, stored.scale, stored.offset, stored.nan) == (0, 0.5, -1, False)
    decoded = Stack(xr.open_zarr(path, consolidated=False)["reflectance"]).entries
    assert (decoded.nodata, decoded.scale, decoded.offset, decoded.nan) == (None, 1, 0, True)
    # Integers were not decoded, whoever named their fill value.
    by_hand = scene()
    by_hand.encoding["_FillValue"] = 9
    assert Stack(by_hand).entries.nodata == 9
    assert Stack(scene()).entries is None
    assert Stack(scene(dtype="float32"), missing="error").entries is None
    with pytest.warns(UserWarning, match="declares 0 as its missing value, and missing is 5"):
        assert Stack(scene().assign_attrs(nodata=0), missing=5).entries.nodata == 5
    assert Stack(scene().assign_attrs(nodata=0), missing="error").entries is None


@pytest.mark.parametrize("chunks", [None, {"y": 20}])
def test_floats_that_may_be_scaled_already_are_refused(tmp_path, chunks):
    raw = scene().assign_attrs(scale_factor=0.5, add_offset=0.0)
    raw = raw if chunks is None else raw.chunk(chunks)
    scaled = (raw * np.float32(0.5)).assign_attrs(raw.attrs)
    message = r"float32 with scale_factor=0\.5 in its attrs.*drop_attrs.*decode_cf"
    with pytest.raises(SourceError, match=message):
        Stack(scaled)
    assert Stack(scaled.drop_attrs()).entries.scale == 1
    assert Stack(scaled.assign_attrs(scale_factor=1.0)).entries.scale == 1
    # As it is stored: nothing has been computed yet.
    stored = scene(dtype="float32").assign_attrs(scale_factor=0.5)
    assert Stack(open_stack(write(stored, tmp_path / "v"))).entries.scale == 0.5


def test_variables_have_encodings_of_their_own():
    dataset = as_variables(scene())
    dataset["B00"].attrs = {"_FillValue": 0}
    dataset["B01"].attrs = {"scale_factor": 0.5}
    entries = Stack(dataset).entries
    np.testing.assert_array_equal(entries.nodata, [0, 0, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(entries.scale, [1, 1, 0.5, 0.5, 1, 1])
    assert entries.offset == 0


@pytest.mark.parametrize("dims", [("y", "x"), ("x", "time", "y"), ("band", "x")], ids="-".join)
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_a_mask_goes_beside_each_slab(small_tiles, tmp_path, dims, kind):
    obj = scene()
    rng = np.random.default_rng(0)
    mask = xr.DataArray(rng.random([obj.sizes[dim] for dim in dims]) < 0.5, dims=dims)
    given = mask
    if kind == "dask":
        given = mask.chunk({dim: 10 for dim in dims if dim in ("y", "x")})
    if kind == "zarr":
        stored = write(mask.rename("mask"), tmp_path / "m", [min(10, obj.sizes[dim]) for dim in dims])
        given = open_stack(stored).astype(bool)
    stack = Stack(obj.chunk(time=1, y=20, x=20), mask=given)
    weights = np.concatenate([slab.weights for _, slab in slabs_of(stack)])
    expected = mask.broadcast_like(obj).transpose(*obj.dims)
    np.testing.assert_array_equal(weights, matrix(expected, stack.layout))


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_tiles_follow_the_stack_whatever_the_chunks_of_a_mask(small_tiles, tmp_path, kind):
    """Tiles that end where both do would be the whole scene."""
    obj = scene()
    land = xr.DataArray(np.random.default_rng(0).random((40, 60)) < 0.5, dims=("y", "x"), name="land")
    near = {dim: obj[dim] + 0.001 for dim in ("y", "x")}  # of a transform that rounds otherwise
    mask = land.assign_coords(near).chunk(y=9, x=31)
    if kind == "zarr":
        mask = open_stack(write(land, tmp_path / "m", (9, 31)))
    stack = Stack(obj.chunk(time=1, y=20, x=20), mask=mask)
    assert stack.layout.tiles == Stack(obj.chunk(y=20, x=20)).layout.tiles
    assert len(list(stack.layout.tiles)) == 6
    weights = np.concatenate([slab.weights for _, slab in slabs_of(stack)])
    np.testing.assert_array_equal(
        weights, matrix(land.broadcast_like(obj).transpose(*obj.dims), stack.layout)
    )
    with pytest.raises(ValueError, match="give it to Stack"):
        StackNMF(2).fit(stack, mask=mask)


@pytest.mark.parametrize("kind", ["nodata", "nan", "mask"])
def test_three_ways_to_say_it_give_the_same_factors(small_tiles, kind):
    obj, cloud = scene(), clouds(scene())
    plain = obj.astype("float32").where(~cloud)
    V = matrix(plain.transpose(*obj.dims), Stack(obj.chunk(y=20, x=20)).layout)
    given, fit = {
        "nodata": (obj.where(~cloud, 0).transpose(*obj.dims).astype("uint16").assign_attrs(nodata=0), {}),
        "nan": (plain.transpose(*obj.dims), {}),
        "mask": (obj, {"mask": ~cloud}),
    }[kind]
    model = fitted(given.chunk(y=20, x=20), fit=fit, init="random", solver="bpp")
    reference = NMF(3, **PARAMETERS, init="random", solver="bpp", missing_values="nan")
    with pytest.warns(UserWarning, match="without any observed entry"):
        W = reference.fit_transform(V)
    np.testing.assert_allclose(
        model.endmember, model.layout.spectra(reference.components_), rtol=1e-2, atol=1.0
    )
    maps = model.abundance.transpose("component", "y", "x")
    np.testing.assert_allclose(maps.fillna(0), model.layout.images(W), rtol=2e-2, atol=2e-2)
    np.testing.assert_array_equal(maps.isnull()[0], plain.isnull().all(("time", "band")))


def test_hidden_values_are_imputed(small_tiles):
    rng = np.random.default_rng(0)
    values = np.einsum("kb,kyx->byx", rng.random((2, 12)), rng.random((2, 40, 40)))
    obj = xr.DataArray(values, dims=("band", "y", "x"))
    seen = obj.where(xr.DataArray(rng.random(obj.shape) > 0.3, dims=obj.dims))
    model = StackNMF(2, random_state=0, tol=1e-8).fit(seen.chunk(y=20, x=20))
    back = model.inverse_transform(model.abundance)
    assert float(abs(back - obj).max()) < 1e-2
    again = model.transform(seen)
    np.testing.assert_allclose(again, model.abundance, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stored_scale_and_offset_are_applied_in_the_tile(small_tiles, tmp_path, zarr_format):
    obj = scene(dtype="float64") / 10000
    encoding = {"dtype": "uint16", "scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": 0}
    path = write(obj, tmp_path / "v", zarr_format=zarr_format, **encoding)
    parameters = {"init": "random", "solver": "bpp", "dtype": "float64"}
    raw = fitted(open_stack(path), fit={"checkpoint": tmp_path / "run"}, **parameters)
    decoded = xr.open_zarr(path, consolidated=False)["reflectance"]
    reference = fitted(decoded, **parameters)
    np.testing.assert_allclose(raw.endmember, reference.endmember, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(raw.abundance, reference.abundance, rtol=1e-5, atol=1e-7)
    assert open_run(tmp_path / "run").layout.attrs == reference.layout.attrs


def test_negative_values_are_clipped_or_masked(small_tiles):
    obj = scene(dtype="int16").astype("int16") - 60
    given = obj.chunk(y=20, x=20).astype("int16")
    assert int((obj < 0).sum()) > 20
    with pytest.raises(DataError, match=r"offset of -1000.*negatives='mask'"):
        fitted(given)
    clipped = fitted(given, negatives="clip", init="random")
    np.testing.assert_allclose(
        clipped.endmember, fitted(given.clip(0), init="random").endmember, rtol=1e-2, atol=0.5
    )
    masked = fitted(given, negatives="mask", init="random")
    as_nan = given.astype("float32").where(given >= 0)
    np.testing.assert_allclose(masked.endmember, fitted(as_nan, init="random").endmember, rtol=1e-2, atol=0.5)


def test_variables_with_clouds_of_their_own(small_tiles):
    rng = np.random.default_rng(1)
    dataset = as_variables(scene(dtype="float32"))
    holes = {name: dataset[name].where(rng.random(dataset[name].shape) > 0.2) for name in dataset}
    model = fitted(dataset.assign(holes).chunk(y=20, x=20), max_iter=30)
    assert int(sum(each.isnull().sum() for each in holes.values())) > 2000
    assert np.isfinite(model.abundance).all()
    back = model.inverse_transform(model.abundance)
    assert all(float(abs(back[name] - dataset[name]).mean() / dataset[name].mean()) < 0.3 for name in dataset)


@pytest.mark.parametrize("kind", ["nan", "nodata", "mask"])
def test_a_scene_of_nothing_is_refused(kind):
    obj = scene()
    given, fit = {
        "nan": (obj.astype("float32").where(False), {}),
        "nodata": (xr.zeros_like(obj).assign_attrs(nodata=0), {}),
        "mask": (obj, {"mask": xr.DataArray(np.zeros((40, 60), bool), dims=("y", "x"))}),
    }[kind]
    with pytest.raises(DataError, match="observed"):
        fitted(given, fit=fit)


def test_pixels_outside_of_a_mask_have_no_abundance(small_tiles):
    obj = scene()
    land = xr.DataArray(np.arange(60) < 30, dims="x")
    with pytest.warns(UserWarning, match="X has 1,200 rows"):
        model = StackNMF(3, **PARAMETERS).fit(obj.chunk(y=20, x=20), mask=land)
    assert model.abundance.isel(x=slice(30, None)).isnull().all()
    assert not model.abundance.isel(x=slice(0, 30)).isnull().any()
    assert float(model.abundance.isel(x=slice(0, 30)).max()) > 0


def test_a_run_with_encodings_of_each_variable_goes_on(small_tiles, tmp_path):
    dataset = as_variables(scene()).chunk(y=20, x=20)
    dataset["B00"].attrs = {"_FillValue": 0}
    dataset["B01"].attrs = {"scale_factor": 0.5}
    fit = {"checkpoint": tmp_path / "run"}
    began = fitted(dataset, fit=fit, negatives="clip")
    longer = fitted(dataset, fit=fit, negatives="clip", max_iter=8)
    assert longer.model_.n_iter_ == began.model_.n_iter_ + 2
    assert StackNMF.from_run(tmp_path / "run").negatives == "clip"


def test_masks_go_with_tiles_to_a_cluster(small_tiles, cluster, tmp_path):
    obj, cloud = scene(), clouds(scene())
    path = write(obj, tmp_path / "v")
    here = fitted(open_stack(path), max_iter=2, fit={"mask": ~cloud, "checkpoint": tmp_path / "here"})
    with computing(cluster):
        masks = {None: ~cloud, "memory": (~cloud).chunk(time=1, y=10, x=20)}
        for stage, mask in masks.items():
            there = {"mask": mask, "checkpoint": tmp_path / str(stage), "stage": stage}
            model = fitted(open_stack(path), max_iter=2, fit=there)
            np.testing.assert_array_equal(model.endmember, here.endmember)
        found = model.transform(open_stack(path), mask=mask)
        np.testing.assert_allclose(found, here.transform(obj, mask=~cloud), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_a_run_does_not_go_on_with_another_mask(tmp_path, kind):
    obj = scene()
    land = xr.DataArray(np.random.default_rng(0).random((40, 60)) < 0.5, dims=("y", "x"), name="land")
    run = tmp_path / "run"
    fitted(obj, fit={"mask": land, "checkpoint": run})

    def given(mask):
        if kind == "dask":
            return mask.chunk(y=20)
        return open_stack(write(mask, tmp_path / str(int(mask.sum())), (20, 20))) if kind == "zarr" else mask

    same = given(land)
    fitted(obj, fit={"mask": same if kind == "zarr" else same.transpose("x", "y"), "checkpoint": run})
    other = land.copy()
    other[3, 4] = not other[3, 4]
    with pytest.raises(RunMismatchError, match=r"mask: '\w{16} of y=40 x=60' in the run, '\w{16} of y=40"):
        fitted(obj, fit={"mask": given(other), "checkpoint": run})
    with pytest.raises(RunMismatchError, match=r"mask: '.*' in the run, not set now"):
        fitted(obj, fit={"checkpoint": run})


def test_a_mask_is_not_computed_from_the_stack_to_tell_it_from_others():
    obj = scene().chunk(time=1, y=20, x=20)
    assert Stack(obj, mask=(obj > 9).all(["time", "band"])).described_mask() == "bool of y=40 x=60"
    assert Stack(obj).described_mask() is None
