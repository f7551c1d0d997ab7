"""Missing values: only what is observed counts, whatever stands for the rest."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest

from dasknmf import NMF, open_run
from dasknmf.errors import RunMismatchError
from dasknmf.solvers import filled
from tests.helpers import ALGORITHMS, BETAS, DyingStore, Killed, fitted, stored
from tests.loops import Elastic, Weighted

N, M, K = 23, 9, 3
PENALTIES = [
    {},
    {"alpha_W": 0.004, "alpha_H": 0.002, "l1_ratio": 1.0},
    {"alpha_W": 0.02, "alpha_H": 0.01, "l1_ratio": 0.4},
]
MASKS = ["nan", "number", "bool", "float", "all"]


@pytest.fixture
def start():
    rng = np.random.default_rng(3)
    return {"W": rng.random((N, K)) + 0.1, "H": rng.random((K, M)) + 0.1}


@pytest.fixture
def V():
    rng = np.random.default_rng(5)
    return rng.random((N, K)) @ rng.random((K, M)) + 0.2 * rng.random((N, M)) + 0.05


@pytest.fixture
def seen():
    return np.random.default_rng(6).random((N, M)) < 0.7


def given_as(mask: str, V: np.ndarray, seen: np.ndarray):
    """X, the parameter, what `fit` is given, and the weights of entries, rows and columns that follow."""
    rng = np.random.default_rng(8)
    omega = rng.choice([0.0, 0.5, 1.0, 1.0, 2.0], V.shape)
    omega[:, :4] = np.maximum(omega[:, :4], 0.5)  # rows of fewer entries than components have many minima
    n, m = V.shape
    seen = seen | (np.arange(m) < 4)
    a, b = rng.random(n) + 0.5, rng.random(m) + 0.5
    ones = (np.ones(n), np.ones(m))
    nan = np.where(seen, V, np.nan)
    if mask == "nan":
        return nan, {"missing_values": "nan"}, {}, (seen * 1.0, *ones)
    if mask == "number":
        return np.where(seen, V, -9.0), {"missing_values": -9.0}, {}, (seen * 1.0, *ones)
    if mask == "bool":
        return V, {}, {"weights": seen}, (seen * 1.0, *ones)
    if mask == "float":
        return V, {}, {"weights": omega}, (omega, *ones)
    weights = {"weights": omega, "sample_weight": a, "feature_weight": b}
    return nan, {"missing_values": np.nan}, weights, (seen * omega, a, b)


def penalised(penalty, a, b) -> dict[str, Elastic]:
    alpha_W, alpha_H, share = (penalty.get(name, 0.0) for name in ("alpha_W", "alpha_H", "l1_ratio"))
    return {
        "of_W": Elastic(b.sum() * alpha_W * share, b.sum() * alpha_W * (1 - share)),
        "of_H": Elastic(a.sum() * alpha_H * share, a.sum() * alpha_H * (1 - share)),
    }


@pytest.mark.parametrize("penalty", PENALTIES, ids=["plain", "l1", "both"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_iterates_are_those_of_loops_over_the_entries(V, seen, start, solver, beta, mask, penalty):
    X, parameters, given, (omega, a, b) = given_as(mask, V, seen)
    run = start | given
    ours, W = fitted(
        X,
        run=run,
        n_components=K,
        init="custom",
        solver=solver,
        beta_loss=beta,
        inner_iter=1,
        max_iter=4,
        tol=0,
        **parameters,
        **penalty,
    )
    loops = Weighted(V, omega, a, b, **start, beta=beta, **penalised(penalty, a, b)).iterate(solver, 4)
    np.testing.assert_allclose(W, loops.W, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.components_, loops.H, rtol=1e-8, atol=1e-10)
    assert ours.history_[-1].loss == pytest.approx(loops.loss, rel=1e-8)
    assert ours.history_[-1].objective == pytest.approx(loops.objective, rel=1e-8)


@pytest.mark.parametrize("solver", ["cd", "bpp", "mu"])
@pytest.mark.parametrize("mask", ["nan", "all"])
def test_entries_that_are_filled_in_are_filled_in_from_the_pair(monkeypatch, V, seen, start, solver, mask):
    monkeypatch.setattr(filled, "MOST_COMPONENTS", 0)
    X, parameters, given, (omega, a, b) = given_as(mask, V, seen)
    if "weights" in given:
        given["weights"], omega = given["weights"] / 2, omega / 2  # at most 1
    ours, W = fitted(
        X,
        run=start | given,
        n_components=K,
        init="custom",
        solver=solver,
        inner_iter=1,
        max_iter=3,
        tol=0,
        **parameters,
    )
    loops = Weighted(V, np.ones_like(V), a, b, **start)
    whole = np.where(omega > 0, V, 0)

    def fill():
        loops.V = omega * whole + (1 - omega) * (loops.W @ loops.H)

    for _ in range(3):
        for _ in range(3):
            fill()
            H = loops.H.copy()
            loops.iterate(solver)
            loops.H = H
        fill()
        W_there = loops.W.copy()
        loops.H = Weighted(loops.V.T, np.ones_like(V.T), b, a, loops.H.T, loops.W.T).iterate(solver).W.T.copy()
        loops.W = W_there
    np.testing.assert_allclose(W, loops.W, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.components_, loops.H, rtol=1e-8, atol=1e-10)
    loops.V, loops.omega = whole, omega
    assert ours.history_[-1].loss == pytest.approx(loops.loss, rel=1e-8)


@pytest.mark.parametrize("mask", ["nan", "number", "bool", "float"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_a_mask_that_hides_nothing_is_none(V, start, solver, beta, mask):
    given = {"bool": {"weights": np.ones(V.shape, bool)}, "float": {"weights": np.ones(V.shape)}}.get(mask, {})
    missing = {"nan": np.nan, "number": -1.0}.get(mask, "error")
    parameters = {"n_components": K, "init": "custom", "solver": solver, "beta_loss": beta, "tol": 0}
    plain, W_plain = fitted(V, run=start, **parameters)
    masked, W = fitted(V, run=start | given, missing_values=missing, **parameters)
    np.testing.assert_allclose(W, W_plain, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(masked.components_, plain.components_, rtol=1e-9, atol=1e-11)
    assert masked.reconstruction_err_ == pytest.approx(plain.reconstruction_err_, rel=1e-10)


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0), ("mu", 0.5)])
@pytest.mark.parametrize("init", ["sample", "random", "nndsvda"])
def test_however_missing_values_are_told(V, seen, solver, beta, init):
    fits = []
    for mask in ("nan", "number", "bool"):
        X, parameters, given, _ = given_as(mask, V, seen)
        parameters |= {"n_components": K, "init": init, "solver": solver, "beta_loss": beta}
        fits.append(fitted(X, run=given, **parameters))
    for other, W in fits[1:]:
        np.testing.assert_array_equal(W, fits[0][1])
        np.testing.assert_array_equal(other.components_, fits[0][0].components_)


@pytest.mark.parametrize("init", ["sample", "random"])
@pytest.mark.parametrize("nodata", [0, 65535])
@pytest.mark.parametrize("layout", ["rows", "columns", "chunked", "zarr"])
def test_integers_with_nodata_are_floats_with_nan(V, seen, tmp_path, small_panels, nodata, layout, init):
    counts = 1 + np.round(1000 * V)
    floats = np.where(seen, counts, np.nan).astype(np.float32)
    stored_values = np.where(seen, counts, nodata).astype(np.uint16)
    X = {
        "rows": lambda: stored_values,
        "columns": lambda: np.asfortranarray(stored_values),
        "chunked": lambda: da.from_array(stored_values, chunks=(7, 4)),
        "zarr": lambda: stored(tmp_path / "v.zarr", stored_values, (7, 4)),
    }[layout]()
    parameters = {"n_components": K, "inner_iter": 3, "init": init}
    expected, W_expected = fitted(floats, missing_values="nan", **parameters)
    ours, W = fitted(X, missing_values=nodata, **parameters)
    assert ours.components_.dtype == np.float32
    np.testing.assert_allclose(W, W_expected, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(ours.components_, expected.components_, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0), ("mu", 0.5)])
@pytest.mark.parametrize("mask", ["nan", "all"])
def test_rows_may_be_stored_by_features(V, seen, start, solver, beta, mask):
    X, parameters, given, _ = given_as(mask, V, seen)
    parameters |= {"n_components": K, "init": "custom", "solver": solver, "beta_loss": beta, "inner_iter": 2}
    one, W_one = fitted(X, run=start | given, **parameters)
    given |= {name: np.asfortranarray(each) for name, each in given.items()}
    other, W_other = fitted(np.asfortranarray(X), run=start | given, **parameters)
    np.testing.assert_allclose(W_other, W_one, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(other.components_, one.components_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 1.0), ("mu", 2.5)])
def test_a_wide_matrix_is_worked_on_in_exchanged_roles(V, seen, start, solver, beta, mask):
    X, parameters, given, _ = given_as(mask, V, seen)
    parameters |= {"n_components": K, "init": "custom", "solver": solver, "beta_loss": beta, "inner_iter": 3}
    penalty = {"alpha_W": 0.02, "alpha_H": 0.03, "l1_ratio": 0.5}
    turned = {"alpha_W": 0.03, "alpha_H": 0.02, "l1_ratio": 0.5}
    tall, W_tall = fitted(X, run=start | given, **parameters, **penalty)
    names = {"sample_weight": "feature_weight", "feature_weight": "sample_weight", "weights": "weights"}
    given = {names[name]: each.T for name, each in given.items()}
    given |= {"W": start["H"].T.copy(), "H": start["W"].T.copy()}
    wide, W_wide = fitted(X.T, run=given, **parameters, **turned)
    np.testing.assert_allclose(wide.components_.T, W_tall, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(W_wide.T, tall.components_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 1.0), ("mu", 0.0)])
def test_chunks_do_not_matter(small_panels, tmp_path, V, seen, solver, beta, mask):
    X, parameters, given, _ = given_as(mask, V, seen)
    for init in ("random", "sample", "nndsvda"):
        parameters |= {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "inner_iter": 2}
        one, W_one = fitted(X, run=given, **parameters)
        cut = {name: da.from_array(each, chunks=(5, 4)) if each.ndim == 2 else each for name, each in given.items()}
        zarr_given = dict(given)
        if "weights" in given:
            zarr_given["weights"] = stored(tmp_path / f"{init}.zarr", given["weights"], (6, 5))
        for X_cut, told in [
            (da.from_array(X, chunks=(7, 4)), cut),
            (stored(tmp_path / f"v{init}.zarr", X, (8, 3)), given),
            (da.from_array(X, chunks=(11, 9)), zarr_given),
            (X, zarr_given),
            (X, cut),
        ]:
            other, W_other = fitted(X_cut, run=told, **parameters)
            np.testing.assert_allclose(W_other, W_one, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(other.components_, one.components_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0)])
def test_schedulers_give_the_same_bits(small_panels, cluster, tmp_path, V, seen, solver, beta):
    X, parameters, given, _ = given_as("all", V, seen)
    array = stored(tmp_path / "v.zarr", X, (8, 3))
    given["weights"] = stored(tmp_path / "weights.zarr", given["weights"], (6, 5))
    parameters |= {"n_components": K, "solver": solver, "beta_loss": beta, "init": "sample", "max_iter": 3}
    one, W_one = fitted(array, "synchronous", given, **parameters)
    for scheduler in ("threads", cluster):
        other, W_other = fitted(array, scheduler, given, **parameters)
        np.testing.assert_array_equal(W_other, W_one)
        np.testing.assert_array_equal(other.components_, one.components_)
    for stage in ("memory", tmp_path / "stage"):
        other, W_other = fitted(array, run=given | {"stage": stage}, **parameters)
        np.testing.assert_array_equal(W_other, W_one)
        np.testing.assert_array_equal(other.components_, one.components_)


@pytest.mark.parametrize("mask", ["nan", "float", "all"])
@pytest.mark.parametrize(
    ("solver", "beta", "k"),
    [*((solver, beta, K) for solver, beta in ALGORITHMS), ("cd", 2.0, 18), ("bpp", 2.0, 18), ("mu", 2.0, 18)],
)
def test_the_objective_never_rises(solver, beta, mask, k):
    rng = np.random.default_rng(4)
    V = rng.random((N, 3 * M)) + 0.05 if k > K else rng.random((N, M)) + 0.05
    seen = rng.random(V.shape) < 0.8
    X, parameters, given, _ = given_as(mask, V, seen)
    if "weights" in given:
        given["weights"] = given["weights"] / 2
    for init in ("random", "sample"):
        for penalty in PENALTIES[::2]:
            model, _ = fitted(
                X,
                run=given,
                n_components=k,
                init=init,
                solver=solver,
                beta_loss=beta,
                max_iter=15,
                tol=0,
                **parameters,
                **penalty,
            )
            objective = np.array([r.objective for r in model.history_ if r.objective is not None])
            slack = 1e-12 * (V**2).sum() + 1e-10 * np.abs(objective[:-1])
            assert (np.diff(objective) <= slack).all()


@pytest.mark.parametrize("seed", range(3))
def test_hidden_entries_of_an_exact_matrix_are_recovered(seed):
    rng = np.random.default_rng(seed)
    V = rng.random((500, 5)) @ rng.random((5, 200))
    seen = rng.random(V.shape) >= 0.3
    model, W = fitted(np.where(seen, V, np.nan), n_components=5, missing_values="nan", max_iter=100)
    P = model.inverse_transform(W)
    assert np.linalg.norm((P - V)[~seen]) <= 1e-3 * np.linalg.norm(V[~seen])
    assert len(model.history_.exact) <= 100


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0), ("mu", 0.5)])
@pytest.mark.parametrize("k", [3, 18])
@pytest.mark.parametrize("init", ["sample", "random", "nndsvda", "custom"])
def test_rows_and_columns_of_which_nothing_is_observed(V, seen, solver, beta, init, k):
    X = np.where(seen, V, np.nan)
    X[[2, 11]] = np.nan
    X[:, 4] = np.nan
    k = min(k, M) if init == "nndsvda" else k
    rng = np.random.default_rng(1)
    run = {"W": rng.random((N, k)), "H": rng.random((k, M))} if init == "custom" else {}
    with pytest.warns(UserWarning, match="2 rows and 1 columns of X have nothing observed"):
        model, W = fitted(
            X, run=run, n_components=k, solver=solver, beta_loss=beta, init=init, missing_values="nan"
        )
    assert (model.n_unobserved_samples_, model.n_unobserved_features_) == (2, 1)
    assert not W[[2, 11]].any()
    assert not model.components_[:, 4].any()
    assert np.isfinite(W).all() and np.isfinite(model.components_).all()
    with pytest.warns(UserWarning, match="1 rows and 2 columns of X have nothing observed"):
        turned = NMF(k, solver=solver, beta_loss=beta, missing_values="nan", init="random", tol=0, max_iter=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Maximum number")
            warnings.filterwarnings("ignore", message="components .* are zero throughout")
            turned.fit(X.T)
    assert (turned.n_unobserved_samples_, turned.n_unobserved_features_) == (1, 2)


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
