"""Laws that hold for every shape, chunking, loss and solver."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.decomposition import NMF as Theirs
from sklearn.exceptions import ConvergenceWarning

from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.table import SOLVERS
from tests.helpers import (
    ALGORITHMS,
    BETAS,
    PENALTIES,
    QUADRATIC,
    SCIKIT_LEARNS,
    cuts,
    fitted,
    matrices,
    stored,
)

algorithms = st.sampled_from(ALGORITHMS)
inits = st.sampled_from(["random", "nndsvd", "nndsvda", "nndsvdar"])


@given(X=matrices(), data=st.data(), algorithm=algorithms, init=inits)
def test_chunking_does_not_matter(small_panels, X, data, algorithm, init):
    solver, beta = algorithm
    chunks = (data.draw(cuts(X.shape[0])), data.draw(cuts(X.shape[1])))
    parameters = {
        "n_components": min(3, *X.shape),
        "solver": solver,
        "beta_loss": beta,
        "init": init,
        # The roles of W and H follow the chunks where they may; here they may not.
        "inner_iter": 1,
        "max_iter": 5,
    }
    whole, W_whole = fitted(X, **parameters)
    cut, W_cut = fitted(da.from_array(X, chunks=chunks), **parameters)
    np.testing.assert_allclose(W_cut, W_whole, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(cut.components_, whole.components_, rtol=1e-7, atol=1e-9)
    assert cut.n_iter_ == whole.n_iter_


@given(X=matrices(), data=st.data(), solver=st.sampled_from(sorted(QUADRATIC)))
def test_repeated_steps_do_not_depend_on_rows_updated_together(small_panels, X, data, solver):
    X = X if X.shape[1] <= X.shape[0] else X.T
    rows = data.draw(cuts(X.shape[0]))
    assume(len(rows) > 1)  # one chunk may be worked on in exchanged roles
    chunks = (rows, (X.shape[1],))
    parameters = {"n_components": 2, "solver": solver, "init": "random", "max_iter": 4}
    whole, W_whole = fitted(X, **parameters)
    cut, W_cut = fitted(da.from_array(X, chunks=chunks), **parameters)
    np.testing.assert_allclose(W_cut, W_whole, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(cut.components_, whole.components_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "beta", "init"),
    [
        *((solver, 2.0, "random") for solver in QUADRATIC),
        ("mu", 0.5, "random"),
        ("cd", 2.0, "nndsvda"),
        ("mu", 1.0, "nndsvda"),
        ("newton", 1.0, "random"),
        ("newton", 1.0, "sample"),
    ],
)
def test_schedulers_give_the_same_bits(small_panels, low_rank, cluster, solver, beta, init, tmp_path):
    V = stored(tmp_path / "v.zarr", low_rank, (17, 5))
    parameters = {
        "n_components": 3,
        "solver": solver,
        "beta_loss": beta,
        "init": init,
        "max_iter": 4,
    }
    one, W_one = fitted(V, scheduler="synchronous", **parameters)
    for scheduler in ("threads", cluster):
        other, W_other = fitted(V, scheduler=scheduler, **parameters)
        np.testing.assert_array_equal(W_other, W_one)
        np.testing.assert_array_equal(other.components_, one.components_)
    kept, W_kept = fitted(V, run={"checkpoint": tmp_path / "run"}, **parameters)
    np.testing.assert_array_equal(W_kept, W_one)
    np.testing.assert_array_equal(kept.components_, one.components_)


@given(
    X=matrices(),
    algorithm=algorithms,
    penalty=st.sampled_from(PENALTIES),
    inner_iter=st.sampled_from([1, 3, "auto"]),
    data=st.data(),
)
def test_the_objective_never_rises(small_panels, X, algorithm, penalty, inner_iter, data):
    solver, beta = algorithm
    if inner_iter == 1 and penalty.get("l1_ratio", 1) < 1 and 1 <= beta < 2:
        inner_iter = 2  # scikit-learn's form of the L2 penalty, that of 1, is not monotone there
    model, _ = fitted(
        da.from_array(X, chunks=(data.draw(cuts(X.shape[0])), X.shape[1])),
        n_components=3,
        solver=solver,
        beta_loss=beta,
        init="random",
        inner_iter=inner_iter,
        max_iter=15,
        tol=0,
        **penalty,
    )
    objective = np.array([r.objective for r in model.history_ if r.objective is not None])
    slack = 1e-12 * (X**2).sum() + 1e-10 * np.abs(objective[:-1])
    assert (np.diff(objective) <= slack).all()


@given(X=matrices(), algorithm=algorithms, scale=st.sampled_from([1e-8, 1e-3, 10.0, 1e6]))
def test_scaling_V_scales_the_fit(X, algorithm, scale):
    solver, beta = algorithm
    parameters = {"n_components": 2, "solver": solver, "beta_loss": beta, "init": "random"}
    one, W_one = fitted(X, **parameters)
    other, W_other = fitted(X * scale, **parameters)
    np.testing.assert_allclose(W_other, W_one * np.sqrt(scale), rtol=1e-6, atol=1e-9 * scale**0.5)
    np.testing.assert_allclose(
        other.components_, one.components_ * np.sqrt(scale), rtol=1e-6, atol=1e-9 * scale**0.5
    )


@pytest.mark.parametrize("penalty", [PENALTIES[0], PENALTIES[3]], ids=["plain", "penalised"])
@pytest.mark.parametrize(("solver", "beta"), SCIKIT_LEARNS)
def test_one_step_is_scikit_learns_iteration(small_panels, low_rank, cluster, solver, beta, penalty):
    rng = np.random.default_rng(3)
    W, H = rng.random((90, 4)), rng.random((4, 14))
    parameters = {
        "n_components": 4,
        "init": "custom",
        "solver": solver,
        "beta_loss": beta,
        "max_iter": 20,
        "tol": 0,
        **penalty,
    }
    theirs = Theirs(**parameters)
    W_theirs = theirs.fit_transform(low_rank, W=W.copy(), H=H.copy())
    places = [((90, 14), "synchronous"), ((13, 14), "threads"), ((40, 5), "threads")]
    if beta == 2.0:  # the others: by the same bits on every scheduler
        places.append(((40, 5), cluster))
    for chunks, scheduler in places:
        X = da.from_array(low_rank, chunks=chunks)
        ours, W_ours = fitted(X, scheduler, {"W": W, "H": H}, inner_iter=1, **parameters)
        np.testing.assert_allclose(W_ours, W_theirs, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.reconstruction_err_, theirs.reconstruction_err_, rtol=1e-6)


@pytest.mark.parametrize(("solver", "beta"), SCIKIT_LEARNS)
@pytest.mark.parametrize("tol", [1e-2, 1e-3])
def test_one_step_stops_where_scikit_learn_stops(low_rank, solver, beta, tol):
    rng = np.random.default_rng(3)
    W, H = rng.random((90, 4)), rng.random((4, 14))
    parameters = {"n_components": 4, "init": "custom", "solver": solver, "beta_loss": beta}
    parameters |= {"tol": tol, "max_iter": 400}
    theirs = Theirs(**parameters).fit(low_rank, W=W.copy(), H=H.copy())
    ours, _ = fitted(low_rank, run={"W": W, "H": H}, inner_iter=1, **parameters)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "beta"),
    [(name, each.beta or 1.0) for name, each in SOLVERS.items()],
)
def test_float32_follows_float64(low_rank, solver, beta):
    parameters = {"n_components": 3, "solver": solver, "beta_loss": beta, "init": "random"}
    single, W_single = fitted(low_rank.astype(np.float32), **parameters)
    double, W_double = fitted(low_rank, **parameters)
    assert W_single.dtype == single.components_.dtype == np.float32
    np.testing.assert_allclose(W_single, W_double, rtol=2e-3, atol=1e-3)
    assert single.reconstruction_err_ == pytest.approx(double.reconstruction_err_, rel=1e-3)


@pytest.mark.parametrize("beta", BETAS)
def test_exchanged_roles_find_as_good_a_fit(low_rank, beta):
    parameters = {"n_components": 3, "beta_loss": beta, "init": "nndsvda", "max_iter": 300}
    tall, _ = fitted(low_rank, **parameters)
    wide, W = fitted(low_rank.T, **parameters)
    assert W.shape == (14, 3)
    assert wide.components_.shape == (3, 90)
    assert wide.reconstruction_err_ == pytest.approx(tall.reconstruction_err_, rel=0.05)


@pytest.mark.parametrize("penalty", PENALTIES[1:])
def test_exchanged_roles_exchange_the_penalties(low_rank, penalty):
    parameters = {"n_components": 3, "init": "nndsvda", "max_iter": 500, "tol": 1e-9, **penalty}
    ours, W = fitted(low_rank.T, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = Theirs(**parameters | {"max_iter": 2000})
        W_theirs = theirs.fit_transform(low_rank.T)

    def objective(W, H):
        both = Penalties.scaled(penalty["alpha_W"], penalty["alpha_H"], penalty["l1_ratio"], low_rank.T.shape)
        loss = 0.5 * ((low_rank.T - W @ H) ** 2).sum()
        return loss + both.value((W.sum(), (W**2).sum()), H)

    assert objective(W, ours.components_) == pytest.approx(objective(W_theirs, theirs.components_), rel=0.02)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_exact_solves_end_where_coordinate_descent_ends(low_rank, penalty):
    parameters = {"n_components": 3, "init": "nndsvda", "max_iter": 100, "tol": 1e-6, **penalty}
    cd, _ = fitted(low_rank, solver="cd", **parameters)
    bpp, _ = fitted(low_rank, solver="bpp", **parameters)
    assert bpp.history_[-1].objective <= 1.02 * cd.history_[-1].objective


def test_steps_are_not_counted_where_solves_are_exact(low_rank):
    one, W_one = fitted(low_rank, n_components=3, init="random", solver="bpp", inner_iter=1)
    other, W_other = fitted(low_rank, n_components=3, init="random", solver="bpp", inner_iter=7)
    np.testing.assert_array_equal(W_other, W_one)
    np.testing.assert_array_equal(other.components_, one.components_)
