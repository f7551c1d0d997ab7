"""Stacks of images: read as they are stored, factorized, given back on their coordinates."""

from __future__ import annotations

import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from dasknmf import NMF, open_run
from dasknmf.errors import DataError, RunDamagedError, RunError, RunMismatchError, SourceError
from dasknmf.inputs import grid_of, source_of
from dasknmf.inputs import stack as stacking
from dasknmf.inputs.base import PanelSlabs
from dasknmf.stacks import Stack, StackNMF, open_stack
from dasknmf.stacks.ordering import ordered
from dasknmf.store import records
from tests.helpers import computing
from tests.stacks import UNSTABLE, matrix, scene, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

PARAMETERS = {"random_state": 0, "max_iter": 6, "tol": 0.0}


@pytest.fixture
def small_tiles(small_panels, monkeypatch):
    """Every stored tile of 20 x 20 pixels is one of its own, and a panel; in memory some rows are."""
    monkeypatch.setattr(stacking, "_TILE_BYTES", 6000)


def fitted(obj, n_components=3, fit=None, **parameters) -> StackNMF:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=".* have nothing observed")
        return StackNMF(n_components, **(PARAMETERS | parameters)).fit(obj, **(fit or {}))


def slabs_of(stack: Stack) -> list[tuple[int, np.ndarray]]:
    """The first row of each slab, and the slab, read as a task reads it."""
    source = source_of(stack)
    found = []
    for panel in grid_of(source):
        graph = source.upstream()
        chunks = [[dask.get(graph, key) for key in row] for row in source.chunk_keys(panel)]
        row = panel.start
        for slab in PanelSlabs(source.reader, panel.start, panel.stop, chunks):
            found.append((row, slab))
            row += len(slab)
    return found


ORDERS = [("time", "band", "y", "x"), ("y", "x", "time", "band"), ("x", "band", "y", "time")]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr 2", "zarr 3"])
def test_a_slab_is_a_tile_of_all_features_as_it_is_stored(small_tiles, tmp_path, order, kind):
    obj = scene().transpose(*order)
    chunks = {"time": 1, "band": 1, "y": 20, "x": 20}
    given = obj
    if kind == "dask":
        given = obj.chunk(chunks)
    elif kind.startswith("zarr"):
        path = write(obj, tmp_path / "v", [chunks[dim] for dim in order], zarr_format=int(kind[-1]))
        given = open_stack(path)
    stack = Stack(given)
    assert stack.shape == (2400, 6)
    found = slabs_of(stack)
    tiles = list(stack.layout.tiles)
    assert len(found) == len(tiles) == (5 if kind == "numpy" else 6)
    features = [dim for dim in order if dim in ("time", "band")]
    assert stack.layout.feature_dims == tuple(features)
    for (row, slab), tile in zip(found, tiles, strict=True):
        assert row == tile.start
        assert slab.dtype == np.uint16
        assert slab.T.flags.c_contiguous
        part = obj.isel(y=tile.slices[0], x=tile.slices[1]).transpose("y", "x", *features)
        np.testing.assert_array_equal(slab, part.to_numpy().reshape(-1, 6))


def test_chunks_of_any_lengths_are_put_together(small_tiles):
    obj = scene()
    stack = Stack(obj.chunk(time=(2,), band=(1, 2), y=(3, 30, 7), x=(60,)))
    assert stack.layout.tiles.lengths == ((3, 30, 7), (60,))
    V = np.concatenate([slab for _, slab in slabs_of(stack)])
    np.testing.assert_array_equal(V, matrix(obj, stack.layout))


def test_what_xarray_would_look_up_value_by_value_is_refused(tmp_path):
    obj = scene()
    lazy = open_stack(write(obj, tmp_path / "v"))
    assert Stack(lazy.isel(time=[0], y=slice(20, 40))).shape == (1200, 3)
    with pytest.raises(SourceError, match=r"'reflectance' was transposed.*chunk\(\.\.\.\)\.transpose"):
        Stack(lazy.transpose("y", "x", "time", "band"))
    chunked = Stack(lazy.chunk(y=20, x=20).transpose("y", "x", "time", "band"))
    assert chunked.layout.feature_dims == ("time", "band")


def as_variables(obj: xr.DataArray) -> xr.Dataset:
    return obj.drop_vars("wavelength").to_dataset(dim="band")


def test_variables_of_a_dataset_are_the_first_level_of_the_features(small_tiles):
    obj = scene()
    dataset = as_variables(obj)
    # In chunks of other lengths, in another order of dims, and one of them in memory.
    dataset["B00"] = dataset["B00"].chunk(time=1, y=8, x=20)
    dataset["B01"] = dataset["B01"].transpose("y", "x", "time").chunk(time=2, y=4, x=60)
    stack = Stack(dataset)
    assert stack.layout.feature_dims == ("variable", "time")
    assert stack.layout.tiles.lengths == ((8,) * 5, (60,))
    assert stack.feature_names[2] == "B01 2024-01-03T10:30"
    V = np.concatenate([slab for _, slab in slabs_of(stack)])
    layout = stack.layout
    expected = layout.rows(obj.transpose("band", "time", "y", "x").to_numpy().reshape(6, 40, 60))
    np.testing.assert_array_equal(V, expected)


def test_wherever_a_stack_is_kept_the_numbers_are_the_same(tmp_path):
    obj = scene()
    path = write(obj, tmp_path / "v")
    models = [fitted(given) for given in (obj, obj.chunk(time=1, y=20, x=20), open_stack(path), str(path))]
    for model in models[1:]:
        np.testing.assert_array_equal(model.abundance, models[0].abundance)
        np.testing.assert_array_equal(model.endmember, models[0].endmember)
    assert models[0].abundance.chunks is None
    assert models[1].abundance.chunks is not None


@pytest.mark.parametrize("missing", ["error", "nan"])
@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_results_are_those_of_the_plain_estimator(small_tiles, tmp_path, kind, missing):
    obj = scene(dtype="float32")
    given = obj.chunk(time=1, y=20, x=20) if kind == "dask" else open_stack(write(obj, tmp_path / "v"))
    model = fitted(given, max_iter=20, missing_values=missing)
    V = matrix(obj, model.layout)
    plain = NMF(3, **(PARAMETERS | {"max_iter": 20, "missing_values": missing}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        W = plain.fit_transform(V)
    np.testing.assert_allclose(model.model_.components_, plain.components_, rtol=2e-3, atol=0.05)
    np.testing.assert_allclose(model.abundance, model.layout.images(W), rtol=2e-3, atol=2e-3)
    assert model.model_.reconstruction_err_ == pytest.approx(plain.reconstruction_err_, rel=1e-4)


def test_each_chunk_is_read_once_a_pass(small_tiles, tmp_path):
    path = write(scene(), tmp_path / "v", (1, 2, 16, 16))
    chunks = [each for each in (path / "reflectance").iterdir() if not each.name.startswith(".")]
    assert len(chunks) == 2 * 2 * 3 * 4
    stored = sum(each.stat().st_size for each in chunks)
    model = fitted(open_stack(path), init="random", fit={"checkpoint": tmp_path / "run"})
    passes = model.model_.history_.exact
    W_bytes = 2400 * 3 * 4
    assert [each.bytes_read - W_bytes for each in passes[1:]] == [stored] * (len(passes) - 1)


def test_panels_are_whole_tiles_and_follow_small_ones_together():
    stack = Stack(scene(shape=(1, 2, 64, 64)).chunk(y=8, x=8))
    assert stack.layout.tiles.lengths == ((64,), (64,))
    big = Stack(xr.DataArray(np.zeros((2, 2048, 2048), "uint8"), dims=("band", "y", "x")).chunk(y=512, x=512))
    assert big.layout.tiles.lengths == ((1024, 1024), (2048,))


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


def test_a_model_is_saved_and_loaded(small_tiles, tmp_path):
    obj = scene()
    model = fitted(obj.chunk(y=20, x=20), solver="bpp", negatives="clip")
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)
    again = StackNMF.load(tmp_path / "model")
    assert again.get_params() == model.get_params()
    assert again.model_.n_iter_ == model.model_.n_iter_
    assert again.model_.history_.columns() == model.model_.history_.columns()
    xr.testing.assert_identical(again.to_dataset().load(), model.to_dataset().load())
    other = scene(seed=1).assign_coords(time=obj.time)
    np.testing.assert_array_equal(again.transform(other), model.transform(other))
    with pytest.raises(SourceError, match="no model of format 1"):
        StackNMF.load(write(obj, tmp_path / "scene"))


def test_the_loss_of_hidden_entries_is_kept(tmp_path):
    model = fitted(scene((2, 3, 20, 20)), fit={"holdout": 0.1}, max_iter=2)
    expected = [record.measures.get("holdout", np.nan) for record in model.model_.history_]
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(model.to_dataset()["holdout"], expected)
    model.save(tmp_path / "model")
    again = StackNMF.load(tmp_path / "model").model_.history_
    assert [each.measures for each in again] == [each.measures for each in model.model_.history_]
    assert "holdout" not in fitted(scene((2, 3, 20, 20)), max_iter=2).to_dataset()
    with pytest.raises(SourceError, match="dim or coordinate 'holdout'"):
        Stack(scene().rename(platform="holdout"))


@pytest.mark.parametrize("unit", ["s", "D"])
def test_times_since_come_back_as_such(tmp_path, unit):
    obj = scene((3, 2, 20, 20)).drop_vars(["platform", "sun"])
    since = np.arange(3).astype(f"timedelta64[{unit}]").astype("timedelta64[ns]")
    obj = obj.assign_coords(time=since, age=("band", [1, 2], {"units": "days"}))
    model = fitted(obj, max_iter=2)
    model.save(tmp_path / "model")
    again = StackNMF.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(obj), model.transform(obj))
    assert again.layout.coords["time"].values.dtype == obj["time"].dtype
    np.testing.assert_array_equal(again.endmember["time"], since)
    assert again.endmember["age"].dtype == obj["age"].dtype


def test_a_loaded_model_codes_new_scenes_as_the_fitted_one(tmp_path):
    """The sum to one and the weights of features are no parameters of H."""
    obj = scene(dtype="float64")
    other = scene(dtype="float64", seed=1).assign_coords(time=obj.time)
    weight = np.array([1.0, 5.0, 0.1, 1.0, 9.0, 2.0])
    model = fitted(obj, sum_to_one=True, fit={"feature_weight": weight})
    model.save(tmp_path / "model")
    again = StackNMF.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(other), model.transform(other))
    plain = fitted(obj)
    assert not np.allclose(plain.transform(other), model.transform(other))


def test_a_model_is_saved_over_the_place_that_it_is_read_from(tmp_path):
    obj = scene()
    model = fitted(obj)
    model.save(tmp_path / "model")
    again = StackNMF.load(tmp_path / "model")
    assert again.abundance.chunks is not None
    again.save(tmp_path / "model", overwrite=True)
    np.testing.assert_array_equal(StackNMF.load(tmp_path / "model").abundance, model.abundance)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    store = zarr.storage.MemoryStore()
    model.save(store)
    there = StackNMF.load(store)
    with pytest.raises(ValueError, match=r"read from, and would be cleared.*abundance\.load"):
        there.save(store, overwrite=True)
    there.abundance.load()
    there.save(store, overwrite=True)
    np.testing.assert_array_equal(StackNMF.load(store).abundance, model.abundance)


def test_a_model_replaces_models_only(tmp_path):
    obj = scene()
    model = fitted(obj.chunk(y=20), fit={"checkpoint": tmp_path / "run"})
    path = write(obj, tmp_path / "scene")
    for place in (tmp_path / "run", path):
        with pytest.raises(RunError, match="no export has written"):
            model.save(place, overwrite=True)
    assert open_run(tmp_path / "run").status == "max_iter"
    xr.testing.assert_identical(open_stack(path).load(), open_stack(write(obj, tmp_path / "same")).load())


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


def test_transform_tells_features_apart():
    obj = scene()
    model = fitted(obj)
    with pytest.raises(ValueError, match=r"2024-01-03T10:30 B00' became '2024-01-04T10:30 B00"):
        model.transform(obj.assign_coords(time=obj.time + np.timedelta64(1, "D")))
    with pytest.raises(ValueError, match=r"features \['band', 'time'\].*transpose"):
        model.transform(obj.transpose("band", "time", "y", "x"))
    with pytest.raises(ValueError, match="3 features, but NMF is expecting 6"):
        model.transform(obj.isel(time=[0]))


def test_a_run_knows_its_stack(small_tiles, tmp_path):
    obj = scene()
    run = tmp_path / "run"
    model = fitted(obj.chunk(y=20, x=20), fit={"checkpoint": run})
    found = open_run(run)
    assert found.layout.sample_dims == ("y", "x")
    np.testing.assert_array_equal(found.layout.images(found.W.compute()), model.abundance)
    np.testing.assert_array_equal(found.layout.spectra(found.H), model.endmember)
    again = StackNMF.from_run(run)
    xr.testing.assert_identical(again.abundance.load(), model.abundance.load())
    xr.testing.assert_identical(again.endmember, model.endmember)
    xr.testing.assert_identical(again.to_dataset()["sun"], model.to_dataset()["sun"])


def test_W_of_a_run_is_one_layer_of_a_graph(small_tiles, tmp_path):
    """Whoever takes panel after panel would look through all layers each time."""
    model = fitted(scene().chunk(y=20, x=20), fit={"checkpoint": tmp_path / "run"})
    W = open_run(tmp_path / "run").W
    assert W.numblocks == (6, 1)
    assert len(W.dask.layers) == 1
    np.testing.assert_array_equal(W.blocks[4].compute(), W.compute()[4 * 400 : 5 * 400])
    np.testing.assert_array_equal(model.layout.images(W.compute()), model.abundance)


def test_coordinates_of_a_run_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    missing = np.where(rng.random((80, 90)) < 0.1, np.nan, rng.random((80, 90)))
    coords = {
        "large": (("y", "x"), missing),
        "day": (("y", "x"), np.full((80, 90), np.datetime64("NaT", "ns"))),
        "land": (("y", "x"), missing > 0.5),
        "delay": ("band", np.array([1, 2, 3], "timedelta64[s]").astype("timedelta64[ns]")),
        "site": ((), "Ålesund"),
        "half": ("band", np.array([0.5, np.inf, np.nan], "float16")),
        "count": ((), np.uint64(2**64 - 1)),
    }
    obj = xr.DataArray(rng.random((3, 80, 90)), dims=("band", "y", "x"), coords=coords)
    fitted(obj, fit={"checkpoint": tmp_path / "run"}, max_iter=2)
    found = open_run(tmp_path / "run").layout.coords
    for name, coord in obj.coords.items():
        assert found[name].values.dtype == coord.dtype, name
        np.testing.assert_array_equal(found[name].values, coord.to_numpy())


def test_a_run_goes_on_with_its_stack_only(tmp_path):
    run, obj = tmp_path / "run", scene()
    model = fitted(obj, fit={"checkpoint": run})
    longer = fitted(obj, max_iter=8, fit={"checkpoint": run})
    assert longer.model_.n_iter_ == model.model_.n_iter_ + 2
    with pytest.raises(RunMismatchError, match=r"layout was .*'y': 40, 'x': 60.* and is .*'x': 40, 'y': 60"):
        fitted(
            obj.rename(x="y", y="x").transpose("time", "band", "x", "y"),
            fit={"checkpoint": run, "sample_dims": ("x", "y")},
        )
    with pytest.raises(RunMismatchError, match=r"B00' became '.* blue'"):
        fitted(obj.assign_coords(band=["blue", "B01", "B02"]), fit={"checkpoint": run})
    records.delete(records.opened(run), "layout")
    with pytest.raises(RunDamagedError, match="layout"):
        open_run(run).layout  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        NMF(2, **PARAMETERS).fit(matrix(obj, model.layout), checkpoint=tmp_path / "plain")
    assert open_run(tmp_path / "plain").layout is None
    with pytest.raises(RunMismatchError, match=r"NMF\.from_run"):
        StackNMF.from_run(tmp_path / "plain")


@pytest.mark.parametrize("square", [True, False])
def test_a_run_does_not_go_on_with_dims_in_another_order(tmp_path, square):
    """Lengths by name, names of features and sums of panels are all the same."""
    obj = scene((2, 2, 20, 20 if square else 30)).drop_vars(["time", "band", "platform", "wavelength"])
    fitted(obj, fit={"checkpoint": tmp_path / "run"})
    message = r"rows along \['y', 'x'\] .* and the stack now has them along \['x', 'y'\]"
    with pytest.raises(RunMismatchError, match=message):
        fitted(obj, fit={"checkpoint": tmp_path / "run", "sample_dims": ("x", "y")})
    with pytest.raises(RunMismatchError, match=r"columns along \['time', 'band'\].*\['band', 'time'\]"):
        fitted(obj.transpose("band", "time", "y", "x"), fit={"checkpoint": tmp_path / "run"})
    fitted(obj.transpose("y", "time", "x", "band"), fit={"checkpoint": tmp_path / "run"})


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


def test_on_a_cluster_tasks_read_tiles(small_tiles, cluster, tmp_path):
    obj = scene()
    path = write(obj, tmp_path / "v")
    here = fitted(open_stack(path), max_iter=2, fit={"checkpoint": tmp_path / "here"})
    with computing(cluster):
        for number, given in enumerate((open_stack(path), obj.chunk(time=1, y=20, x=20))):
            run = {"checkpoint": tmp_path / str(number)}
            model = fitted(given, max_iter=2, fit=run)
            np.testing.assert_array_equal(model.abundance.load(), here.abundance.load())
            np.testing.assert_array_equal(model.transform(given).load(), here.transform(given).load())


@pytest.mark.parametrize("stage", ["memory", "files"])
def test_a_stage_gives_the_same_numbers(small_tiles, tmp_path, stage):
    path = write(scene(), tmp_path / "v")
    plain = fitted(open_stack(path))
    place = stage if stage == "memory" else tmp_path / "stage"
    staged = fitted(open_stack(path), fit={"stage": place})
    np.testing.assert_array_equal(staged.abundance, plain.abundance)
    assert staged.model_.history_[-1].bytes_read < plain.model_.history_[-1].bytes_read


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


def test_what_a_store_holds_is_opened_by_name(tmp_path):
    dataset = as_variables(scene())
    path = write(dataset, tmp_path / "v", (1, 20, 20))
    assert isinstance(open_stack(path), xr.Dataset)
    assert open_stack(str(path), "B01").name == "B01"
    assert list(open_stack(zarr.open(path, mode="r"), ["B02", "B00"])) == ["B02", "B00"]
    with pytest.raises(SourceError, match=r"no variable 'B7'; its variables are \['B00', 'B01', 'B02'\]"):
        open_stack(path, "B7")
    with pytest.raises(SourceError, match="names of dims"):
        open_stack(path / "B00")
    with pytest.raises(SourceError, match="cannot be opened"):
        open_stack(tmp_path / "nowhere")


def test_values_are_opened_as_they_are_stored_and_coordinates_decoded(tmp_path):
    obj = scene(dtype="float64")
    dataset = obj.to_dataset()
    encoding = {
        "reflectance": {"dtype": "uint16", "scale_factor": 0.5, "_FillValue": 0, "chunks": (1, 1, 20, 20)},
        "x": {"dtype": "int32", "scale_factor": 10.0, "_FillValue": -1},
    }
    dataset.to_zarr(tmp_path / "v", encoding=encoding, consolidated=False)
    found = open_stack(tmp_path / "v")
    assert found.dtype == np.uint16
    assert found.attrs["scale_factor"] == 0.5
    np.testing.assert_array_equal(found["x"], obj["x"])
    np.testing.assert_array_equal(found["time"], obj["time"])
    assert "scale_factor" not in Stack(found).layout.attrs


def replaced(**changes):
    return lambda obj: obj.assign_coords(**changes)


BAD = [
    ("the stack is a numpy.ndarray", lambda obj: obj.to_numpy(), {}),
    (
        r"sample_dims has 'lat', and the stack has the dims \['time', 'band', 'y', 'x'\]",
        None,
        {"sample_dims": ("lat", "x")},
    ),
    ("needs a dim of features", lambda obj: obj.isel(time=0, band=0), {}),
    ("must name one dim or more, each once", None, {"sample_dims": ("y", "y")}),
    ("must name one dim or more", None, {"sample_dims": ()}),
    (
        r"'time' has 2024-01-03T10:30:00.000000000 2 times.*drop_duplicates\('time'\)",
        lambda obj: obj.isel(time=[0, 0]),
        {},
    ),
    (
        r"coordinates 'time' \(.*\) are none that.*tz_localize\(None\).*drop_vars\(\['time'\]\)",
        lambda obj: obj.assign_coords(time=obj.indexes["time"].tz_localize("UTC")),
        {},
    ),
    ("lengths .*'time': 0", lambda obj: obj.isel(time=[]), {}),
    ("values of 'reflectance' are complex128", lambda obj: obj.astype(complex), {}),
    (r"values of 'reflectance' are datetime64\[ns\]", lambda obj: obj.astype("datetime64[ns]"), {}),
    ("values of 'reflectance' are <U", lambda obj: obj.astype(str), {}),
    ("dim or coordinate 'component'", lambda obj: obj.rename(band="component"), {}),
    ("dim or coordinate 'loss'", lambda obj: obj.rename(platform="loss"), {}),
    (
        r"coordinates 'band' \(object of tuple\) are none.*reset_index",
        lambda obj: (
            obj.stack(pair=["band", "time"]).rename(pair="band_").rename(band="b").rename(band_="band")
        ),
        {},
    ),
    (
        "variable 'B01' is float32 and 'B00' is uint16",
        lambda obj: as_variables(obj).assign(B01=lambda d: d.B01.astype("float32")),
        {},
    ),
    (
        r"variable 'B02' has the dims \['y', 'x'\] and 'B00' has \['time', 'y', 'x'\]",
        lambda obj: as_variables(obj).assign(B02=lambda d: d.B02[0]),
        {},
    ),
    (
        r"sample_dims has 'x', and variable 'B02' has the dims \['time', 'y'\].*drop_vars\('B02'\)",
        lambda obj: as_variables(obj).assign(B02=lambda d: d.B02[:, :, 0]),
        {},
    ),
    ("the dataset has no variables", lambda obj: as_variables(obj)[[]], {}),
    ("has a dim 'variable'", lambda obj: obj.rename(time="variable").to_dataset(), {}),
    ("mask is a ndarray", None, {"mask": np.ones((40, 60), bool)}),
    ("mask is float64", None, {"mask": xr.DataArray(np.ones((40, 60)), dims=("y", "x"))}),
    ("mask has a dim 'lat'", None, {"mask": xr.DataArray(np.ones((40, 60), bool), dims=("lat", "x"))}),
    (
        "mask has 41 along 'y' and the stack 40",
        None,
        {"mask": xr.DataArray(np.ones((41, 60), bool), dims=("y", "x"))},
    ),
    (
        "mask goes from 0.0 to 390.0 along 'y' and the stack from 390.0 to 0.0.*reindex_like",
        None,
        {"mask": xr.DataArray(np.ones((40, 60), bool), dims=("y", "x"), coords={"y": 10.0 * np.arange(40)})},
    ),
    (
        "'reflectance' is int16 with the attribute _Unsigned='true'",
        lambda obj: obj.astype("int16").assign_attrs(_Unsigned="true"),
        {},
    ),
    ("missing is 'nodata'", None, {"missing": "nodata"}),
    ("missing is True", None, {"missing": True}),
    ("negatives is 'abs'", None, {"negatives": "abs"}),
    ("attribute 'scale_factor' is 'x'", lambda obj: obj.assign_attrs(scale_factor="x"), {}),
]


@pytest.mark.parametrize(("message", "change", "options"), BAD, ids=range(len(BAD)))
def test_what_is_no_stack_is_refused(message, change, options):
    obj = scene() if change is None else change(scene())
    with pytest.raises((SourceError, ValueError), match=message) as found:
        Stack(obj, **options)
    assert "\n" not in str(found.value)


def test_coordinates_that_nothing_keeps_are_left_out(tmp_path):
    """As of stackstac: None among titles, lists of dicts, one after another."""
    items = np.empty(2, object)
    items[:] = [{"a", "b"}, {"c"}]
    zoned = scene().indexes["time"].tz_localize("UTC")
    obj = scene().assign_coords(
        title=("band", np.array(["blue", None, "red"], object)), items=("time", items), at=("time", zoned)
    )
    # pandas 3 makes NaN of None among strings.
    message = r"'title' \(object of \w+ and str\), 'items' \(object of set\), 'at' \(.*UTC.*\) are left"
    with pytest.warns(UserWarning, match=message) as found:
        stack = Stack(obj)
    assert len(found) == 1
    assert stack.layout.coords.keys() == scene().coords.keys()


def test_negative_values_are_refused_with_what_to_do_about_them(tmp_path):
    obj = scene(dtype="int16").chunk(y=20, x=20)
    with pytest.raises(
        DataError, match=r"of 14400 entries are below zero.*baseline 04\.00.*negatives='clip'"
    ):
        fitted(obj.where(obj != obj.max(), -3).astype("int16"), fit={"checkpoint": tmp_path / "run"})
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize("dims", [("time", "band", "y", "x"), ("x", "time", "y"), ("band",)], ids="-".join)
@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 9}])
def test_weights_of_entries_lie_on_dims(small_tiles, dims, chunks):
    obj = scene()
    weight = obj.isel({dim: 0 for dim in obj.dims if dim not in dims}, drop=True).transpose(*dims) / 1000
    given = weight if chunks is None else weight.chunk({d: n for d, n in chunks.items() if d in dims})
    stack = Stack(obj.chunk(time=1, y=20, x=20))
    expected = matrix(weight.broadcast_like(obj).transpose(*obj.dims), stack.layout)
    lazy = ordered("weights", given, stack.layout, lazily=True)
    assert lazy.numblocks == (6, 1)
    np.testing.assert_array_equal(lazy, expected)
    np.testing.assert_array_equal(ordered("weights", given, stack.layout), expected)
    with pytest.raises(ValueError, match=r"weights have the lengths .*'lat'"):
        ordered("weights", weight.expand_dims("lat"), stack.layout)


def test_a_fit_takes_weights_on_dims(small_tiles):
    obj = scene()
    weight = xr.DataArray(np.random.default_rng(0).random((2, 40, 60)), dims=("time", "y", "x"))
    here = fitted(obj, fit={"weights": weight})
    there = fitted(obj.chunk(y=20, x=20), fit={"weights": weight.chunk(y=10, x=30)})
    np.testing.assert_allclose(there.endmember, here.endmember, rtol=1e-3, atol=1e-3)
    assert not np.allclose(fitted(obj).endmember, here.endmember, rtol=1e-3)


def test_weights_on_dims_go_to_rows_and_columns():
    obj = scene()
    layout = Stack(obj.chunk(y=8, x=60)).layout
    tall = obj.isel(time=0, band=0, drop=True)
    np.testing.assert_array_equal(
        ordered("sample_weight", tall.T, layout), layout.rows(tall.to_numpy()[None])[:, 0]
    )
    wide = obj.isel(y=0, x=0, drop=True)
    np.testing.assert_array_equal(ordered("feature_weight", wide.T, layout), wide.to_numpy().reshape(-1))
    with pytest.raises(ValueError, match=r"sample_weight goes from 0\.0 to 390\.0 along 'y'"):
        ordered("sample_weight", tall.isel(y=slice(None, None, -1)), layout)
    with pytest.raises(ValueError, match=r"a weight has the dims \['time'\]"):
        ordered("sample_weight", obj.isel(y=0, x=0, band=0), layout)


def test_known_endmembers_are_told_by_their_coordinates():
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
