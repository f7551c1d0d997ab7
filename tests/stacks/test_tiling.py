"""Tilings of one stack: the same maps, spectra and losses as its raster."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, Prepared
from dasknmf.core import panels
from dasknmf.core.blocks.entries import Holdout
from dasknmf.core.image_grid import Tiles
from dasknmf.core.starts.random_start import DRAW_STREAM, uniform_rows
from dasknmf.core.starts.trial import Trial
from dasknmf.errors import RunMismatchError
from dasknmf.stacks import Stack, StackNMF, open_stack
from dasknmf.stacks import stack as stacking
from tests.stacks.draw import UNSTABLE, scene, write

pytestmark = pytest.mark.filterwarnings(UNSTABLE)

HEIGHT, WIDTH = 27, 32
FEATURES = ("time", "band")
K = 3
SOLVERS = [("cd", 2.0), ("mu", 2.0), ("mu", 1.0)]
INITS = ["random", "sample", "nndsvda"]


def _scene(*, holes: bool) -> xr.DataArray:
    obj = scene((2, 3, HEIGHT, WIDTH), "float64", K)
    clouds = np.random.default_rng(2).random((2, 1, HEIGHT, WIDTH)) < 0.25
    return obj.where(~clouds) if holes else obj


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Of a scene without and with missing entries: the same, cut in five ways."""
    found = {}
    for holes in (False, True):
        obj = _scene(holes=holes)
        where = tmp_path_factory.mktemp("stacks")
        found[holes] = [
            obj,
            obj.chunk(time=1, band=-1, y=14, x=16),
            obj.chunk(time=2, band=2, y=(3, 17, 7), x=(21, 2, 9)),
            open_stack(write(obj, where / "tall", (1, 1, HEIGHT, 8))),
            open_stack(write(obj, where / "odd", (2, 3, 10, 13))),
        ]
    return found


@pytest.fixture(autouse=True)
def tiles_are_panels(monkeypatch):
    """Stored tiles are not joined; in memory, a tile is some rows of the scene."""
    monkeypatch.setattr(stacking, "_TILE_BYTES", 8 * WIDTH * 2 * 3 * 8)
    monkeypatch.setattr(panels, "_PANEL_BYTES", (1, 2))
    monkeypatch.setattr(panels, "_PANELS", 10**6)


def raster(obj: xr.DataArray) -> np.ndarray:
    return obj.transpose("y", "x", *FEATURES).to_numpy().reshape(HEIGHT * WIDTH, -1)


def parameters(solver, beta, init, *, holes=False):
    # "auto" would update W of a V in memory as often as the others once, for losses that are not quadratic.
    found = {"solver": solver, "beta_loss": beta, "init": init, "inner_iter": 2 if beta == 1 else "auto"}
    found |= {"random_state": 3, "max_iter": 3, "tol": 0.0, "missing_values": "nan" if holes else "error"}
    return found | ({"sample_bytes": HEIGHT * WIDTH * 6 * 8 // 3} if init == "sample" else {})


def by_plain(V, k=K, fit=None, **given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="X has .* rows? without any observed entry")
        model = NMF(k, **given)
        return model, model.fit_transform(V, **(fit or {}))


def by_stack(obj, k=K, fit=None, **given) -> StackNMF:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="X has .* rows? without any observed entry")
        return StackNMF(k, **given).fit(obj, **(fit or {}))


def check_equal(found: StackNMF, plain: NMF, W: np.ndarray) -> None:
    images = W.T.reshape(-1, HEIGHT, WIDTH)
    np.testing.assert_allclose(found.abundance.fillna(0), images, rtol=1e-9, atol=1e-9 * images.max())
    gaps = ~images.any(axis=0) & (plain.n_unobserved_samples_ > 0)
    np.testing.assert_array_equal(found.abundance.isnull().all("component"), gaps)
    H = plain.components_
    np.testing.assert_allclose(found.model_.components_, H, rtol=1e-9, atol=1e-9 * H.max())
    np.testing.assert_allclose(found.model_.reconstruction_err_, plain.reconstruction_err_, rtol=1e-9)


@pytest.mark.parametrize("holes", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("solver", "beta"), SOLVERS)
def test_tiles_are_no_part_of_the_result(short_trials, stacks, solver, beta, init, holes):
    given = parameters(solver, beta, init, holes=holes)
    plain, W = by_plain(raster(_scene(holes=holes)), **given)
    for obj in stacks[holes]:
        check_equal(by_stack(obj, **given), plain, W)


@pytest.mark.parametrize("holes", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize(("solver", "beta"), SOLVERS)
def test_the_same_entries_are_hidden(stacks, solver, beta, holes):
    given = parameters(solver, beta, "random", holes=holes)
    fit = {"holdout": 0.1}
    plain, W = by_plain(raster(_scene(holes=holes)), fit=fit, **given)
    for obj in stacks[holes]:
        found = by_stack(obj, fit=fit, **given)
        check_equal(found, plain, W)
        ours, theirs = (model.history_.exact[-1].measures for model in (found.model_, plain))
        assert ours["hidden"] == theirs["hidden"]
        assert ours["holdout"] == pytest.approx(theirs["holdout"], rel=1e-9)


@pytest.mark.parametrize("init", ["random", "sample"])
def test_weights_stay_with_their_pixels(short_trials, stacks, init):
    rng = np.random.default_rng(4)
    obj = _scene(holes=False)
    a = xr.DataArray(rng.gamma(2.0, size=(WIDTH, HEIGHT)), dims=("x", "y"))
    b = rng.gamma(2.0, size=6)
    given = parameters("cd", 2.0, init)
    fit = {"sample_weight": a.transpose("y", "x").to_numpy().reshape(-1), "feature_weight": b}
    plain, W = by_plain(raster(obj), fit=fit, **given)
    for each in stacks[False]:
        check_equal(by_stack(each, fit={"sample_weight": a, "feature_weight": b}, **given), plain, W)


@pytest.mark.parametrize("init", ["sketch", "nndsvdar"])
def test_other_starts(stacks, init):
    given = parameters("cd", 2.0, init)
    plain, W = by_plain(raster(_scene(holes=False)), **given)
    for obj in stacks[False]:
        check_equal(by_stack(obj, **given), plain, W)


def test_rows_unlike_the_sample_are_the_same_rows(stacks, monkeypatch):
    """Pixels of the south are unlike the rest, and none of them was drawn: H is fitted once more."""
    given = parameters("cd", 2.0, "sample")
    share = 0.2
    given["sample_bytes"] = int(share * HEIGHT * WIDTH * 6 * 8)
    numbers = uniform_rows(given["random_state"], DRAW_STREAM, np.arange(HEIGHT * WIDTH))
    strange = (numbers >= share).reshape(HEIGHT, WIDTH) & (np.arange(HEIGHT) >= 18)[:, None]
    usual = xr.DataArray(~strange, dims=("y", "x"))
    snow = xr.DataArray(np.random.default_rng(5).gamma(0.3, 3e5, size=(2, 3)), dims=FEATURES)
    refitted = []
    of_rows = Trial.of_rows

    def recorded(trial, V, columns):
        refitted.append(V.copy())
        return of_rows(trial, V, columns)

    monkeypatch.setattr(Trial, "of_rows", recorded)
    plain, W = by_plain(raster(_scene(holes=False).where(usual, snow)), **given)
    expected, refitted[:] = list(refitted), []
    assert len(expected) == 2
    assert len(expected[0]) < len(expected[1])
    for obj in stacks[False]:
        check_equal(by_stack(obj.where(usual, snow), **given), plain, W)
        for V, same in zip(refitted, expected, strict=True):
            np.testing.assert_array_equal(V, same)
        refitted.clear()


def test_arrays_have_a_row_for_each_pixel_in_raster_order(stacks):
    rng = np.random.default_rng(6)
    a, start = rng.gamma(2.0, size=HEIGHT * WIDTH), rng.random((HEIGHT * WIDTH, K))
    fit = {"sample_weight": a, "weights": rng.random((HEIGHT * WIDTH, 6))}
    fit |= {"W": 100 * start, "H": rng.random((K, 6))}
    given = parameters("cd", 2.0, "custom")
    plain, W = by_plain(raster(_scene(holes=False)), fit=fit, **given)
    lazy = {name: da.from_array(fit[name], chunks=(100, -1)) for name in ("W", "weights")}
    for obj in stacks[False]:
        check_equal(by_stack(obj, fit=fit, **given), plain, W)
    check_equal(by_stack(stacks[False][1], fit=fit | lazy, **given), plain, W)
    with pytest.raises(ValueError, match="weights is a str, whose rows cannot be taken"):
        by_stack(stacks[False][1], fit={"weights": "weights.zarr"}, **given)


def test_a_run_does_not_go_on_with_rows_in_another_order(tmp_path, monkeypatch):
    """The grid may be the same, but the rows lie elsewhere."""
    monkeypatch.setattr(stacking, "_TILE_BYTES", 1)
    obj = scene((2, 3, 24, 24), "float64", K)
    given = parameters("cd", 2.0, "random")
    by_stack(obj.chunk(y=8, x=12), fit={"checkpoint": tmp_path / "run"}, **given)
    by_stack(obj.chunk(y=8, x=12), fit={"checkpoint": tmp_path / "run"}, **given | {"max_iter": 7})
    message = "rows in 3 x 2 tiles, the largest of 8 x 12 pixels, and the stack is now cut into 2 x 3"
    with pytest.raises(RunMismatchError, match=message):
        by_stack(obj.chunk(y=12, x=8), fit={"checkpoint": tmp_path / "run"}, **given | {"max_iter": 8})


def test_of_a_stack_that_is_prepared_too(stacks):
    """The rows of a Prepared stack come in raster order, and are the same."""
    given = parameters("cd", 2.0, "random")
    plain, W = by_plain(Prepared(raster(_scene(holes=False)), log1p=True), **given)
    for obj in stacks[False][1:]:
        found, W_there = by_plain(Prepared(Stack(obj), log1p=True), **given)
        np.testing.assert_allclose(found.components_, plain.components_, rtol=1e-9)
        np.testing.assert_allclose(np.asarray(W_there), W, rtol=1e-9, atol=1e-12)


def test_a_hidden_block_of_rows_goes_by_places():
    """A sparse V hides rows times columns."""
    tiles = Tiles(((3, 4), (5, 2, 4)))
    whole = Holdout(0.3, 1, 9).hidden_rows(0, tiles.n_rows)
    cut = np.concatenate([Holdout(0.3, 1, 9, rows=tiles).hidden_rows(first, 7) for first in range(0, 77, 7)])
    assert 0 < whole.sum() < len(whole)
    np.testing.assert_array_equal(tiles.images(cut[:, None])[0].reshape(-1), whole)
