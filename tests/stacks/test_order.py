"""Rows come back in the order of the raster, however the stack is cut into tiles."""

from __future__ import annotations

import numpy as np
import pytest

from dasknmf import NMF, open_run, open_sweep, plots, rank_sweep
from dasknmf.stacks import Stack, StackNMF
from tests.stacks.draw import PARAMETERS, fitted, scene


@pytest.fixture
def stack(small_tiles):
    found = scene().chunk(y=20, x=20)
    assert not Stack(found).layout.tiles.in_order
    return found


def as_rows(maps):
    return maps.transpose("y", "x", "component").to_numpy().reshape(-1, maps.sizes["component"])


def test_rows_are_in_raster_order(tmp_path, stack):
    model = fitted(stack, fit={"checkpoint": tmp_path / "run"})
    maps = as_rows(model.abundance)
    run = open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.W, maps)
    np.testing.assert_array_equal(
        run.rows, model.layout.rows(model.abundance.transpose("component", "y", "x").to_numpy())
    )
    np.testing.assert_array_equal(as_rows(StackNMF.from_run(run).abundance), maps)
    np.testing.assert_array_equal(
        plots.sources.images_of(run, None), model.abundance.transpose("component", "y", "x")
    )
    with pytest.warns(match="Maximum number"):
        W = NMF(3, **PARAMETERS | {"tol": 1e-9}).fit_transform(Stack(stack))
    np.testing.assert_allclose(W, maps, rtol=1e-3, atol=1e-3)
    coded = model.model_.transform(Stack(stack))
    np.testing.assert_array_equal(coded, as_rows(model.transform(stack)))


def test_errors_are_a_map(stack):
    model = fitted(stack)
    errors = model.score_samples(stack)
    assert errors.dims == ("y", "x")
    np.testing.assert_array_equal(model.model_.score_samples(Stack(stack)), errors.to_numpy().reshape(-1))
    best = model.inverse_transform(model.transform(stack))
    np.testing.assert_allclose(errors, ((stack - best) ** 2).sum(("time", "band")) / 2, rtol=1e-3)
    np.testing.assert_allclose(model.score_samples(stack.compute()), errors, rtol=1e-5)


def test_W_of_a_sweep_is_in_raster_order(tmp_path, stack):
    place = tmp_path / "run"
    sweep = rank_sweep(Stack(stack), [2, 3], n_init=2, max_iter=5, random_state=0, checkpoint=place)
    V = (
        stack.transpose("y", "x", "time", "band")
        .to_numpy()
        .reshape(-1, stack.sizes["time"] * stack.sizes["band"])
    )
    reconstruction = np.asarray(sweep.W) @ sweep.components
    assert np.linalg.norm(V - reconstruction) < 0.3 * np.linalg.norm(V)
    np.testing.assert_array_equal(open_sweep(place).W, sweep.W)
