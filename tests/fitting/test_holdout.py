"""Hidden entries: their choice, their absence from the fit, and the loss over them."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest

from dasknmf import NMF, open_run
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.core.blocks.entries import EntryWeights, Holdout
from tests.core.loops import divergence
from tests.helpers import ALGORITHMS, fitted, stored

N, M, K = 40, 14, 3


@pytest.fixture
def V():
    rng = np.random.default_rng(2)
    return rng.random((N, K)) @ rng.random((K, M)) + 0.2 * rng.random((N, M)) + 0.05


def hidden_of(shape, share, seed, *, slabs=None, first=0, transposed=False):
    """Which entries of V are hidden, from blocks of so many rows."""
    n, m = shape
    mask = np.zeros(shape, bool)
    columns = n if transposed else m
    edges = np.cumsum([0, *(slabs or [n])])
    values = np.ones(shape)
    block = block_of(
        [values[start:stop] for start, stop in itertools.pairwise(edges)],
        PanelSpec(n, first, m, np.dtype(np.float64)),
        EntryWeights(holdout=Holdout(share, seed, columns, transposed)),
    )
    for tile in block.tiles():
        mask[tile.rows][tile.hidden.rows, tile.hidden.columns] = True
        assert not tile.V[tile.hidden.rows, tile.hidden.columns].any()
    return mask


def told_of(record) -> tuple[float, float]:
    return record.measures["holdout"], record.measures["hidden"]


def test_which_entries_are_hidden_depends_on_their_place_and_the_seed():
    whole = hidden_of((300, 50), 0.1, 7)
    assert np.array_equal(hidden_of((300, 50), 0.1, 7, slabs=[17, 200, 83]), whole)
    assert np.array_equal(hidden_of((120, 50), 0.1, 7, first=180), whole[180:])
    assert np.array_equal(hidden_of((50, 300), 0.1, 7, transposed=True), whole.T)
    other = hidden_of((300, 50), 0.1, 8)
    assert 0 < (whole & other).sum() < 0.3 * whole.sum()
    more = hidden_of((300, 50), 0.2, 7)
    assert (more & whole).sum() == whole.sum()  # hidden in a share, hidden in a larger one


@pytest.mark.parametrize("share", [0.001, 0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_their_share(share, seed):
    mask = hidden_of((1500, 60), share, seed)
    spread = np.sqrt(share * (1 - share) * mask.size)
    assert abs(mask.sum() - share * mask.size) < 4 * spread
    for axis, size in ((0, 1500), (1, 60)):
        counts = mask.sum(axis=axis)
        assert np.var(counts) == pytest.approx(size * share * (1 - share), rel=0.75)


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_what_is_told_is_the_loss_over_them(short_trials, V, solver, beta, missing):
    rng = np.random.default_rng(4)
    a, b, omega = rng.random(N) + 0.5, rng.random(M) + 0.5, np.ones(V.shape)
    X, run = V, {"sample_weight": a, "feature_weight": b}
    if missing:
        omega = rng.choice([0.0, 0.5, 1.0], V.shape)
        seen = rng.random(V.shape) < 0.9
        X, run = np.where(seen, V, np.nan), run | {"weights": omega}
        omega = omega * seen
    model, W = fitted(
        X,
        run=run | {"holdout": 0.15},
        n_components=K,
        solver=solver,
        beta_loss=beta,
        random_state=3,
        missing_values="nan" if missing else "error",
    )
    mask = hidden_of(V.shape, 0.15, 3) & (omega > 0)
    P = W @ model.components_
    expected = sum(
        a[i] * b[j] * omega[i, j] * divergence(V[i, j], P[i, j], beta)
        for i, j in zip(*np.nonzero(mask), strict=True)
    )
    assert model.history_[-1].phase == "evaluation"
    assert told_of(model.history_[-1]) == (pytest.approx(expected, rel=1e-8), mask.sum())
    inside = (omega > 0) & ~mask
    expected = sum(
        a[i] * b[j] * omega[i, j] * divergence(V[i, j], P[i, j], beta)
        for i, j in zip(*np.nonzero(inside), strict=True)
    )
    assert model.history_[-1].loss == pytest.approx(expected, rel=1e-7)
    assert all("holdout" in record.measures for record in model.history_.exact[1:])


@pytest.mark.parametrize("init", ["random", "sample", "nndsvda"])
@pytest.mark.parametrize(
    ("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0), ("mu", 0.0)]
)
def test_what_is_hidden_has_no_say(V, solver, beta, init):
    parameters = {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "random_state": 5}
    one, W_one = fitted(V, run={"holdout": 0.2}, **parameters)
    mask = hidden_of(V.shape, 0.2, 5)
    changed = np.where(mask, 7 * V + 1, V)
    two, W_two = fitted(changed, run={"holdout": 0.2}, **parameters)
    np.testing.assert_array_equal(W_two, W_one)
    np.testing.assert_array_equal(two.components_, one.components_)
    assert told_of(two.history_[-1])[0] > told_of(one.history_[-1])[0]
    # With another entry missing both are masks, and one mask.
    V = V.copy()
    V[0, np.flatnonzero(~mask[0])[0]] = np.nan
    parameters["missing_values"] = "nan"
    hidden, W_hidden = fitted(V, run={"holdout": 0.2}, **parameters)
    missing, W_missing = fitted(np.where(mask, np.nan, V), **parameters)
    np.testing.assert_array_equal(W_missing, W_hidden)
    np.testing.assert_array_equal(missing.components_, hidden.components_)


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_the_objective_never_rises(short_trials, V, solver, beta, missing):
    if missing:
        V = np.where(np.random.default_rng(0).random(V.shape) < 0.8, V, np.nan)
    for init, penalty in (("random", {}), ("sample", {"alpha_W": 0.02, "alpha_H": 0.01, "l1_ratio": 0.3})):
        model, _ = fitted(
            V,
            run={"holdout": 0.1},
            n_components=K,
            init=init,
            solver=solver,
            beta_loss=beta,
            max_iter=10,
            tol=0,
            missing_values="nan" if missing else "error",
            **penalty,
        )
        objective = np.array([r.objective for r in model.history_ if r.objective is not None])
        assert (np.diff(objective) <= 1e-10 * np.abs(objective[:-1]) + 1e-10).all()


@pytest.mark.parametrize("init", ["random", "sample", "nndsvda"])
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0)])
def test_chunks_and_roles_do_not_matter(small_panels, short_trials, tmp_path, V, solver, beta, init):
    parameters = {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "inner_iter": 2}
    one, W_one = fitted(V, run={"holdout": 0.2}, **parameters)
    for X in (da.from_array(V, chunks=(7, 5)), stored(tmp_path / "v.zarr", V, (9, 4)), np.asfortranarray(V)):
        other, W_other = fitted(X, run={"holdout": 0.2}, **parameters)
        np.testing.assert_allclose(W_other, W_one, rtol=1e-7, atol=1e-9)
        assert told_of(other.history_[-1]) == pytest.approx(told_of(one.history_[-1]), rel=1e-8)


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 1.0)])
def test_a_wide_matrix_hides_the_same_places(V, solver, beta):
    rng = np.random.default_rng(1)
    X, start = V.T.copy(), {"W": rng.random((M, K)), "H": rng.random((K, N))}
    parameters = {
        "n_components": K,
        "init": "custom",
        "solver": solver,
        "beta_loss": beta,
        "random_state": 11,
    }
    model, W = fitted(X, run=start | {"holdout": 0.2}, **parameters)  # as its transpose
    mask = hidden_of(X.shape, 0.2, 11)
    P = W @ model.components_
    expected = sum(divergence(X[i, j], P[i, j], beta) for i, j in zip(*np.nonzero(mask), strict=True))
    assert told_of(model.history_[-1]) == (pytest.approx(expected, rel=1e-8), mask.sum())


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0)])
def test_the_planted_rank_has_the_lowest_loss(solver, beta):
    rng = np.random.default_rng(0)
    V = rng.gamma(0.5, size=(150, 4)) @ rng.gamma(0.5, size=(4, 40))
    V = V * rng.gamma(30, 1 / 30, V.shape) + 0.01
    losses = {}
    for k in (1, 2, 3, 4, 6, 9):
        model, _ = fitted(
            V, run={"holdout": 0.1}, n_components=k, solver=solver, beta_loss=beta, max_iter=100
        )
        losses[k] = told_of(model.history_[-1])[0]
    assert min(losses, key=losses.get) == 4
    assert losses[4] < 0.5 * losses[1]
    assert losses[4] < losses[9]


def test_a_run_goes_on_with_what_it_has_hidden(small_panels, tmp_path, V):
    array = stored(tmp_path / "v.zarr", V, (9, M))
    run = {"checkpoint": tmp_path / "run", "holdout": 0.2}
    parameters = {"n_components": K, "init": "random", "random_state": None, "tol": 0}
    fitted(array, run=run, max_iter=3, **parameters)
    model, W = fitted(array, run=run, max_iter=6, **parameters)
    mask = hidden_of(V.shape, 0.2, open_run(tmp_path / "run").identity.seed)
    expected = 0.5 * ((V - W @ model.components_)[mask] ** 2).sum()
    assert told_of(model.history_[-1]) == (pytest.approx(expected, rel=1e-8), mask.sum())


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, "x", np.nan, True])
def test_shares_that_are_none(V, share):
    with pytest.raises(ValueError, match=r"holdout is .* give a number between 0 and 1"):
        NMF(K).fit(V, holdout=share)


def test_a_table_of_passes_has_the_hidden_loss_where_there_is_one():
    V = np.random.default_rng(0).random((30, 12))
    hiding, _ = fitted(V, run={"holdout": 0.2}, n_components=2, max_iter=3)
    table = hiding.history_.to_dataframe()
    assert table["holdout"].iloc[-1] == hiding.history_[-1].holdout > 0
    assert hiding.history_[-1].hidden > 0
    plain, _ = fitted(V, n_components=2, max_iter=3)
    assert "holdout" not in plain.history_.to_dataframe()
