"""The drawn stack: the images that its docstring promises, in a store that xarray reads."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

if importlib.util.find_spec("xarray") is None:
    pytest.skip("xarray is not installed", allow_module_level=True)

import xarray as xr

from benchmarks import stack
from benchmarks.stack import SIZES, Stack

SMALL = SIZES["small"]
ROWS, COLUMNS = (np.arange(length) for length in SMALL.shape[2:])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return stack.write(SMALL, tmp_path_factory.mktemp("stack") / "stack.zarr")


@pytest.fixture(scope="module")
def values(stored):
    return zarr.open_array(stored, path=stack.VARIABLE, mode="r")[...]


def test_xarray_reads_clouds_as_missing(stored, values):
    scene = xr.open_zarr(stored, consolidated=False)[stack.VARIABLE]
    assert scene.dims == ("time", "band", "y", "x")
    assert scene.shape == SMALL.shape
    assert scene.encoding["dtype"] == np.uint16
    assert scene.encoding["_FillValue"] == stack.NODATA
    assert scene.encoding["chunks"] == (1, 1, SMALL.tile, SMALL.tile)
    for name in scene.dims:
        assert scene.indexes[name].is_unique
    assert np.array_equal(scene.isnull(), values == 0)


def test_clouds_hide_their_share_of_all_bands_and_move(values):
    cloudy = values == stack.NODATA
    assert (cloudy == cloudy[:, :1]).all()
    np.testing.assert_allclose(cloudy.mean(axis=(1, 2, 3)), SMALL.missing, atol=0.02)
    both = (cloudy[0, 0] & cloudy[1, 0]).mean()
    assert both < 0.8 * SMALL.missing
    # Blobs: next to a cloud there is nearly always a cloud.
    assert (cloudy[..., 1:] == cloudy[..., :-1]).mean() > 0.95


def test_abundances_add_up_to_one_and_do_not_depend_on_the_window():
    whole = SMALL.abundances(ROWS, COLUMNS)
    assert whole.shape == (SMALL.n_components, *SMALL.shape[2:])
    np.testing.assert_allclose(whole.sum(axis=0), 1, rtol=1e-5)
    window = SMALL.abundances(ROWS[100:170], COLUMNS[33:50])
    np.testing.assert_allclose(window, whole[:, 100:170, 33:50], rtol=1e-4, atol=1e-6)
    neighbours, strangers = (np.abs(whole - np.roll(whole, shift, axis=1)).mean() for shift in (1, 150))
    assert neighbours < 0.25 * strangers
    assert (whole.max(axis=(1, 2)) > 0.9).all()


def test_observed_values_are_the_planted_product_and_noise(stored, values):
    planted = stack.planted_endmembers(stored)
    assert np.linalg.matrix_rank(planted.reshape(SMALL.n_components, -1)) == SMALL.n_components
    product = np.tensordot(planted.transpose(1, 2, 0), SMALL.abundances(ROWS, COLUMNS), axes=1)
    residual = (values - product)[values > 1]
    assert residual.std() == pytest.approx(30, rel=0.02)
    assert abs(residual.mean()) < 1


@pytest.mark.slow
def test_store_is_the_same_for_any_threads_and_is_reused(stored, values, tmp_path):
    one = stack.write(SMALL, tmp_path / "one.zarr", threads=1)
    assert np.array_equal(zarr.open_array(one, path=stack.VARIABLE, mode="r")[...], values)
    before = stack.described(one)
    stack.write(Stack((1, 1, 70, 70), 64), one)
    assert stack.described(one) == before


def test_command_describes_what_it_drew(stored, tmp_path):
    out = tmp_path / "out.json"
    arguments = [str(stored), "--size", "small", "--out", str(out)]
    result = CliRunner().invoke(stack.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["shape"], row["tile"]) == ("4x3x300x300", "1x1x128x128")
    assert 0.05 < row["stored GB"] / row["decoded GB"] < 0.8
