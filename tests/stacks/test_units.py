"""Units of stacks: a scale that one of two has, and fractions that cannot sum to one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF
from dasknmf.stacks import StackNMF

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"
)
RNG = np.random.default_rng(0)
E = RNG.random((3, 6)) + 0.1
FRACTIONS = RNG.dirichlet(np.ones(3), (12, 10))
SCENE = xr.DataArray(np.moveaxis(FRACTIONS @ E, -1, 0), dims=("band", "y", "x"))
COUNTS = xr.DataArray((SCENE.to_numpy() * 1e4).astype("uint16"), dims=SCENE.dims)
SCALED = COUNTS.assign_attrs(scale_factor=1e-4)
PARAMETERS = {"random_state": 0, "max_iter": 5}


@pytest.mark.parametrize(("fitted", "other"), [(SCALED, COUNTS), (COUNTS, SCALED)])
def test_a_scale_of_one_of_both_is_named(tmp_path, fitted, other):
    model = StackNMF(3, **PARAMETERS).fit(fitted, checkpoint=tmp_path / "run")
    for each in (model, StackNMF.from_run(tmp_path / "run")):
        with pytest.warns(UserWarning, match="the scene has scale and offset .* the stack of the fit had"):
            each.transform(other)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            each.transform(fitted)
            each.transform(SCENE)  # floats are in their own units
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        StackNMF(3, **PARAMETERS).fit(SCENE).transform(SCALED)


@pytest.mark.parametrize("lazy", [False, True])
def test_sums_that_cannot_be_one_are_named(lazy):
    model = StackNMF(3, sum_to_one=True, fixed_components=E, **PARAMETERS).fit(SCENE)
    scene = SCENE.chunk(y=6) if lazy else SCENE
    with pytest.warns(UserWarning, match=r"rows of W sum to \S+ on average, and sum_to_one makes them 1"):
        model.transform(scene * 1e4).compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sums = model.transform(scene).sum("component")
    np.testing.assert_allclose(sums, 1, atol=1e-2)
    with pytest.warns(UserWarning, match="rows of W sum to 0.000"):
        StackNMF(3, sum_to_one=True, fixed_components=E * 1e4, **PARAMETERS).fit(scene)


def test_weighted_rows_sum_to_one():
    V, weight = FRACTIONS.reshape(-1, 3) @ E, RNG.integers(1, 5, 120).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        NMF(3, sum_to_one=True, **PARAMETERS).fit(V, sample_weight=weight)
