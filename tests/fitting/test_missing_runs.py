"""Missing values in runs that are resumed and in new rows."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from dasknmf import NMF, open_run
from dasknmf.errors import RunMismatchError
from tests.core.loops import given_as
from tests.helpers import BETAS, DyingStore, Killed, fitted, stored

N, M, K = 23, 9, 3


@pytest.fixture
def V():
    rng = np.random.default_rng(5)
    return rng.random((N, K)) @ rng.random((K, M)) + 0.2 * rng.random((N, M)) + 0.05


@pytest.fixture
def seen():
    return np.random.default_rng(6).random((N, M)) < 0.7


def test_a_killed_run_goes_on_as_if_nothing_had_been(small_panels, tmp_path, V, seen):
    X, parameters, given, _ = given_as("all", V, seen)
    array = stored(tmp_path / "v.zarr", X, (8, 3))
    parameters |= {"n_components": K, "max_iter": 4, "init": "sample"}
    given["holdout"] = 0.1
    quiet, W_quiet = fitted(array, run=given | {"checkpoint": tmp_path / "quiet"}, **parameters)
    counting = DyingStore(tmp_path / "counting")
    fitted(array, run=given | {"checkpoint": counting}, **parameters)
    for after in range(4, counting.writes, counting.writes // 4):
        path = tmp_path / f"run-{after}"
        with pytest.raises(Killed):
            fitted(array, "synchronous", given | {"checkpoint": DyingStore(path, after=after)}, **parameters)
        model, W = fitted(array, run=given | {"checkpoint": path}, **parameters)
        np.testing.assert_array_equal(W, W_quiet)
        np.testing.assert_array_equal(model.components_, quiet.components_)
        assert model.history_[-1].measures == quiet.history_[-1].measures


def test_a_run_is_of_one_mask(tmp_path, V, seen):
    X, _, given, _ = given_as("all", V, seen)
    known = {"fixed_components": np.ones((1, M))}
    common = {"n_components": K, "missing_values": "nan", **known}
    run = given | {"checkpoint": tmp_path / "run", "holdout": 0.1}
    fitted(X, run=run, **common)
    fitted(X, run=run, **common)
    for parameters, told in [
        (common | {"missing_values": -1.0}, run),
        (common | {"fixed_components": 2 * np.ones((1, M))}, run),
        (common | {"fixed_components": None}, run),
        (common | {"sum_to_one": True}, run),
        (common, run | {"holdout": 0.2}),
        (common, run | {"holdout": None}),
        (common, run | {"weights": 2 * given["weights"]}),
        (common, run | {"weights": None}),
        (common, run | {"sample_weight": None}),
        (common, run | {"feature_weight": given["feature_weight"][::-1]}),
    ]:
        X_told = np.where(np.isnan(X), -1.0, X) if parameters["missing_values"] == -1.0 else X
        with pytest.raises(RunMismatchError):
            fitted(X_told, run=told, **parameters)
    assert open_run(tmp_path / "run").status == "max_iter"


@pytest.mark.parametrize(
    ("given", "beta"), [*(("memory", beta) for beta in BETAS), ("dask", 2.0), ("dask", 1.0), ("zarr", 2.0)]
)
def test_new_rows_are_solved_for_what_is_observed_of_them(tmp_path, V, seen, beta, given):
    X = np.where(seen, V, np.nan)
    model, _ = fitted(V, n_components=K, beta_loss=beta, max_iter=30)
    model.set_params(missing_values="nan", max_iter=2000, tol=1e-7)
    X[4] = np.nan
    rows = {
        "memory": lambda: X,
        "dask": lambda: da.from_array(X, chunks=(6, 4)),
        "zarr": lambda: stored(tmp_path / "x.zarr", X, (6, 4)),
    }[given]()
    W, scores = model.transform(rows), model.score_samples(rows)
    assert isinstance(W, da.Array) == isinstance(scores, da.Array) == (given != "memory")
    W, scores = np.asarray(W), np.asarray(scores)
    assert not W[4].any()
    assert scores[4] == pytest.approx(0, abs=1e-10)
    for i in (0, 7, 15):
        here = ~np.isnan(X[i])
        cut = NMF(K, beta_loss=beta, max_iter=2000, tol=1e-7)
        cut.components_, cut.n_features_in_ = model.components_[:, here], int(here.sum())
        np.testing.assert_allclose(W[i], cut.transform(X[i : i + 1, here])[0], rtol=1e-4, atol=1e-5)
        assert scores[i] == pytest.approx(cut.score_samples(X[i : i + 1, here])[0], rel=1e-5, abs=1e-12)
        np.testing.assert_allclose(np.asarray(model.transform(X[i : i + 1]))[0], W[i], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.inverse_transform(W), W @ model.components_)


def test_a_run_knows_what_stood_for_missing_values(tmp_path, V, seen):
    for missing, X in (("nan", np.where(seen, V, np.nan)), (-3.0, np.where(seen, V, -3.0))):
        run = {"checkpoint": tmp_path / f"{missing}"}
        known = {"fixed_components": np.ones((1, M)), "sum_to_one": True, "inner_iter": 2}
        model, _ = fitted(X, run=run, n_components=K, missing_values=missing, **known)
        again = NMF.from_run(tmp_path / f"{missing}")
        np.testing.assert_array_equal(again.transform(X), model.transform(X))
