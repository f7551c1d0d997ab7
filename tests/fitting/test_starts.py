"""Starts with few reads: their quality, and fits where they fail."""

from __future__ import annotations

import itertools
import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from sklearn.decomposition import NMF as Theirs
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF
from dasknmf.core.blocks.lowrank import LowRankBlock
from dasknmf.core.history import exact_loss
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers import nnls
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.core.starts import random_start, sample, trial
from dasknmf.core.starts.trial import Fitted, Trial
from dasknmf.errors import DataError, MemoryLimitError, NumericalError
from dasknmf.fitting.model import Model
from tests.helpers import cuts, examples, fitted, stored

CASES = [
    ("sketch", "cd", 2.0),
    ("sketch", "bpp", 2.0),
    ("sketch", "mu", 2.0),
    ("sample", "cd", 2.0),
    ("sample", "bpp", 2.0),
    ("sample", "mu", 2.0),
    ("sample", "mu", 1.0),
    ("sample", "mu", 0.0),
    ("sample", "mu", 0.5),
    ("sample", "mu", 2.5),
]


@pytest.fixture(scope="module")
def counts():
    """Poisson counts of rank 5, 1200 x 40, none of them zero."""
    rng = np.random.default_rng(3)
    W = rng.gamma(0.4, size=(1200, 5))
    return (rng.poisson(8 * W @ rng.gamma(0.4, size=(5, 40))) + 0.5).astype(np.float64)


@pytest.mark.parametrize(("init", "solver", "beta"), CASES)
def test_chunking_does_not_matter(small_panels, short_trials, counts, init, solver, beta):
    X = counts[:90]
    parameters = {"n_components": 3, "solver": solver, "beta_loss": beta, "init": init}
    # Half the rows: the sample is one, and is audited.
    parameters |= {"inner_iter": 2, "max_iter": 3, "sample_bytes": 45 * 40 * 8}
    whole, W_whole = fitted(da.from_array(X, chunks=(90, 40)), **parameters)

    @given(cuts(90), cuts(40))
    @examples(0.4)
    def check(rows, columns):
        cut, W_cut = fitted(da.from_array(X, chunks=(rows, columns)), **parameters)
        if len(rows) == 1 < len(columns):
            return  # cut by columns only, the roles are exchanged: another fit
        np.testing.assert_allclose(W_cut, W_whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cut.components_, whole.components_, rtol=1e-5, atol=1e-6)

    check()


@pytest.mark.parametrize(("init", "solver", "beta"), CASES)
def test_few_reads_are_as_good_as_two_hundred_iterations(counts, tmp_path, init, solver, beta):
    V = stored(tmp_path / "v.zarr", counts, (100, 40))
    plain, _ = fitted(
        counts,
        n_components=5,
        solver=solver,
        beta_loss=beta,
        init="random",
        inner_iter=1,
        tol=0,
        max_iter=200,
    )
    few, _ = fitted(V, n_components=5, solver=solver, beta_loss=beta, init=init, tol=0, max_iter=6)
    assert few.n_reads_ <= (3 if init == "sketch" else 1) + 6 + 1
    assert few.init_ == init
    assert few.history_[-1].loss <= 1.01 * plain.history_[-1].loss


@pytest.mark.parametrize("init", ["sketch", "sample"])
def test_against_scikit_learn(counts, init):
    theirs = Theirs(5, init="nndsvda", tol=0, max_iter=200).fit(counts)
    ours, _ = fitted(counts, n_components=5, init=init, tol=0, max_iter=3)
    assert ours.reconstruction_err_ <= 1.001 * theirs.reconstruction_err_


@pytest.mark.parametrize(
    ("init", "plain"), [("sample", "random"), ("sketch", "nndsvda")], ids=["sample", "sketch"]
)
def test_a_start_that_fails_costs_its_reads_only(counts, monkeypatch, init, plain):
    """The plain start advances beside it, wins, and goes on as if there had been no other."""
    useless = Fitted(np.full((5, 40), 1e-9), 0.0, 1.0)
    monkeypatch.setattr(Trial, "of_rows", lambda self, V, columns: useless)
    monkeypatch.setattr(Trial, "of_sketch", lambda self, R, Q, mean: useless)
    parameters = {"n_components": 5, "inner_iter": 3, "max_iter": 8, "tol": 0}
    ours, W = fitted(counts, init=init, sample_bytes=counts.nbytes // 2, **parameters)
    without, W_without = fitted(counts, init=plain, **parameters)
    np.testing.assert_allclose(W, W_without, rtol=1e-9)
    np.testing.assert_allclose(ours.components_, without.components_, rtol=1e-9)
    assert ours.n_reads_ == without.n_reads_
    assert {"rival 0", "rival 1"} <= set(ours.history_.exact[1].measures)
    assert "rival 0" not in ours.history_.exact[2].measures


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.0)])
def test_a_feature_that_the_sample_missed_is_fitted(counts, solver, beta):
    V = counts[:, :39].copy()
    drawn = random_start.uniform_rows(0, random_start.DRAW_STREAM, np.arange(len(V))) < 0.1
    rare = np.zeros((len(V), 1))
    outside = np.flatnonzero(~drawn)[::9]
    rare[outside, 0] = 3.0 * V[outside, 0]
    V = np.hstack([V, rare])
    model, W = fitted(
        V,
        n_components=5,
        solver=solver,
        beta_loss=beta,
        init="sample",
        sample_bytes=int(0.1 * V.nbytes),
        max_iter=60,
        tol=0,
    )
    assert not V[drawn, 39].any()
    told = np.corrcoef(W @ model.components_[:, 39], V[:, 39])[0, 1]
    best, W_best = fitted(V, n_components=5, solver=solver, beta_loss=beta, init="random", max_iter=300)
    assert told >= 0.9 * np.corrcoef(W_best @ best.components_[:, 39], V[:, 39])[0, 1]
    assert W @ model.components_[:, 39] @ V[:, 39] > 0


def test_rows_unlike_the_sample_are_seen_in_the_first_pass(counts, monkeypatch):
    """A donor with programs of its own, none of whose rows were drawn: H is fitted once more."""
    V = counts.copy()
    numbers = random_start.uniform_rows(0, random_start.DRAW_STREAM, np.arange(len(V)))
    share = 0.05
    rng = np.random.default_rng(1)
    strange = np.flatnonzero(numbers[:120] >= share)
    V[strange] = rng.gamma(0.3, size=(len(strange), 2)) @ rng.gamma(0.1, size=(2, 40)) * 400
    parameters = {"n_components": 7, "init": "sample", "beta_loss": 1, "tol": 0}
    parameters["sample_bytes"] = int(share * V.nbytes)
    refitted = []
    fit_rows = Trial.of_rows

    def counted(self, rows, columns):
        refitted.append(len(rows))
        return fit_rows(self, rows, columns)

    monkeypatch.setattr(Trial, "of_rows", counted)
    audited, _ = fitted(V, max_iter=2, **parameters)
    assert len(refitted) == 2
    assert refitted[1] > refitted[0]
    monkeypatch.setattr(sample, "_MUCH", 2.0)
    blind, _ = fitted(V, max_iter=2, **parameters)
    assert len(refitted) == 3
    assert audited.history_[-1].loss < blind.history_[-1].loss


@pytest.mark.parametrize("max_iter", [1, 2, 3])
@pytest.mark.parametrize(("init", "solver", "beta"), CASES)
@pytest.mark.parametrize("exact", [False, True], ids=["counts", "exact rank"])
def test_the_loss_told_is_that_of_the_pair_returned(
    counts, short_trials, monkeypatch, exact, init, solver, beta, max_iter
):
    """Also where the audit fits H once more, which the first pass only prepares."""
    monkeypatch.setattr(sample, "_FAR", 0.0)
    monkeypatch.setattr(sample, "_MUCH", 0.0)
    rng = np.random.default_rng(0)
    V = rng.random((300, 4)) @ rng.random((4, 40)) + 0.1 if exact else counts[:300]
    model, W = fitted(
        V,
        n_components=5,
        solver=solver,
        beta_loss=beta,
        init=init,
        sample_bytes=100 * 40 * 8,
        max_iter=max_iter,
    )
    loss = Loss(beta).rows(V, W @ model.components_, np.finfo(np.float32).eps * V.mean()).sum()
    scale = (V**2).sum() if beta == 2 else loss
    assert model.history_[-1].loss == pytest.approx(loss, rel=1e-9, abs=1e-13 * scale)


def test_a_trial_out_of_range_ends_no_fit(counts, monkeypatch):
    def lost(self, *arguments):
        raise NumericalError("out of range")

    monkeypatch.setattr(Trial, "_best", lost)
    shared = {"n_components": 5, "max_iter": 20, "tol": 0}
    beside, _ = fitted(counts, init="sample", sample_bytes=counts.nbytes // 2, **shared)
    without, _ = fitted(counts, init="random", **shared)
    assert beside.reconstruction_err_ == pytest.approx(without.reconstruction_err_, rel=1e-5)
    alone, _ = fitted(counts, init="sample", **shared)  # a sample of all of V has no rival
    assert np.linalg.matrix_rank(alone.components_) == 5
    assert alone.reconstruction_err_ <= 1.05 * without.reconstruction_err_


def test_a_sample_of_all_of_V_has_no_rival(counts):
    model, W = fitted(counts, n_components=5, init="sample", max_iter=3, tol=0)
    assert all("rival 0" not in record.measures for record in model.history_)
    theirs = Theirs(5, init="nndsvda", max_iter=2000, tol=1e-8).fit(counts)
    assert model.reconstruction_err_ <= 1.0001 * theirs.reconstruction_err_
    assert W.shape == (len(counts), 5)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_a_fit_with_nothing_said_ends_by_itself_after_few_reads(counts, beta):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = NMF(5, beta_loss=beta, random_state=0).fit(counts)
    assert model.n_reads_ <= 8
    long = NMF(5, beta_loss=beta, random_state=0, tol=1e-9, max_iter=500).fit(counts)
    assert model.history_[-1].loss <= 1.005 * long.history_[-1].loss


def test_a_fit_that_max_iter_ends_says_what_the_last_read_gained(counts):
    with pytest.warns(ConvergenceWarning, match=r"last pass lowered the objective by a share of [\d.e-]+"):
        NMF(5, init="random", random_state=0, max_iter=4).fit(counts)


def test_a_checkpoint_holds_no_rows_of_V(small_panels, counts, tmp_path):
    V = stored(tmp_path / "v.zarr", counts, (100, 40))
    fitted(V, run={"checkpoint": tmp_path / "run"}, n_components=3, init="sample", max_iter=2)
    largest = max(path.stat().st_size for path in (tmp_path / "run" / "small").rglob("*") if path.is_file())
    assert largest < 40 * 40 * 8  # of H and of numbers, not of the 64 MiB that were drawn


@pytest.mark.parametrize(("init", "plain"), [("sample", "random"), ("sketch", "nndsvda")])
def test_noise_is_fitted_as_well_as_without(init, plain):
    errors, reads = [], []
    for seed in range(5):
        V = np.random.default_rng(seed).random((900, 30))
        both = [
            fitted(V, n_components=4, init=each, random_state=seed, max_iter=500)[0] for each in (init, plain)
        ]
        errors.append(both[0].reconstruction_err_ / both[1].reconstruction_err_)
        reads.append(both[0].n_reads_ - both[1].n_reads_)
    assert np.median(errors) <= 1.0005
    assert np.median(reads) <= 4


@pytest.mark.parametrize(("init", "beta"), [("sketch", 2.0), ("sample", 2.0), ("sample", 1.0)])
def test_stopped_between_the_rivals_and_continued(small_panels, counts, tmp_path, init, beta):
    V = stored(tmp_path / "v.zarr", counts[:90], (30, 40))
    parameters = {"n_components": 3, "init": init, "beta_loss": beta, "tol": 0}
    parameters["sample_bytes"] = 45 * 40 * 8
    whole, W_whole = fitted(V, max_iter=4, **parameters)
    run = {"checkpoint": tmp_path / "run"}
    for max_iter in (1, 2, 4):
        model, W = fitted(V, run=run, max_iter=max_iter, **parameters)
        assert model.components_.shape == (3, 40)
        assert W.shape == (90, 3)
    np.testing.assert_array_equal(W, W_whole)
    np.testing.assert_array_equal(model.components_, whole.components_)


@pytest.mark.parametrize(
    ("shape", "beta", "more", "init"),
    [
        ((300, 20), 2.0, {}, "sample"),
        ((300, 20), 2.0, {"inner_iter": 1}, "nndsvda"),
        ((300, 20), 2.0, {"n_init": 2}, "random"),
        ((10, 20), 2.0, {"n_components": 15, "inner_iter": 1}, "random"),
        ((30000, 20), 2.0, {}, "sample"),
        ((30000, 20), 2.0, {"inner_iter": 1}, "nndsvda"),
        ((30000, 20), 1.0, {}, "sample"),
        ((30000, 20), 2.0, {"sample_bytes": 20 * 8 * 299}, "sketch"),
        ((30000, 20), 1.0, {"sample_bytes": 20 * 8 * 299}, "sample"),
        ((30000, 20), 1.0, {"sample_bytes": 20 * 8 * 11}, "nndsvda"),
        ((30000, 2), 2.0, {"sample_bytes": 2 * 8 * 299}, "random"),
    ],
)
def test_what_none_chooses(short_trials, shape, beta, more, init):
    X = np.random.default_rng(0).random(shape)
    model, _ = fitted(X, **{"n_components": 3, "beta_loss": beta, "max_iter": 1} | more)
    assert model.init_ == init


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"init": "sketch", "beta_loss": 1}, "init = 'sketch' can only be used with the Frobenius loss"),
        ({"init": "sketch", "n_components": 15}, "init = 'sketch' can only be used when n_components"),
        ({"init": "sample", "sample_bytes": 100}, "sample_bytes is 100, enough for 0 rows .* needs 12 rows"),
    ],
)
def test_what_starts_refuse(low_rank, parameters, message):
    with pytest.raises(ValueError, match=message):
        fitted(low_rank, **{"n_components": 3} | parameters)


@pytest.mark.parametrize("init", ["sketch", "sample"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_bad_data_is_refused_before_anything_is_kept(small_panels, counts, tmp_path, init, value):
    X = counts[:90].copy()
    X[70, 3] = value
    V = stored(tmp_path / "v.zarr", X, (30, 40))
    with pytest.raises(DataError):
        fitted(V, run={"checkpoint": tmp_path / "run"}, n_components=3, init=init)
    assert not (tmp_path / "run" / "commit").exists()


def test_a_sample_that_would_not_fit_is_refused(counts, tmp_path, monkeypatch):
    V = stored(tmp_path / "v.zarr", counts, (100, 40))
    monkeypatch.setattr(
        "dasknmf.engine.scheduler.Scheduler.memory_limit", property(lambda self: self.baseline + 2**28)
    )
    fitted(V, n_components=3, init="sample", max_iter=1)
    monkeypatch.setattr(Model, "_draw", lambda self: sample.Draw(self._trial(), 10**6, 1.0, 8e6))
    with pytest.raises(MemoryLimitError, match="projected to peak"):
        fitted(V, n_components=3, init="sample", max_iter=1)


@pytest.mark.parametrize("init", ["sketch", "sample"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_data(init, value):
    X = np.full((50, 8), value)
    model, W = fitted(X, n_components=2, init=init)
    np.testing.assert_allclose(W @ model.components_, X, atol=1e-6)


def test_penalties_reach_the_sample(counts):
    """A penalised fit starts from an H that knows of the penalty: two passes leave little to gain."""
    parameters = {"n_components": 5, "alpha_H": 0.3, "alpha_W": 0.05, "l1_ratio": 0.5, "tol": 0}
    few, _ = fitted(counts, init="sample", sample_bytes=counts.nbytes // 3, max_iter=2, **parameters)
    many, _ = fitted(counts, init="random", max_iter=300, **parameters)
    assert few.history_.exact[-1].objective <= 1.03 * many.history_.exact[-1].objective


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_uniform_numbers_depend_on_the_row_alone(parts):
    whole = random_start.uniform_rows(7, random_start.DRAW_STREAM, np.arange(1001))
    edges = np.linspace(0, 1001, parts + 1).astype(int).tolist()
    pieces = [
        random_start.uniform_rows(7, random_start.DRAW_STREAM, np.arange(first, stop))
        for first, stop in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert 0 <= whole.min() < whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.05


def test_a_sketch_answers_as_the_matrix_it_stands_for():
    rng = np.random.default_rng(0)
    R, Q = rng.standard_normal((30, 5)), np.linalg.qr(rng.standard_normal((12, 5)))[0]
    V, W, H = R @ Q.T, rng.random((30, 3)), rng.random((3, 12))
    (tile,) = LowRankBlock(R, Q).tiles()
    np.testing.assert_allclose(tile.cross(H.T), V @ H.T)
    A = np.ones((3, 12))
    tile.add_cross(W, A)
    np.testing.assert_allclose(A, 1 + W.T @ V)
    np.testing.assert_allclose(tile.residual(W, H), 0.5 * ((V - W @ H) ** 2).sum())


def test_draws_are_compared_by_their_own_loss(counts, monkeypatch):
    """More draws can only help on the part that they are compared on."""
    H = {}
    for draws in (1, 6):
        monkeypatch.setattr(trial, "_DRAWS", draws)
        model = NMF(6, init="sample", beta_loss="kullback-leibler", random_state=3, max_iter=5, tol=0)
        H[draws] = model.fit(counts).history_[-1].loss
    assert H[6] <= 1.001 * H[1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", [2**23, 2**20])
@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_the_number_of_cores_changes_no_bit(monkeypatch, beta, part):
    """One core, and starts that are compared on a part of the rows, among them."""
    rng = np.random.default_rng(8)
    V = rng.poisson(5 * rng.gamma(0.5, size=(600, 2)) @ rng.gamma(0.5, size=(2, 1100))).astype(np.float64)
    monkeypatch.setattr(trial, "_PART_BYTES", part)
    monkeypatch.setattr(trial, "_BLOCK_BYTES", 2**20)
    factors = []
    for cores in (1, 3):
        monkeypatch.setattr(trial.joblib, "cpu_count", lambda cores=cores: cores)
        model, W = fitted(V, n_components=2, init="sample", beta_loss=beta)
        factors.append((W, model.components_))
    for one, more in zip(*factors, strict=True):
        np.testing.assert_array_equal(one, more)


def test_an_exact_fit_ends_all_courses(monkeypatch):
    rng = np.random.default_rng(2)
    V = rng.random((60, 3)) @ rng.random((3, 30))
    walks = []
    walked = trial._walked
    monkeypatch.setattr(trial, "_walked", lambda *arguments: walks.append(0) or walked(*arguments))
    found = Trial(3, V.dtype, Loss(2.0), Penalties(), 0, 60, SOLVERS["cd"]).of_rows(V, V.mean(axis=0))
    assert found.loss <= exact_loss(V.dtype, (V**2).sum())
    assert len(walks) <= 5 * trial._MOST_PASSES / 4


def test_a_course_that_cannot_catch_up_ends():
    course = trial._Course.__new__(trial._Course)
    course.best = Fitted(np.ones((1, 1)), 2.0, 2.0)
    assert course.may_reach(1.0, gain=0.1)
    assert not course.may_reach(1.0, gain=0.09)
    assert course.may_reach(2.0, gain=0.0)


@pytest.mark.parametrize(("n_rows", "least", "most"), [(20, 1000, 2000), (10**6, 20, 400)])
def test_the_budget_of_a_trial_follows_from_sizes(n_rows, least, most):
    """Small V may be fitted until convergence; of large V a trial costs no more than it saves."""
    start = Trial(10, np.dtype("float32"), Loss(2.0), Penalties(), 0, n_rows, SOLVERS["cd"])
    assert least <= start._budget(n_rows, 100, 1) <= most
    assert start._budget(max(1, n_rows // 100), 100, 1) >= 1000


@pytest.mark.parametrize("noise", [3e-4, 1e-3])
def test_float32_is_as_good_as_float64_where_the_fit_is_close(noise):
    rng = np.random.default_rng(4)
    V = rng.random((600, 4)) @ rng.random((4, 50))
    V = np.maximum(V * (1 + noise * rng.standard_normal(V.shape)), 0)
    errors = [NMF(4, random_state=0).fit(V.astype(dtype)).reconstruction_err_ for dtype in ("f4", "f8")]
    assert errors[0] <= 1.05 * errors[1]


@pytest.mark.parametrize("missing", ["error", "nan"])
def test_more_components_than_features_take_no_search_for_zeros(monkeypatch, missing):
    """With 200 components for 30 features, each search took seconds and the fit two minutes."""
    solved = []
    monkeypatch.setattr(nnls, "solve", lambda *arguments: solved.append(arguments))
    V = np.random.default_rng(0).random((40, 30)) + 0.1
    if missing == "nan":
        V[::7, ::5] = np.nan
    model, W = fitted(V, n_components=200, max_iter=20, missing_values=missing)
    assert model.init_ == "sample"
    assert not solved
    assert np.nansum((V - W @ model.components_) ** 2) < 1e-6 * np.nansum(V**2)
