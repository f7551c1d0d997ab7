"""Runs of stacks: stored layouts, and refusal to resume with another stack."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, open_run
from dasknmf.errors import RunDamagedError, RunMismatchError
from dasknmf.stacks import StackNMF
from dasknmf.store import keys
from tests.stacks.draw import PARAMETERS, UNSTABLE, fitted, matrix, scene

pytestmark = pytest.mark.filterwarnings(UNSTABLE)


def test_a_run_knows_its_stack(small_tiles, tmp_path):
    obj = scene()
    run = tmp_path / "run"
    model = fitted(obj.chunk(y=20, x=20), fit={"checkpoint": run})
    found = open_run(run)
    assert found.layout.sample_dims == ("y", "x")
    np.testing.assert_array_equal(found.layout.images(found.rows.compute()), model.abundance)
    np.testing.assert_array_equal(found.layout.spectra(found.H), model.endmember)
    again = StackNMF.from_run(run)
    xr.testing.assert_identical(again.abundance.load(), model.abundance.load())
    xr.testing.assert_identical(again.endmember, model.endmember)
    xr.testing.assert_identical(again.to_dataset()["sun"], model.to_dataset()["sun"])


def test_W_of_a_run_is_one_layer_of_a_graph(small_tiles, tmp_path):
    """Whoever takes panel after panel would look through all layers each time."""
    model = fitted(scene().chunk(y=20, x=20), fit={"checkpoint": tmp_path / "run"})
    W = open_run(tmp_path / "run").rows
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
    with pytest.raises(RunMismatchError, match="sample dims: y=40 x=60 in the run, x=40 y=60 now"):
        fitted(
            obj.rename(x="y", y="x").transpose("time", "band", "x", "y"),
            fit={"checkpoint": run, "sample_dims": ("x", "y")},
        )
    with pytest.raises(RunMismatchError, match=r"B00' became '.* blue'"):
        fitted(obj.assign_coords(band=["blue", "B01", "B02"]), fit={"checkpoint": run})
    keys.delete(keys.opened(run), "layout")
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
