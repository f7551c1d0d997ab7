"""Fixed components, and rows of W that sum to one."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from dasknmf import NMF
from tests.core.loops import Elastic, Weighted
from tests.helpers import ALGORITHMS, fitted, stored

N, M, K = 30, 10, 4


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return rng.random((N, K)), rng.random((K, M)) + 0.05


@pytest.fixture
def V(truth):
    W, H = truth
    return W @ H + 0.02 * np.random.default_rng(1).random((N, M))


@pytest.fixture
def fractions():
    """Pixels that are mixtures, some of them pure, and their endmembers."""
    rng = np.random.default_rng(3)
    W = rng.dirichlet(np.ones(3), 60)
    W[:3] = np.eye(3)
    return W, rng.random((3, 12)) + 0.1


@pytest.mark.parametrize("init", ["sample", "random", "nndsvd", "nndsvda", "custom"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_known_components_stay_bit_for_bit(short_trials, V, truth, solver, beta, init):
    known = truth[1][:2]
    rng = np.random.default_rng(5)
    run = {"W": rng.random((N, K)), "H": rng.random((K, M))} if init == "custom" else {}
    parameters = {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "max_iter": 5}
    seen = rng.random(V.shape) < 0.8
    for X, given in ((V, {}), (V, {"weights": seen, "holdout": 0.1})):
        model, W = fitted(X, run=run | given, fixed_components=known, **parameters)
        np.testing.assert_array_equal(model.components_[:2], known)
        assert W[:, :2].any()
        assert (model.components_[2:] != 0).any()
        objective = [r.objective for r in model.history_ if r.objective is not None]
        assert (np.diff(objective) <= 1e-10 * objective[0]).all()
        if not given and X is V and init == "sample":
            single, _ = fitted(
                X, run=given, fixed_components=known, **parameters | {"dtype": np.float32, "init": None}
            )
            np.testing.assert_array_equal(single.components_[:2], known.astype(np.float32))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_the_others_move_as_in_loops(V, truth, solver, beta, masked):
    rng = np.random.default_rng(5)
    omega = (rng.random(V.shape) < (0.8 if masked else 2)) * 1.0
    W, H = rng.random((N, K)) + 0.1, rng.random((K, M)) + 0.1
    known = truth[1][:2]
    ours, W_ours = fitted(
        V,
        run={"W": W, "H": H} | ({"weights": omega} if masked else {}),
        n_components=K,
        init="custom",
        solver=solver,
        beta_loss=beta,
        inner_iter=1,
        max_iter=3,
        tol=0,
        fixed_components=known,
        alpha_W=0.001,
    )
    H[:2] = known
    loops = Weighted(
        V, omega, np.ones(N), np.ones(M), W, H, beta, Elastic(0, 0.001 * M), Elastic(0, 0.001 * N)
    )
    loops.iterate(solver, 3, fixed=2)
    np.testing.assert_allclose(W_ours, loops.W, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.components_, loops.H, rtol=1e-8, atol=1e-10)
    assert ours.history_[-1].objective == pytest.approx(loops.objective, rel=1e-8)


@pytest.mark.parametrize(
    ("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0), ("mu", 0.5)]
)
def test_what_is_known_helps(V, truth, solver, beta):
    parameters = {"solver": solver, "beta_loss": beta, "max_iter": 200, "tol": 1e-6}
    free, _ = fitted(V, n_components=K, **parameters)
    beside, _ = fitted(V, n_components=K, fixed_components=truth[1][:2], **parameters)
    fewer, _ = fitted(V, n_components=2, **parameters)
    alone, _ = fitted(V, n_components=2, fixed_components=truth[1][:2], **parameters)
    assert beside.history_[-1].loss <= min(fewer.history_[-1].loss, alone.history_[-1].loss)
    assert beside.history_[-1].loss <= 3 * free.history_[-1].loss


@pytest.mark.parametrize("init", ["sample", "random", "custom"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0)])
def test_all_components_may_be_known(V, truth, solver, beta, missing, init):
    H = truth[1]
    rng = np.random.default_rng(2)
    X = V + 0.3 * rng.random(V.shape)
    X[missing & (rng.random(V.shape) < 0.2)] = np.nan
    run = {"W": np.ones((N, K)), "H": np.ones((K, M))} if init == "custom" else {}
    parameters = {"solver": solver, "beta_loss": beta, "init": init, "missing_values": "nan", "tol": 0}
    model, W = fitted(X, run=run, n_components=K, fixed_components=H, max_iter=100, **parameters)
    np.testing.assert_array_equal(model.components_, H)
    best = NMF(K, beta_loss=beta, missing_values="nan", tol=1e-8, max_iter=3000)
    best.components_, best.n_features_in_ = H, M
    scores = best.score_samples(X)
    assert scores.sum() * (1 - 1e-6) <= model.history_[-1].loss
    assert model.history_[-1].loss <= scores.sum() * {"mu": 1.5, "cd": 1.001, "bpp": 1 + 1e-9}[solver]
    if solver == "bpp":
        np.testing.assert_allclose(W, best.transform(X), rtol=1e-6, atol=1e-9)


def test_features_that_nobody_observed_keep_what_is_known(short_trials, V, truth):
    V[:, 3] = np.nan
    for solver, beta in ALGORITHMS:
        with pytest.warns(UserWarning, match="X has 1 column without any observed entry"):
            model, _ = fitted(
                V,
                n_components=K,
                solver=solver,
                beta_loss=beta,
                fixed_components=truth[1][:2],
                missing_values="nan",
                max_iter=2,
            )
        np.testing.assert_array_equal(model.components_[:2], truth[1][:2])
        assert not model.components_[2:, 3].any()


def test_roles_stay_where_rows_of_H_are_known(small_panels, tmp_path, V, truth):
    known = truth[1][:1]
    for X in (da.from_array(V, chunks=(N, 3)), stored(tmp_path / "v.zarr", V, (N, 4)), V[:6]):
        model, _ = fitted(X, n_components=3, fixed_components=known)
        np.testing.assert_array_equal(model.components_[:1], known)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (np.ones((2, M + 1)), "fixed_components has shape .* .at most 3, 10"),
        (np.ones((4, M)), "fixed_components has shape .* .at most 3, 10"),
        (np.ones(M), "fixed_components has shape"),
        (np.ones((0, M)), "fixed_components has shape"),
        (-np.ones((1, M)), "fixed_components has values that are negative"),
        (np.full((1, M), np.nan), "fixed_components has values that are negative, not finite or not real"),
        (np.full((1, M), "a"), "fixed_components has values .* not real"),
        (np.array([[1.0] * M, [0.0] * M]), "row 1 of fixed_components is zero throughout; .* leave it out"),
    ],
)
def test_components_that_cannot_be_known(V, fixed, message):
    with pytest.raises(ValueError, match=message):
        NMF(3, fixed_components=fixed).fit(V)


@pytest.mark.parametrize(("solver", "beta"), [("mu", 2.0), ("mu", 1.0), ("auto", 1.0), ("auto", 0.5)])
def test_sums_of_one_need_rows_that_are_solved(V, solver, beta):
    with pytest.raises(ValueError, match=r"sum_to_one needs the Frobenius loss .* solver 'cd' or 'bpp'"):
        NMF(3, solver=solver, beta_loss=beta, sum_to_one=True).fit(V)


@pytest.mark.parametrize("told", ["whole", "missing", "weighted", "hidden"])
@pytest.mark.parametrize("init", ["sample", "random", "nndsvda", "custom"])
@pytest.mark.parametrize("solver", ["cd", "bpp"])
def test_rows_sum_to_one(fractions, solver, init, told):
    rng = np.random.default_rng(6)
    truth, H = fractions
    V = truth @ H + 0.01 * rng.random((60, 12))
    run = {"W": rng.random((60, 3)), "H": rng.random((3, 12))} if init == "custom" else {}
    if told == "missing":
        V = np.where(rng.random(V.shape) < 0.8, V, np.nan)
    if told == "weighted":
        run |= {"sample_weight": rng.random(60) + 0.5, "weights": rng.choice([0.0, 0.5, 1.0], V.shape)}
    if told == "hidden":
        run["holdout"] = 0.1
    parameters = {"solver": solver, "init": init, "missing_values": "nan", "sum_to_one": True, "tol": 0}
    model, W = fitted(V, run=run, n_components=3, max_iter=30, **parameters)
    np.testing.assert_allclose(W.sum(axis=1), 1, atol=1e-3)
    objective = np.array([r.objective for r in model.history_ if r.objective is not None])
    assert (np.diff(objective) <= 1e-9 * objective[0]).all()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("solver", ["cd", "bpp"])
def test_fractions_are_recovered(fractions, solver, missing):
    truth, H = fractions
    V = truth @ H
    X = np.where(np.random.default_rng(6).random(V.shape) < 0.8, V, np.nan) if missing else V
    parameters = {"solver": solver, "missing_values": "nan", "sum_to_one": True, "tol": 0, "max_iter": 10}
    model, W = fitted(X, n_components=3, fixed_components=H, **parameters)
    np.testing.assert_allclose(W, truth, atol=1e-3)
    two, W_two = fitted(X, n_components=3, fixed_components=H[:2], **parameters | {"max_iter": 400})
    np.testing.assert_allclose(W_two @ two.components_, V, atol=2e-2)
    np.testing.assert_allclose(W_two.sum(axis=1), 1, atol=1e-3)
    for fit, found in ((model, W), (two, W_two)):
        np.testing.assert_allclose(fit.transform(X), found, atol=2e-3)
        np.testing.assert_allclose(fit.transform(V).sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(model.transform(da.from_array(X, chunks=(7, 5))).compute(), W, atol=2e-3)


@pytest.mark.parametrize("missing", [False, True])
def test_many_fractions(short_trials, missing):
    rng = np.random.default_rng(6)
    V = rng.dirichlet(np.full(18, 0.2), 80) @ (rng.random((18, 30)) + 0.1) + 0.01 * rng.random((80, 30))
    X = np.where(rng.random(V.shape) < 0.8, V, np.nan) if missing else V
    if missing:
        X[5] = np.nan
    parameters = {"missing_values": "nan", "sum_to_one": True, "tol": 0, "max_iter": 20}
    model, W = _with_rows_that_are_missing(X, missing, n_components=18, **parameters)
    seen = ~np.isnan(X).all(axis=1)
    np.testing.assert_allclose(W[seen].sum(axis=1), 1, atol=1e-3)
    assert not W[~seen].any()
    objective = np.array([r.objective for r in model.history_ if r.objective is not None])
    assert (np.diff(objective) <= 1e-9 * objective[0]).all()


def _with_rows_that_are_missing(X, missing, **parameters):
    if not missing:
        return fitted(X, **parameters)
    with pytest.warns(UserWarning, match="X has 1 row without any observed entry"):
        return fitted(X, **parameters)
