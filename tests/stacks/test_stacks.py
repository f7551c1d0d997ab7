"""Stacks of images: read as they are stored, and factorized."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF
from dasknmf.errors import SourceError
from dasknmf.stacks import Stack, open_stack
from dasknmf.stacks.reorder import ordered
from tests.helpers import computing
from tests.stacks.draw import PARAMETERS, UNSTABLE, as_variables, fitted, matrix, scene, slabs_of, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

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
    with pytest.raises(ValueError, match=r"sample_weight has the dims \['time'\]"):
        ordered("sample_weight", obj.isel(y=0, x=0, band=0), layout)
