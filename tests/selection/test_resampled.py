"""Perturbations of V: weights of rows are sample weights, noise is a V of its own, both by counter."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from click.testing import CliRunner

from benchmarks import noise as benchmark
from dasknmf import NMF
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.core.blocks.entries import EntryWeights, Holdout
from dasknmf.core.blocks.noise import Noise
from dasknmf.core.image_grid import Tiles
from dasknmf.core.phase import Visitor, visit
from dasknmf.core.rng import key_of
from dasknmf.core.solvers.resampled import KINDS, Resampling
from dasknmf.data import opened
from dasknmf.fitting.decide import decide, problem_of
from dasknmf.fitting.execution import Execution
from dasknmf.fitting.problem import FitOptions
from dasknmf.fitting.session import session
from tests.helpers import fitted

N, M, K = 61, 9, 3
KINDS_AND_LOSSES = [(kind, beta) for kind in KINDS for beta in (2.0, 1.0, 1.5)]


@pytest.fixture
def V():
    rng = np.random.default_rng(2)
    return rng.poisson(4 * rng.gamma(1.0, size=(N, K)) @ rng.gamma(1.0, size=(K, M))).astype(float)


def model_of(X, resampling, seed=5):
    return inputs_for(X, resampling, random_state=seed).model


def inputs_for(X, resampling, holdout=None, **parameters):
    """The inputs of a fit with parameters of `NMF`."""
    nmf = NMF(**({"n_components": K, "init": "random", "random_state": 5} | parameters))
    return decide(nmf, opened(X), FitOptions(holdout=holdout, resampling=resampling))


class Found:
    """A fit of a model to a version of X, equal to that of `NMF`."""

    def __init__(self, X, resampling, *, holdout=None, **parameters):
        nmf = NMF(**({"n_components": K, "init": "random", "random_state": 5, "max_iter": 6} | parameters))
        nmf.tol = 0.0
        options = FitOptions(holdout=holdout, resampling=resampling)
        inputs = decide(nmf, opened(X), options)
        with session(problem_of(nmf, inputs), inputs) as work:
            Execution(work, (inputs.model,)).run_passes()
        self.run = work.run
        self.version = inputs.model.variant.resampling
        at = self.run.progress
        self.H = self.run.factors.read_state(at.location.state, at.location.phase_index).H
        self.history = [record for record in self.run.history if record.objective is not None]


def tiles_of(X, dtype=np.float64, **told):
    """The tiles of a block of X; each is used before the next one is made."""
    slabs = told.pop("slabs", [X])
    return block_of(slabs, PanelSpec(X.shape[0], 0, X.shape[1], np.dtype(dtype)), **told).tiles()


def version_of(X, resampling, **told):
    """The noisy V, dense."""
    parts = []
    for tile in tiles_of(X, **told):
        part = resampling.seen(tile).take(np.arange(tile.rows.stop - tile.rows.start))
        parts.append(part.toarray() if scipy.sparse.issparse(part) else part)
    return np.vstack(parts)


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("beta", "parameters"),
    [
        (2.0, {}),
        (2.0, {"solver": "mu"}),
        (2.0, {"solver": "bpp", "init": "sketch"}),
        (1.0, {"init": "sample"}),
        (1.5, {}),
    ],
)
def test_rows_are_sample_weights(V, make, beta, parameters):
    parameters = {"beta_loss": beta, "init": "random", "solver": "mu" if beta != 2 else "cd"} | parameters
    ours = Found(make(V), Resampling(), **parameters)
    a = ours.version.row_weights(0, N)
    common = {"n_components": K, "random_state": 5, "max_iter": 6, "tol": 0}
    theirs, _ = fitted(make(V), run={"sample_weight": a}, **common, **parameters)
    np.testing.assert_allclose(ours.H, theirs.components_, rtol=1e-9, atol=1e-12)
    expected = [record.objective for record in theirs.history_ if record.objective is not None]
    assert [record.objective for record in ours.history] == pytest.approx(expected, rel=1e-9)


def test_rows_join_the_weights_of_what_is_observed_and_hidden_entries_keep_theirs(V):
    rng = np.random.default_rng(1)
    X = np.where(rng.random(V.shape) < 0.8, V, np.nan)
    ours = Found(X, Resampling(), missing_values="nan", init="random", holdout=0.1)
    a = ours.version.row_weights(0, N)
    seen = ~np.isnan(X)
    hidden = Holdout(0.1, 5, M)
    (plain,) = tiles_of(X, entries=EntryWeights(nan=True, holdout=hidden))
    (tile,) = map(ours.version.seen, tiles_of(X, entries=EntryWeights(nan=True, holdout=hidden)))
    seen[plain.hidden.rows, plain.hidden.columns] = False
    np.testing.assert_allclose(tile.sums().squares, (a[:, None] * np.where(seen, V, 0) ** 2).sum())
    # Hidden entries are compared without noise, once each.
    last = ours.run.history[-1]
    answer = ours.run.progress.location
    state = ours.run.factors.read_state(answer.state, answer.phase_index)
    assert last.measures["hidden"] == len(plain.hidden.values)
    W = ours.run.factors.read_rows(answer.rows, 0, N)
    expected, _ = plain.hidden_loss(W, state.H, 2.0, 1e-9)
    assert last.measures["holdout"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("init", ["random", "sample", "nndsvda"])
@pytest.mark.parametrize(
    ("kind", "beta"), [("uniform", 2.0), ("poisson", 2.0), ("uniform", 1.0), ("poisson", 1.0)]
)
def test_noise_is_a_v_of_its_own(V, init, kind, beta):
    solver = "cd" if beta == 2 else "mu"
    parameters = {"init": init, "beta_loss": beta, "solver": solver}
    ours = Found(V, Resampling(kind, 0.3), **parameters)
    theirs, _ = fitted(
        version_of(V, ours.version), n_components=K, random_state=5, max_iter=6, tol=0, **parameters
    )
    # Two models of a plain V share products; a model of a version has products of its own.
    np.testing.assert_allclose(ours.H, theirs.components_, rtol=1e-10, atol=1e-12)
    expected = [record.objective for record in theirs.history_ if record.objective is not None]
    assert [record.objective for record in ours.history] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", ["uniform", "poisson"])
def test_noise_leaves_what_is_missing_or_hidden_alone(V, kind):
    X = np.where(np.random.default_rng(1).random(V.shape) < 0.8, V, np.nan)
    told = {"entries": EntryWeights(nan=True, holdout=Holdout(0.1, 5, M))}
    (plain,) = tiles_of(X, **told)
    resampling = Resampling(kind, 0.3)
    (tile,) = map(resampling.seen, tiles_of(X, **told))
    whole = version_of(V, resampling)
    np.testing.assert_array_equal(tile.V, np.where(plain.weights == 0, 0, whole))
    np.testing.assert_array_equal(tile.weights, plain.weights)
    np.testing.assert_array_equal(tile.hidden.values, V[plain.hidden.rows, plain.hidden.columns])


@pytest.mark.parametrize(("kind", "beta"), KINDS_AND_LOSSES)
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_the_objective_never_rises_and_is_that_of_the_version(V, kind, beta, make):
    ours = Found(
        make(V),
        Resampling(kind, 0.3),
        init="random",
        beta_loss=beta,
        solver="mu",
        alpha_W=0.01,
        max_iter=12,
    )
    objectives = np.array([record.objective for record in ours.history])
    assert (np.diff(objectives) <= 1e-10 * objectives[:-1]).all()
    assert objectives[-1] < 0.9 * objectives[0]
    if beta == 2:  # the pass uses Gram matrices and the squares of the survey; here every entry is summed
        at = ours.run.progress
        W = ours.run.factors.read_rows(at.location.rows, 0, N)
        X = V if kind == "rows" else version_of(V, ours.version)
        a = ours.version.row_weights(0, N) if kind == "rows" else np.ones(N)
        expected = 0.5 * (a[:, None] * (X - W @ ours.H) ** 2).sum()
        assert ours.run.history[-1].loss == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [K, 18], ids=["by rows", "filled in"])
def test_the_objective_never_rises_where_entries_are_missing(V, kind, k):
    X = np.where(np.random.default_rng(1).random(V.shape) < 0.8, V, np.nan)
    ours = Found(X, Resampling(kind, 0.3), n_components=k, missing_values="nan", max_iter=8)
    objectives = np.array([record.objective for record in ours.history])
    assert (np.diff(objectives) <= 1e-10 * objectives[:-1]).all()
    assert objectives[-1] < 0.9 * objectives[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_the_same_for_any_chunks(V, kind, small_panels):
    parameters = {"sum_to_one": True, "fixed_components": np.ones((1, M)), "init": "random"}
    whole, *cut = (
        Found(X, Resampling(kind, 0.3), **parameters)
        for X in (V, *(da.from_array(V, chunks=(rows, 4)) for rows in (7, 30)))
    )
    assert len(cut[0].run.sums) == 9
    assert sum(cut[0].run.sums) == pytest.approx(V.sum(), rel=1e-12)
    for each in cut:
        np.testing.assert_allclose(each.H, whole.H, rtol=1e-9, atol=1e-12)
        assert each.history[-1].objective == pytest.approx(whole.history[-1].objective, rel=1e-10)
    np.testing.assert_array_equal(whole.H[0], 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_sums_that_guard_v_are_of_v_itself(V, kind, make):
    block = block_of([make(V)], PanelSpec(N, 0, M, np.dtype("f8"), checked=True))
    (survey,) = model_of(V, Resampling(kind, 0.5)).starts()[0]
    (tally,) = visit(block, [Visitor(survey, None, {})])
    assert block.total == pytest.approx(V.sum(), rel=1e-12)
    assert tally["sums"][1] != pytest.approx((V**2).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "poisson"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_the_same_for_any_chunks_storage_and_order_of_memory(V, kind, dtype):
    V = np.vstack([V, 30 * V]).astype(dtype)
    resampling = Resampling(kind, 0.4, seed=3)
    whole = version_of(V, resampling, dtype=dtype)
    cut = [V[:7], V[7:8], V[8:]]
    np.testing.assert_array_equal(version_of(V, resampling, dtype=dtype, slabs=cut), whole)
    turned = [np.asfortranarray(V)]
    np.testing.assert_array_equal(version_of(V, resampling, dtype=dtype, slabs=turned), whole)
    within = [np.hstack([V, V])[:, :M]]  # rows of a wider array
    np.testing.assert_array_equal(version_of(V, resampling, dtype=dtype, slabs=within), whole)
    X = scipy.sparse.csr_array(V)
    sparse = [X[:5], X[5:]]
    np.testing.assert_array_equal(version_of(V, resampling, dtype=dtype, slabs=sparse), whole)
    assert ((V == 0) <= (whole == 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_goes_by_its_place(kind):
    image = np.full((6 * 4, 5), 20.0)
    tiles = Tiles(((3, 3), (2, 2)))
    order = tiles.places(0, 24)
    assert (order != np.arange(24)).any()
    if kind == "rows":
        plain = Resampling().row_weights(0, 24)
        np.testing.assert_array_equal(Resampling(rows=tiles).row_weights(0, 24), plain[order])
        np.testing.assert_array_equal(Resampling().row_weights(7, 5), plain[7:12])
        return
    plain = version_of(image, Resampling(kind))
    np.testing.assert_array_equal(version_of(image, Resampling(kind, rows=tiles)), plain[order])


def test_weights_of_rows_are_exponential_of_mean_one():
    a = np.concatenate([Resampling(seed=seed).row_weights(0, 20_000) for seed in range(5)])
    assert scipy.stats.kstest(a, "expon").pvalue > 0.01
    assert a.min() > 0
    assert abs(a.mean() - 1) < 4 / np.sqrt(a.size)
    shares = a.reshape(-1, 10) / a.reshape(-1, 10).sum(axis=1, keepdims=True)
    assert scipy.stats.kstest(shares[:, 0], scipy.stats.beta(1, 9).cdf).pvalue > 0.01  # Dirichlet's margin


def test_uniform_noise_is_uniform_and_unbiased():
    V = np.full((400, 500), 7.0)
    u = (version_of(V, Resampling("uniform", 0.2, seed=1)) / V - 1) / 0.2
    assert abs(u.mean()) < 4 / np.sqrt(3 * u.size)
    assert scipy.stats.kstest(u.ravel(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert abs(u).max() < 1
    # Neighbours along rows and columns, and entries of other seeds, are independent.
    other = (version_of(V, Resampling("uniform", 0.2, seed=2)) / V - 1) / 0.2
    for left, right in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (u, other)):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 4 / np.sqrt(u.size)


@pytest.mark.parametrize("mean", [0.05, 1.0, 3.7, 9.99, 10.0, 31.4, 1e3, 1e7])
def test_counts_have_the_distribution_of_poisson(mean):
    V = np.full((300, 300), mean)
    counts = version_of(V, Resampling("poisson", seed=4)).ravel()
    assert (counts == np.floor(counts)).all()
    assert (counts >= 0).all()
    n = counts.size
    assert abs(counts.mean() - mean) < 4 * np.sqrt(mean / n)
    assert abs(counts.var() - mean) < 4 * np.sqrt((mean + 2 * mean**2) / n)
    truth = scipy.stats.poisson(mean)
    edges = np.unique(truth.ppf(np.linspace(0, 1, 21)[1:-1]))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(edges) + 1)
    expected = n * np.diff([0.0, *truth.cdf(edges), 1.0])
    assert scipy.stats.chisquare(observed, expected).pvalue > 0.005


@pytest.mark.parametrize("kind", ["uniform", "poisson"])
def test_a_version_is_v_on_average(V, kind):
    versions = np.mean([version_of(V, Resampling(kind, 0.5, seed=seed)) for seed in range(400)], axis=0)
    spread = np.sqrt(V if kind == "poisson" else (0.5 * V) ** 2 / 3) / 20
    assert (abs(versions - V) <= 5 * spread).all()


@pytest.mark.parametrize("epsilon", [0.1, None])
def test_what_no_model_takes_stays_what_it_is(epsilon):
    bad = np.array([[np.nan, np.inf, -np.inf, -2.0, 0.0, 2.0**60]])
    noisy = Noise(key_of(0, 1), epsilon).of_dense(bad, np.arange(1))
    np.testing.assert_array_equal(np.sign(noisy), np.sign(bad))
    np.testing.assert_array_equal(np.isfinite(noisy), np.isfinite(bad))
    assert noisy[0, 5] == pytest.approx(2.0**60, rel=0.1)


def test_the_tile_beside_stays_what_it_is(V):
    for X in (V, scipy.sparse.csr_array(V)):
        (tile,) = tiles_of(X)
        before = tile.take(np.arange(N)) * 1
        seen = [Resampling(kind, 0.4).seen(tile) for kind in KINDS]
        assert tile.row_weights is None
        assert abs(tile.take(np.arange(N)) - before).max() == 0
        versions = [each.take(np.arange(N)) for each in seen]
        assert abs(versions[0] - before).max() == 0
        assert abs(versions[1] - versions[2]).max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_read_see_versions_of_their_own(V, kind):
    """Models that share a walk have the results that they have alone."""
    models = [model_of(V, Resampling(kind, 0.3), seed) for seed in (1, 2)]
    surveys = [model.starts()[0][0] for model in models]
    together = visit(
        block_of([V], PanelSpec(N, 0, M, np.dtype("f8"), checked=True)),
        [Visitor(survey, None, {}) for survey in surveys],
    )
    assert together[0]["sums"][1] != together[1]["sums"][1]
    for survey, tally in zip(surveys, together, strict=True):
        (alone,) = visit(
            block_of([V], PanelSpec(N, 0, M, np.dtype("f8"), checked=True)),
            [Visitor(survey, None, {})],
        )
        np.testing.assert_array_equal(alone["sums"], tally["sums"])


def test_a_seed_settles_the_version(V):
    one = inputs_for(V, Resampling(), random_state=3)
    assert one.model.variant.resampling.seed == 3
    other = one.seeded(9).model.variant.resampling
    assert other.seed == 9
    assert (other.row_weights(0, N) != one.model.variant.resampling.row_weights(0, N)).all()
    problem = problem_of(NMF(K, random_state=3), one)
    assert problem.identity.model.perturbation == {"kind": "rows"}


def test_roles_are_not_exchanged(V):
    wide = np.repeat(V.T, 50, axis=1)
    assert inputs_for(wide, None, inner_iter="auto").roles.transposed
    assert not inputs_for(wide, Resampling()).roles.transposed


@pytest.mark.parametrize(
    ("resampling", "beta", "named"),
    [
        (Resampling("normal"), 2.0, "'normal'"),
        (Resampling("uniform", 1.5), 2.0, "epsilon is 1.5"),
        (Resampling("uniform", 0.0), 2.0, "epsilon is 0.0"),
        (Resampling("uniform", float("nan")), 2.0, "epsilon is nan"),
        (Resampling("poisson"), 0.0, "beta_loss is 0"),
    ],
)
def test_refused_in_one_line(V, resampling, beta, named):
    with pytest.raises(ValueError, match=named) as refused:
        Found(V + 1, resampling, beta_loss=beta, solver="mu" if beta != 2 else "cd", init="random")
    assert "\n" not in str(refused.value)


def test_the_benchmark_tells_nanoseconds_of_each_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.runner._REST", 0.0)
    out = tmp_path / "out.json"
    arguments = f"--dense 60 20 --sparse 60 50 0.2 -k 2 --repeats 2 --out {out}"
    CliRunner().invoke(benchmark.main, arguments.split(), catch_exceptions=False)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["V"], row["beta"], row["kind"]) for row in rows] == [
        (storage, beta, kind) for storage in ("dense", "sparse") for beta in (2.0, 1.0) for kind in KINDS
    ]
    assert all(row["drawn ns"] > 0 for row in rows)
