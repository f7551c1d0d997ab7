"""Missing values: only observed entries count, whatever value marks the others."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers import imputed, variant
from dasknmf.data import source_of
from dasknmf.data.source import grid_of, slab_bytes_of
from dasknmf.data.weighted import WeightedSource
from dasknmf.fitting.model import Model
from tests.core.loops import MASKS, Elastic, Weighted, given_as
from tests.helpers import ALGORITHMS, QUADRATIC, fitted, stored

N, M, K = 23, 9, 3
FROBENIUS = [(solver, 2.0) for solver in QUADRATIC]
PENALTIES = [
    {},
    {"alpha_W": 0.004, "alpha_H": 0.002, "l1_ratio": 1.0},
    {"alpha_W": 0.02, "alpha_H": 0.01, "l1_ratio": 0.4},
]


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


@pytest.mark.parametrize("solver", QUADRATIC)
@pytest.mark.parametrize("mask", ["nan", "all"])
def test_entries_that_are_filled_in_are_filled_in_from_the_pair(monkeypatch, V, seen, start, solver, mask):
    monkeypatch.setattr(imputed, "MOST_COMPONENTS", 0)
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
        for _ in range(variant._FILLS):
            fill()
            H = loops.H.copy()
            loops.iterate(solver)
            loops.H = H
        fill()
        W_there = loops.W.copy()
        loops.H = (
            Weighted(loops.V.T, np.ones_like(V.T), b, a, loops.H.T, loops.W.T).iterate(solver).W.T.copy()
        )
        loops.W = W_there
    np.testing.assert_allclose(W, loops.W, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.components_, loops.H, rtol=1e-8, atol=1e-10)
    loops.V, loops.omega = whole, omega
    assert ours.history_[-1].loss == pytest.approx(loops.loss, rel=1e-8)


@pytest.mark.parametrize("mask", ["nan", "number", "bool", "float"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_a_mask_that_hides_nothing_is_none(V, start, solver, beta, mask):
    given = {"bool": {"weights": np.ones(V.shape, bool)}, "float": {"weights": np.ones(V.shape)}}.get(
        mask, {}
    )
    missing = {"nan": np.nan, "number": -1.0}.get(mask, "error")
    parameters = {"n_components": K, "init": "custom", "solver": solver, "beta_loss": beta, "tol": 0}
    plain, W_plain = fitted(V, run=start, **parameters)
    masked, W = fitted(V, run=start | given, missing_values=missing, **parameters)
    np.testing.assert_allclose(W, W_plain, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(masked.components_, plain.components_, rtol=1e-9, atol=1e-11)
    assert masked.reconstruction_err_ == pytest.approx(plain.reconstruction_err_, rel=1e-10)


@pytest.mark.parametrize(("solver", "beta"), [*FROBENIUS, ("mu", 1.0), ("mu", 0.5)])
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("dtype", "nodata", "put"),
    [
        ("uint8", 0, 0),
        ("uint8", 255, 255),
        ("int16", -32768, -32768),
        ("int32", -1, -1),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int64", -(2**63), -(2**63)),
        ("float32", -9999.9, np.float32(-9999.9)),
        ("float32", -3.4028235e38, np.finfo(np.float32).min),
        ("float64", np.inf, np.inf),
    ],
)
def test_the_number_that_stands_for_missing(V, seen, dtype, nodata, put):
    counts = np.round(1 + 50 * V).astype(dtype)
    X = np.where(seen, counts, np.array(put, dtype))
    parameters = {"n_components": K, "init": "random", "inner_iter": 1}
    # In chunks, as scikit-learn's check of an X in memory makes floats of large integers.
    ours, W = fitted(da.from_array(X, chunks=(9, M)), missing_values=nodata, **parameters)
    floats = np.where(seen, counts, np.nan).astype(ours.components_.dtype)
    theirs, W_nan = fitted(floats, missing_values="nan", **parameters)
    assert ours.history_[0].measures == theirs.history_[0].measures
    np.testing.assert_allclose(W @ ours.components_, W_nan @ theirs.components_, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", -9999), ("uint8", 0.5), ("float32", -1e39), ("int16", 65535)]
)
def test_a_number_that_no_entry_can_hold_stands_for_none(V, start, dtype, nodata):
    X = np.round(1 + 50 * V).astype(dtype)
    parameters = {"n_components": K, "init": "custom", "dtype": np.float64}
    ours, W = fitted(X, run=start, missing_values=nodata, **parameters)
    plain, W_plain = fitted(X, run=start, **parameters)
    np.testing.assert_allclose(W, W_plain, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ours.components_, plain.components_, rtol=1e-9, atol=1e-11)


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
@pytest.mark.parametrize(("solver", "beta"), [*FROBENIUS, ("mu", 1.0), ("mu", 2.5)])
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


@pytest.mark.parametrize(
    ("mask", "solver", "beta", "init"),
    [
        ("nan", "cd", 2.0, "sample"),
        ("nan", "mu", 1.0, "nndsvda"),
        ("number", "bpp", 2.0, "random"),
        ("bool", "cd", 2.0, "nndsvda"),
        ("float", "mu", 0.0, "sample"),
        ("all", "cd", 2.0, "random"),
        ("all", "bpp", 2.0, "nndsvda"),
        ("all", "mu", 1.0, "sample"),
    ],
)
def test_chunks_do_not_matter(small_panels, short_trials, tmp_path, V, seen, solver, beta, init, mask):
    X, parameters, given, _ = given_as(mask, V, seen)
    parameters |= {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "inner_iter": 2}
    one, W_one = fitted(X, run=given, **parameters)
    in_dask, in_zarr = dict(given), dict(given)
    if "weights" in given:
        in_dask["weights"] = da.from_array(given["weights"], chunks=(5, 4))
        in_zarr["weights"] = stored(tmp_path / "weights.zarr", given["weights"], (6, 5))
    for X_cut, told in [
        (da.from_array(X, chunks=(7, 4)), in_dask),
        (stored(tmp_path / "v.zarr", X, (8, 3)), in_dask),
        (stored(tmp_path / "w.zarr", X, (8, 3)), given),
        (da.from_array(X, chunks=(11, 9)), in_zarr),
        (X, in_zarr),
        (X, in_dask),
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
    [*((solver, beta, K) for solver, beta in ALGORITHMS), *((solver, 2.0, 18) for solver in QUADRATIC)],
)
def test_the_objective_never_rises(short_trials, solver, beta, mask, k):
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
                max_iter=6,
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


@pytest.mark.parametrize(("solver", "beta"), [*FROBENIUS, ("mu", 1.0), ("mu", 0.5)])
@pytest.mark.parametrize(
    ("init", "k"), [("sample", 3), ("sample", 18), ("random", 18), ("nndsvda", 3), ("custom", 3)]
)
def test_rows_and_columns_of_which_nothing_is_observed(short_trials, V, seen, solver, beta, init, k):
    X = np.where(seen, V, np.nan)
    X[[2, 11]] = np.nan
    X[:, 4] = np.nan
    rng = np.random.default_rng(1)
    run = {"W": rng.random((N, k)), "H": rng.random((k, M))} if init == "custom" else {}
    with pytest.warns(UserWarning, match="X has 2 rows and 1 column without any observed entry"):
        model, W = fitted(
            X, run=run, n_components=k, solver=solver, beta_loss=beta, init=init, missing_values="nan"
        )
    assert (model.n_unobserved_samples_, model.n_unobserved_features_) == (2, 1)
    assert not W[[2, 11]].any()
    assert not model.components_[:, 4].any()
    assert np.isfinite(W).all()
    assert np.isfinite(model.components_).all()
    parameters = {"solver": solver, "beta_loss": beta, "missing_values": "nan", "init": "random"}
    with pytest.warns(UserWarning, match="X has 1 row and 2 columns without any observed entry"):
        turned, _ = fitted(X.T, n_components=k, max_iter=2, **parameters)
    assert (turned.n_unobserved_samples_, turned.n_unobserved_features_) == (1, 2)


@pytest.mark.parametrize("init", ["sample", "random", "nndsvda"])
@pytest.mark.parametrize(("solver", "beta"), [*FROBENIUS, ("mu", 1.0)])
def test_features_too_many_for_a_matrix_each(monkeypatch, V, seen, solver, beta, init):
    for module in (imputed, variant):
        monkeypatch.setattr(module, "MOST_BYTES", 0)
    X = np.where(seen, V, np.nan)
    parameters = {"n_components": K, "solver": solver, "beta_loss": beta, "init": init, "tol": 0}
    model, _ = fitted(X, missing_values="nan", max_iter=60, **parameters)
    if beta == 2:
        assert model.history_.exact[-1].loss_at == "entry"
    objective = np.array([r.objective for r in model.history_ if r.objective is not None])
    assert (np.diff(objective) <= 1e-10 * objective[0]).all()
    if init == "sample" and beta == 2:
        monkeypatch.undo()
        lines, _ = fitted(X, missing_values="nan", max_iter=60, **parameters)
        assert model.history_[-1].loss < 1.25 * lines.history_[-1].loss


def test_lines_and_weights_are_part_of_the_projection():
    few, many = (
        Model(
            (1000, 400),
            16,
            np.dtype(np.float32),
            Loss(2.0),
            "cd",
            "random",
            0,
            Penalties(),
            "auto",
            1600.0,
            variant=variant.Variant(masked=masked),
        )
        for masked in (False, True)
    )
    assert (few.lines_bytes, many.lines_bytes) == (0, 400 * 136 * 8)
    assert variant.Variant(masked=True).by_rows(16, 20_000)
    assert not variant.Variant(masked=True, groups=10).by_rows(200, 20_000)
    values = source_of(da.zeros((100, 10), dtype=np.uint8, chunks=(25, 5)))
    weights = source_of(da.zeros((100, 10), chunks=(50, 10)))
    plain = slab_bytes_of(values, grid_of(values))
    both = WeightedSource(values, EntryWeights(), rows=None, weights=weights)
    assert slab_bytes_of(both, grid_of(both)) >= 9 * plain
