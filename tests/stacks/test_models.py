"""Fitted models of stacks: factors on the coordinates of the scene, and transforms of another scene."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from dasknmf import NMF
from dasknmf.errors import SourceError
from dasknmf.stacks import Stack, StackNMF, open_stack
from tests.stacks.draw import UNSTABLE, as_variables, fitted, matrix, scene, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_dims_coordinates_names_and_attributes_survive(small_tiles, tmp_path, zarr_format):
    obj = scene()
    model = fitted(open_stack(write(obj, tmp_path / "v", zarr_format=zarr_format)))
    assert model.abundance.dims == ("component", "y", "x")
    assert model.endmember.dims == ("component", "time", "band")
    assert model.abundance["component"].to_numpy().tolist() == [0, 1, 2]
    assert set(model.abundance.coords) == {"component", "y", "x", "spatial_ref", "latitude"}
    assert set(model.endmember.coords) == {
        "component",
        "time",
        "band",
        "spatial_ref",
        "wavelength",
        "platform",
    }
    assert model.endmember.attrs == obj.attrs
    assert model.abundance.attrs == {"title": "a scene", "bounds": [0.0, 1.5], "long_name": "abundance"}
    back = model.inverse_transform(model.abundance)
    assert back.dims == obj.dims
    assert back.name == obj.name
    assert back.attrs == obj.attrs
    xr.testing.assert_identical(back.coords.to_dataset(), obj.drop_vars("sun").coords.to_dataset())
    W, H = model.layout.rows(model.abundance.to_numpy()), model.model_.components_
    expected = xr.DataArray(W @ H, dims=("row", "column"))
    np.testing.assert_allclose(matrix(back, model.layout), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["memory", "dask", "dataset"])
def test_the_dataset_is_written_at_once_and_opens_as_it_was(small_tiles, tmp_path, kind):
    obj = scene()
    given = {"memory": obj, "dask": obj.chunk(time=1, y=(7, 20, 13), x=40), "dataset": as_variables(obj)}[
        kind
    ]
    model = fitted(given, fit={"checkpoint": tmp_path / "run"})
    dataset = model.to_dataset()
    assert set(given.coords) <= set(dataset.coords)
    dataset.to_zarr(tmp_path / "out", consolidated=False)
    found = xr.open_zarr(tmp_path / "out", consolidated=False).load()
    xr.testing.assert_identical(found, dataset.load())
    history = model.model_.history_
    assert found["reads"].to_numpy().tolist() == [each.reads for each in history]
    assert found["loss"][-1] == history[-1].loss
    for name in ("seconds", "bytes_read", "phase"):
        assert found[name].sizes == {"pass": len(history)}


def test_the_loss_of_hidden_entries_is_kept(tmp_path):
    model = fitted(scene((2, 3, 20, 20)), fit={"holdout": 0.1}, max_iter=2)
    expected = [record.measures.get("holdout", np.nan) for record in model.model_.history_]
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(model.to_dataset()["holdout"], expected)
    assert "holdout" not in fitted(scene((2, 3, 20, 20)), max_iter=2).to_dataset()
    with pytest.raises(SourceError, match="dim or coordinate 'holdout'"):
        Stack(scene().rename(platform="holdout"))


@pytest.mark.parametrize("unit", ["s", "D"])
def test_times_since_come_back_as_such(tmp_path, unit):
    obj = scene((3, 2, 20, 20)).drop_vars(["platform", "sun"])
    since = np.arange(3).astype(f"timedelta64[{unit}]").astype("timedelta64[ns]")
    obj = obj.assign_coords(time=since, age=("band", [1, 2], {"units": "days"}))
    model = fitted(obj, max_iter=2, fit={"checkpoint": tmp_path / "run"})
    again = StackNMF.from_run(tmp_path / "run")
    np.testing.assert_array_equal(again.transform(obj), model.transform(obj))
    assert again.layout.coords["time"].values.dtype == obj["time"].dtype
    np.testing.assert_array_equal(again.endmember["time"], since)
    assert again.endmember["age"].dtype == obj["age"].dtype


def test_the_model_of_a_run_codes_new_scenes_as_the_fitted_one(tmp_path):
    """The sum to one and the weights of features are no parameters of H."""
    obj = scene(dtype="float64")
    other = scene(dtype="float64", seed=1).assign_coords(time=obj.time)
    weight = np.array([1.0, 5.0, 0.1, 1.0, 9.0, 2.0])
    model = fitted(obj, sum_to_one=True, fit={"feature_weight": weight, "checkpoint": tmp_path / "run"})
    again = StackNMF.from_run(tmp_path / "run")
    np.testing.assert_array_equal(again.transform(other), model.transform(other))
    plain = fitted(obj)
    assert not np.allclose(plain.transform(other), model.transform(other))


def test_transform_finds_the_abundances_of_another_scene(small_tiles, tmp_path):
    obj = scene()
    model = fitted(obj, max_iter=40)
    other = scene(shape=(2, 3, 30, 50), seed=3).assign_coords(time=obj.time)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        W = model.model_.transform(matrix(other, Stack(other).layout))
    path = write(other, tmp_path / "other")
    for given in (other, other.chunk(time=1, y=10, x=50), open_stack(path), path):
        found = model.transform(given)
        assert found.dims == ("component", "y", "x")
        assert (found.chunks is None) == (given is other)
        np.testing.assert_allclose(found, Stack(other).layout.images(W), rtol=1e-4, atol=1e-5)
        xr.testing.assert_identical(
            found["latitude"].reset_coords(drop=True), other["latitude"].reset_coords(drop=True)
        )
    back = model.inverse_transform(model.transform(other))
    xr.testing.assert_identical(back["x"], other["x"])
    assert float(abs(back - other).mean() / other.mean()) < 1


def test_transform_refuses_other_features():
    obj = scene()
    model = fitted(obj)
    with pytest.raises(ValueError, match=r"2024-01-03T10:30 B00' became '2024-01-04T10:30 B00"):
        model.transform(obj.assign_coords(time=obj.time + np.timedelta64(1, "D")))
    with pytest.raises(ValueError, match=r"feature dims \['band', 'time'\].*transpose"):
        model.transform(obj.transpose("band", "time", "y", "x"))
    with pytest.raises(ValueError, match="3 features, but NMF is expecting 6"):
        model.transform(obj.isel(time=[0]))


def test_a_dataset_comes_back_as_one(small_tiles):
    dataset = as_variables(scene())
    for name in dataset:
        dataset[name].attrs = {"band": name, "_FillValue": 65535}
    dataset.attrs = {"title": "variables"}
    model = fitted(dataset.chunk(y=20, x=30))
    assert model.endmember.dims == ("component", "variable", "time")
    assert model.endmember["variable"].to_numpy().tolist() == ["B00", "B01", "B02"]
    back = model.inverse_transform(model.abundance)
    assert isinstance(back, xr.Dataset)
    assert back.attrs == {"title": "variables"}
    for name in dataset:
        assert back[name].dims == dataset[name].dims
        assert back[name].attrs == {"band": name}
        xr.testing.assert_identical(
            back[name].coords.to_dataset(), dataset[name].drop_vars("sun").coords.to_dataset()
        )


def test_parameters_are_those_of_nmf_and_its_own():
    model = StackNMF(4, beta_loss="kullback-leibler", negatives="mask")
    assert model.get_params() == NMF(4, beta_loss="kullback-leibler").get_params() | {
        "negatives": "mask",
        "missing_values": "auto",
    }
    assert repr(clone(model)) == "StackNMF(n_components=4, beta_loss='kullback-leibler', negatives='mask')"
    assert model.set_params(n_components=2, missing_values=0).get_params()["n_components"] == 2
    assert model.missing_values == 0
    assert model.negatives == "mask"
    with pytest.raises(TypeError, match="no parameter 'n_component'"):
        StackNMF(n_component=3)
    with pytest.raises(ValueError, match="no parameter 'n_component'"):
        model.set_params(n_component=3)
    with pytest.raises(NotFittedError):
        StackNMF(3).to_dataset()


def test_a_fitted_model_has_a_card():
    assert StackNMF(2)._repr_html_() is None
    html = fitted(scene((2, 3, 20, 30)))._repr_html_()
    for part in ("StackNMF(n_components=3", "time 2 × band 3 × y 20 × x 30", "3 × 6 features", "<svg"):
        assert part in html


def test_known_endmembers_are_matched_by_coordinates():
    obj = scene()[0, ..., :20, :20].astype(float)
    known = StackNMF(2, random_state=0, max_iter=200, tol=1e-2).fit(obj).endmember[:1]
    model = StackNMF(3, random_state=0, tol=1e-2, fixed_components=known).fit(obj)
    np.testing.assert_array_equal(model.endmember[0], known[0])
    dim = known.dims[1]
    turned = known.isel({dim: slice(None, None, -1)})
    with pytest.raises((ValueError, SourceError), match=f"fixed_components.*{dim}"):
        StackNMF(3, fixed_components=turned).fit(obj)
    with pytest.raises(ValueError, match="fixed_components has the dims"):
        StackNMF(3, fixed_components=known[0]).fit(obj)


def test_pictures_of_a_model_of_a_stack():
    obj = scene()[0, ..., :20, :20].astype(float)
    plots = pytest.importorskip("dasknmf.plots")
    model = StackNMF(2, random_state=0, max_iter=200, tol=1e-2).fit(obj)
    assert len(plots.abundances(model)) == 2
    assert len(plots.abundances(model.abundance)) == 2
    assert plots.convergence(model) is not None
    assert plots.components(model, kind="spectra") is not None
