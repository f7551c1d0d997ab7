"""Weights: a sample of weight 2 counts like two equal samples."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse

from dasknmf import NMF, Prepared
from dasknmf.core.blocks import PanelSpec, WeightedSlab, block_of
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.packed_grams import packed_products
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.core.solvers.variant import Variant
from dasknmf.core.starts.trial import Trial
from dasknmf.errors import DataChangedError, DataError
from tests.helpers import ALGORITHMS, fitted, stored

N, M, K = 19, 8, 3
PENALTIES = [{}, {"alpha_W": 0.01, "alpha_H": 0.02, "l1_ratio": 0.4}]


@pytest.fixture
def V():
    rng = np.random.default_rng(2)
    return rng.random((N, K)) @ rng.random((K, M)) + 0.2 * rng.random((N, M)) + 0.05


@pytest.fixture
def start():
    rng = np.random.default_rng(3)
    return {"W": rng.random((N, K)) + 0.1, "H": rng.random((K, M)) + 0.1}


def common(solver: str, beta: float, **parameters):
    names = {
        "n_components": K,
        "init": "custom",
        "solver": solver,
        "beta_loss": beta,
        "max_iter": 5,
        "tol": 0,
    }
    return names | parameters


def close(one, other, rtol=1e-9):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("penalty", PENALTIES, ids=["plain", "penalised"])
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_weights_that_are_integers_repeat_rows_and_columns(V, start, solver, beta, missing, penalty):
    rng = np.random.default_rng(1)
    if missing:
        V = np.where(rng.random(V.shape) < 0.85, V, np.nan)
    a, b = rng.integers(1, 4, N), rng.integers(1, 4, M)
    # How far H has moved ends its steps for the quadratic loss, and repeated columns move as far again.
    parameters = common(solver, beta, inner_iter=1 if beta == 2 else 3, **penalty)
    parameters["missing_values"] = "nan" if missing else "error"
    run = start | {"sample_weight": a, "feature_weight": b}
    ours, W = fitted(V, run=run, **parameters)
    many = {"W": np.repeat(start["W"], a, axis=0), "H": np.repeat(start["H"], b, axis=1)}
    theirs, W_many = fitted(np.repeat(np.repeat(V, a, axis=0), b, axis=1), run=many, **parameters)
    close(np.repeat(W, a, axis=0), W_many)
    close(np.repeat(ours.components_, b, axis=1), theirs.components_)
    assert ours.history_[-1].loss == pytest.approx(theirs.history_[-1].loss, rel=1e-9)
    assert ours.history_[-1].objective == pytest.approx(theirs.history_[-1].objective, rel=1e-9)


@pytest.mark.parametrize("sum_to_one", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_of_entries_repeat_them_too(V, start, sum_to_one, axis):
    times = np.random.default_rng(1).integers(1, 4, V.shape[axis])
    parameters = common("cd", 2.0, inner_iter=1, sum_to_one=sum_to_one)
    weights = np.ones(V.shape) * (times[:, None] if axis == 0 else times)
    by_entry, W_entry = fitted(V, run=start | {"weights": weights}, **parameters)
    name = ("sample_weight", "feature_weight")[axis]
    by_line, W_line = fitted(V, run=start | {name: times}, **parameters)
    assert by_entry.history_[-1].loss == pytest.approx(by_line.history_[-1].loss, rel=1e-3)
    many = {name: np.repeat(F, times, axis=axis) if name == "WH"[axis] else F for name, F in start.items()}
    repeated, W_many = fitted(np.repeat(V, times, axis=axis), run=many, **parameters)
    close(
        by_line.components_ if axis == 0 else np.repeat(by_line.components_, times, axis=1),
        repeated.components_,
    )
    close(np.repeat(W_line, times, axis=0) if axis == 0 else W_line, W_many)
    if not sum_to_one:
        close(W_entry, W_line)
        close(by_entry.components_, by_line.components_)


@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_weights_of_zero_and_one_are_a_mask(V, start, solver, beta):
    seen = np.random.default_rng(1).random(V.shape) < 0.8
    parameters = common(solver, beta)
    nan, W_nan = fitted(np.where(seen, V, np.nan), run=start, missing_values="nan", **parameters)
    for weights in (seen, seen * 1.0, seen.astype(np.uint8), seen.astype(np.float16)):
        other, W = fitted(V, run=start | {"weights": weights}, **parameters)
        close(W, W_nan)
        close(other.components_, nan.components_)


@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
@pytest.mark.parametrize("name", ["sample_weight", "feature_weight", "weights"])
@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_a_common_factor_of_weights_scales_the_loss_alone(V, start, solver, beta, name, factor):
    rng = np.random.default_rng(1)
    weight = {
        "sample_weight": rng.random(N),
        "feature_weight": rng.random(M),
        "weights": rng.random(V.shape),
    }[name]
    parameters = common(solver, beta)
    one, W_one = fitted(V, run=start | {name: weight}, **parameters)
    other, W_other = fitted(V, run=start | {name: factor * weight}, **parameters)
    close(W_other, W_one, 1e-8)
    close(other.components_, one.components_, 1e-8)
    assert other.history_[-1].loss == pytest.approx(factor * one.history_[-1].loss, rel=1e-8)


@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_samples_without_weight_are_fitted_and_have_no_say(V, start, solver, beta):
    a = np.ones(N)
    a[[2, 9]] = 0
    parameters = common(solver, beta, inner_iter=1)
    other = V.copy()
    other[[2, 9]] = np.random.default_rng(9).random((2, M)) + 0.1
    one, W_one = fitted(V, run=start | {"sample_weight": a}, **parameters)
    two, W_two = fitted(other, run=start | {"sample_weight": a}, **parameters)
    kept = a > 0
    left, W_left = fitted(V[kept], run={"W": start["W"][kept], "H": start["H"]}, **parameters)
    for model, W in ((two, W_two), (left, W_left)):
        close(model.components_, one.components_)
        close(W[kept] if len(W) == N else W, W_one[kept])
    assert W_one[2].any()
    assert not np.allclose(W_one[2], W_two[2])


def test_features_without_weight_are_fitted_and_have_no_say(V, start):
    b = np.ones(M)
    b[5] = 0
    parameters = common("bpp", 2.0)
    one, W_one = fitted(V, run=start | {"feature_weight": b}, **parameters)
    left, W_left = fitted(V[:, b > 0], run={"W": start["W"], "H": start["H"][:, b > 0]}, **parameters)
    close(W_one, W_left)
    close(one.components_[:, b > 0], left.components_)
    h = one.components_[:, 5]
    gradient = W_one.T @ (W_one @ h - V[:, 5])
    assert (gradient >= -1e-8).all()
    np.testing.assert_allclose(h * gradient, 0, atol=1e-8)


@pytest.mark.parametrize("init", ["sample", "sketch", "random", "nndsvda"])
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 1.0)])
def test_weights_lower_the_loss_that_they_weigh(V, solver, beta, init):
    if init == "sketch" and beta != 2:
        pytest.skip("a sketch is for the Frobenius loss")
    a, b = np.where(np.arange(N) < 5, 20.0, 1.0), np.where(np.arange(M) < 3, 10.0, 1.0)
    parameters = {"n_components": 2, "solver": solver, "beta_loss": beta, "init": init, "max_iter": 60}

    def weighed(model, W):
        P = W @ model.components_
        D = 0.5 * (V - P) ** 2 if beta == 2 else V * np.log(V / P) - V + P
        return a @ D @ b

    known = fitted(V, run={"sample_weight": a, "feature_weight": b}, **parameters)
    assert weighed(*known) == pytest.approx(known[0].history_[-1].loss, rel=1e-6)
    assert weighed(*known) < 0.9 * weighed(*fitted(V, **parameters))
    objective = [r.objective for r in known[0].history_ if r.objective is not None]
    assert (np.diff(objective) <= 1e-10 * objective[0]).all()


def tiles_of(V, weights, order):
    slab = WeightedSlab(np.asarray(V, order=order), np.asarray(weights, order=order))
    return block_of([slab], PanelSpec(len(V), 0, V.shape[1], np.dtype(np.float64))).tiles()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [bool, np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 3, 16])
def test_columns_with_one_mask_are_taken_together(order, kind, groups):
    rng = np.random.default_rng(0)
    V = rng.random((70, 16))
    weights = rng.choice([0.0, 1.0] if kind is bool else [0.0, 0.5, 1.0, 2.0], (70, groups)).astype(kind)
    weights = weights[:, rng.integers(groups, size=16) if groups < 16 else np.arange(16)]
    W, H = rng.random((70, K)), rng.random((K, 16))
    (tile,) = tiles_of(V, weights, order)
    assert (tile._groups[1] is None) == (groups == 16)
    HH = packed_products(np.ascontiguousarray(H.T))
    upper = np.triu_indices(K)
    expected = np.einsum("ij,tj,rj->itr", weights.astype(float), H, H)[:, upper[0], upper[1]]
    np.testing.assert_allclose(tile.row_grams(HH), expected, rtol=1e-12, atol=1e-14)
    T = np.ones((16, HH.shape[1]))
    tile.add_column_grams(packed_products(W), T)
    expected = np.einsum("ij,it,ir->jtr", weights.astype(float), W, W)[:, upper[0], upper[1]]
    np.testing.assert_allclose(T, 1 + expected, rtol=1e-12)
    np.testing.assert_allclose(tile.column_counts(), weights.sum(axis=0))
    np.testing.assert_array_equal(tile.nonempty_rows(), weights.any(axis=1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_columns_are_told_apart_by_any_bit_of_their_weights(order):
    rng = np.random.default_rng(1)
    different = rng.choice([1.0, 2.0], (64, 500))
    weights = np.repeat(different, 2, axis=1)
    (tile,) = tiles_of(np.ones(weights.shape), weights, order)
    groups, group_of = tile._groups
    assert groups.shape == (64, 500)
    np.testing.assert_array_equal(groups[:, group_of], weights)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": np.ones((N, M + 1))}, "weights have shape .* give an array of X's shape"),
        ({"weights": np.ones(N)}, "weights have shape|Expected 2D"),
        ({"weights": -np.ones((N, M))}, "smallest is -1.*nonnegative, finite"),
        ({"weights": np.full((N, M), np.nan)}, "smallest is nan.*nonnegative, finite"),
        ({"weights": np.full((N, M), np.inf)}, "not finite .* nonnegative, finite"),
        ({"weights": np.full((N, M), "a")}, "weights are .* real numbers or booleans"),
        ({"sample_weight": np.ones(M)}, "sample_weight has shape .* one weight for each"),
        ({"sample_weight": -np.ones(N)}, r"sample_weight\[0\] is -1 .* nonnegative, finite"),
        ({"sample_weight": np.zeros(N)}, "sample_weight is zero throughout"),
        ({"feature_weight": np.full(M, np.nan)}, r"feature_weight\[0\] is nan .* nonnegative, finite"),
        ({"feature_weight": np.ones((M, 1))}, "feature_weight has shape"),
    ],
)
def test_weights_that_are_none(V, given, message):
    with pytest.raises(ValueError, match=message):
        NMF(K).fit(V, **given)


def test_weights_that_are_sparse_or_of_sparse_X(V):
    with pytest.raises(ValueError, match=r"weights are sparse; .* give them dense"):
        NMF(K).fit(V, weights=scipy.sparse.csr_array(V))
    with pytest.raises(ValueError, match="weights of entries need a dense X"):
        NMF(K).fit(scipy.sparse.csr_array(V), weights=V)
    with pytest.raises(ValueError, match="missing_values is 'nan', and X is sparse"):
        NMF(K, missing_values="nan").fit(scipy.sparse.csr_array(V))
    with pytest.raises(ValueError, match=r"missing_values is 0.0, and X is Prepared"):
        NMF(K, missing_values=0.0).fit(Prepared(V, log1p=True))


def test_weights_that_are_seen_to_be_wrong_as_they_are_read(V, tmp_path):
    wrong = np.ones((N, M))
    wrong[7, 2] = -3
    X = da.from_array(V, chunks=(5, M))
    for weights in (da.from_array(wrong, chunks=(4, 3)), stored(tmp_path / "weights.zarr", wrong, (6, 4))):
        with pytest.raises(DataError, match=r"smallest is -3.*nonnegative, finite"):
            NMF(K).fit(X, weights=weights)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("put", "missing", "message"),
    [
        (np.nan, "error", "contains NaN"),
        (np.inf, "error", "infinity"),
        (np.inf, "nan", "infinity"),
        (-np.inf, "nan", "infinity"),
        (-1.0, "nan", "Negative values"),
        (np.nan, -1.0, "contains NaN"),
    ],
)
def test_values_that_are_none(V, put, missing, message, chunked):
    V[3, 4] = put
    X = da.from_array(V, chunks=(5, M)) if chunked else V
    with pytest.raises(ValueError, match=message):
        NMF(K, missing_values=missing).fit(X)


def test_the_refusal_of_NaN_tells_the_remedy(V):
    V[3, 4] = np.nan
    for X in (V, da.from_array(V, chunks=(5, M))):
        with pytest.raises(ValueError, match="missing_values='nan'"):
            NMF(K).fit(X)


def test_an_X_of_nothing(V):
    nothing = np.full(V.shape, np.nan)
    for X, given in (
        (nothing, {}),
        (V, {"weights": np.zeros(V.shape)}),
        (da.from_array(nothing, chunks=5), {}),
    ):
        with pytest.raises(DataError, match="nothing is observed: all 19 x 8 entries"):
            NMF(K, missing_values="nan").fit(X, **given)


def test_a_sketch_needs_every_entry(V):
    with pytest.raises(ValueError, match=r"init = 'sketch' .* use init='sample'"):
        NMF(K, init="sketch", missing_values="nan").fit(V)
    with pytest.raises(ValueError, match=r"init = 'sketch' .* use init='sample'"):
        NMF(K, init="sketch").fit(V, holdout=0.1)


def test_weights_above_one_with_many_components(V):
    V = np.hstack([V] * 3)
    with pytest.raises(DataError, match="divide the weights by the largest"):
        NMF(18).fit(V, weights=np.full(V.shape, 2.0))


@pytest.mark.parametrize("name", ["sample_weight", "feature_weight", "weights"])
@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0), ("mu", 0.0), ("mu", 0.5)])
def test_weights_of_any_size_end_a_fit_where_it_ends_without_them(V, solver, beta, name):
    shape = {"sample_weight": N, "feature_weight": M, "weights": V.shape}[name]
    # Powers of two, which change no digit.
    parameters = {"n_components": K, "init": "random", "solver": solver, "beta_loss": beta, "max_iter": 60}
    V = V.astype(np.float32)
    one, _ = fitted(V, run={name: np.ones(shape)}, **parameters)
    small, _ = fitted(V, run={name: np.full(shape, 2.0**-20)}, **parameters)
    assert small.n_iter_ == one.n_iter_ > 4


def test_a_start_weighs_columns_as_the_fit_does(V):
    b = 100.0 * (np.random.default_rng(1).random(M) + 0.5)
    for rows, Q in ((V, None), (scipy.sparse.csr_array(V), None), (V @ np.eye(M)[:, :5], np.eye(M)[:, :5])):
        trial = _trial(2.0, Variant(column_weights=b))
        whole = rows if Q is None else rows @ Q.T
        expected = float(((whole.toarray() if Q is None and rows is not V else whole) ** 2 @ b).sum())
        assert trial._squares(rows, Q) == pytest.approx(expected, rel=1e-12)
    found = _trial(2.0, Variant(column_weights=b)).of_rows(V, V.mean(axis=0))
    coded = NMF(K)
    coded.components_, coded.n_features_in_, coded.feature_weight_ = found.H, M, b
    assert found.loss == pytest.approx(coded.score_samples(V).sum(), rel=1e-2)


def _trial(beta, variant, solver="cd"):
    return Trial(K, np.dtype(float), Loss(beta), Penalties(), 0, N, SOLVERS[solver], variant)


@pytest.mark.parametrize(
    ("solver", "beta"), [("mu", 2.0), ("mu", 1.0), ("mu", 0.5), ("cd", 2.0), ("newton", 1.0)]
)
def test_a_start_keeps_what_is_known_of_H_zeros_and_digits(V, solver, beta):
    known = V[:1] * (np.arange(M) % 2)
    found = _trial(beta, Variant(fixed=known), solver).of_rows(V, V.mean(axis=0))
    np.testing.assert_array_equal(found.H[:1], known)


def test_weights_in_chunks_are_those_of_the_run(small_panels, tmp_path, V):
    X = stored(tmp_path / "v.zarr", V, (5, M))
    weights = np.random.default_rng(1).random(V.shape)
    run = {"checkpoint": tmp_path / "run", "weights": stored(tmp_path / "weights.zarr", weights, (4, 3))}
    parameters = {"n_components": K, "init": "random", "tol": 0}
    fitted(X, run=run, max_iter=2, **parameters)
    moved = stored(tmp_path / "moved.zarr", weights, (4, 3))
    fitted(X, run=run | {"weights": moved}, max_iter=3, **parameters)
    fitted(X, run=run | {"weights": da.from_array(weights, chunks=(6, 2))}, max_iter=4, **parameters)
    run["weights"][3, 2] += 1
    with pytest.raises(DataChangedError, match="V changed"):
        fitted(X, run=run, max_iter=5, **parameters)
