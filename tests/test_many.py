"""Several starts in the same reads: each is the fit that it would be alone, and the lowest wins."""

from __future__ import annotations

import pickle
import shutil
import warnings

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.decomposition._nmf import _beta_divergence
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from benchmarks.counting import CountingStore
from dasknmf import NMF, consensus, fit, open_run, open_sweep, rank_sweep
from dasknmf.errors import DataError, MemoryLimitError, RunError, RunMismatchError
from dasknmf.schedulers import Scheduler
from tests.helpers import DyingStore, Killed, fitted, stored, stored_sparse
from zarr.storage import LocalStore

R, K, N, M = 3, 3, 60, 14


def noisy(n=N, m=M, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random((n, 4)) @ rng.random((4, m)) + 0.2 * rng.random((n, m)) + 0.02


V = noisy()
HOLES = np.random.default_rng(2).random(V.shape) < 0.15
GAPS = np.where(HOLES, np.nan, V)
COUNTS = sp.csr_array(np.random.default_rng(3).poisson(2 * V))
WEIGHTS = {
    "sample_weight": np.random.default_rng(4).random(N) + 0.5,
    "feature_weight": np.random.default_rng(5).random(M) + 0.5,
}

CASES = {
    "cd": (V, {}, {}),
    "one step": (V, {"inner_iter": 1, "shuffle": True}, {}),
    "bpp": (V, {"solver": "bpp"}, {}),
    "mu": (V, {"solver": "mu"}, {}),
    "kl": (V, {"beta_loss": 1}, {}),
    "is": (V, {"beta_loss": 0}, {}),
    "beta=1.5": (V, {"beta_loss": 1.5}, {}),
    "sparse": (COUNTS, {}, {}),
    "sparse kl": (COUNTS, {"beta_loss": 1}, {}),
    "gaps": (GAPS, {"missing_values": "nan"}, {}),
    "gaps filled": (GAPS, {"missing_values": "nan", "n_components": 12, "solver": "mu"}, {}),
    "gaps kl": (GAPS, {"missing_values": "nan", "beta_loss": 1}, {}),
    "gaps sample": (GAPS, {"missing_values": "nan", "init": "sample"}, {}),
    "weights": (V, {}, WEIGHTS),
    "weights kl": (V, {"beta_loss": 1}, WEIGHTS),
    "weights of entries": (V, {}, {"weights": np.random.default_rng(6).random(V.shape)}),
    "hidden": (V, {}, {"holdout": 0.1}),
    "hidden sparse": (COUNTS, {"random_state": 1}, {"holdout": 0.1}),
    "penalties": (V, {"alpha_W": 0.02, "alpha_H": 0.01, "l1_ratio": 0.4}, {}),
    "sums of one": (V, {"sum_to_one": True}, {}),
    "known": (V, {"fixed_components": V[:1]}, {}),
    "sample": (V, {"init": "sample"}, {}),
    "sample of few": (V, {"init": "sample", "sample_bytes": 25 * M * 8}, {}),
    "sample kl": (V, {"init": "sample", "beta_loss": 1}, {}),
    "sketch": (V, {"init": "sketch"}, {}),
    "nndsvdar": (V, {"init": "nndsvdar"}, {}),
    "wide": (V.T.copy(), {}, {}),
    "wide kl": (V.T.copy(), {"beta_loss": 1}, {}),
    "float32": (V.astype("f4"), {}, {}),
}


def several(X, run=None, scheduler=None, **parameters):
    usual = {"n_components": K, "init": "random", "n_init": R, "max_iter": 20, "tol": 0}
    return fitted(X, scheduler, run, **usual | parameters)


@pytest.mark.parametrize("name", CASES)
def test_each_start_is_its_separate_fit(name):
    X, parameters, run = CASES[name]
    model, W = several(X, run, **parameters)
    assert len(set(model.start_seeds_.tolist())) == R
    close = {"rtol": 1e-5, "atol": 1e-5} if name == "float32" else {"rtol": 1e-10, "atol": 1e-10}
    losses, objectives, models = [], [], []
    for start, seed in enumerate(model.start_seeds_.tolist()):
        if run.get("holdout") and start:
            continue  # alone, another seed hides other entries
        alone, W_alone = several(X, run, **parameters | {"n_init": 1, "random_state": seed})
        losses.append(alone.history_[-1].loss)
        objectives.append(alone.history_[-1].objective)
        models.append((alone, W_alone))
        own = model.history_.of_model(start)
        told = [(r.iteration, r.phase) for r in alone.history_ if r.loss is not None]
        assert [(r.iteration, r.phase) for r in own] == told
        np.testing.assert_allclose(
            [r.objective for r in own if r.objective is not None],
            [r.objective for r in alone.history_ if r.objective is not None],
            rtol=close["rtol"],
        )
    np.testing.assert_allclose(model.start_losses_[: len(losses)], losses, rtol=close["rtol"])
    if len(losses) == R:
        assert model.best_start_ == np.argmin(objectives)
        assert len(set(np.round(objectives, 9))) > 1  # else nobody could tell them apart
    if model.best_start_ < len(models):
        alone, W_alone = models[model.best_start_]
        np.testing.assert_allclose(W, W_alone, **close)
        np.testing.assert_allclose(model.components_, alone.components_, **close)
        assert model.n_reads_ == alone.n_reads_
        assert model.n_iter_ == alone.n_iter_ == 20
        assert model.reconstruction_err_ == pytest.approx(alone.reconstruction_err_, rel=1e-6)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_chunks_and_schedulers_do_not_matter(small_panels, tmp_path, beta, cluster):
    one, W = several(V, beta_loss=beta, inner_iter=2, max_iter=6)
    array = stored(tmp_path / "v", V, (17, 5))
    found = [
        several(array, scheduler=scheduler, beta_loss=beta, inner_iter=2, max_iter=6)
        for scheduler in ("synchronous", "threads", cluster)
    ]
    for model, W_stored in found:
        np.testing.assert_array_equal(W_stored, found[0][1])
        np.testing.assert_array_equal(model.components_, found[0][0].components_)
        np.testing.assert_array_equal(model.start_losses_, found[0][0].start_losses_)
        np.testing.assert_allclose(W_stored, W, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(model.start_losses_, one.start_losses_, rtol=1e-10)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_x_is_read_as_for_one(small_panels, tmp_path, beta):
    stored(tmp_path / "v", V, (17, M))
    read = {}
    for n_init in (1, 4):
        import zarr

        store = CountingStore(LocalStore(tmp_path / "v"))
        model, _ = several(zarr.open_array(store, mode="r"), n_init=n_init, beta_loss=beta, max_iter=5)
        read[n_init] = store.nbytes, model.n_reads_, [r.reads for r in model.history_], len(model.history_)
    assert read[4] == read[1]


ENDINGS = {
    "cd": (V, {"tol": 1e-2}),
    "scikit-learn's": (V, {"tol": 3e-2, "inner_iter": 1}),
    "mu": (V, {"tol": 3e-2, "inner_iter": 1, "solver": "mu"}),
    "kl": (V, {"tol": 0.15, "beta_loss": 1}),
    "is": (V, {"tol": 0.15, "beta_loss": 0}),
    "gaps filled": (GAPS, {"tol": 0.3, "missing_values": "nan", "n_components": 12, "solver": "mu"}),
    "exact": (V[:, :2] @ V[:2], {"tol": 1e-9, "n_components": 2, "max_iter": 120}),
    "sample": (V, {"tol": 1e-6, "init": "sample"}),
}


def divergence_of(X, W, H, beta):
    seen = ~np.isnan(X)
    if seen.all():
        return _beta_divergence(X, W, H, beta)
    return 0.5 * ((X - W @ H)[seen] ** 2).sum()


@pytest.mark.parametrize(
    ("name", "stores"), [*((name, False) for name in ENDINGS), ("cd", True), ("kl", True), ("mu", True)]
)
def test_each_ends_when_it_would_alone(tmp_path, name, stores):
    X, parameters = ENDINGS[name]
    parameters = {"n_init": 4, "max_iter": 30} | parameters
    run = {"checkpoint": tmp_path / "run"} if stores else {}
    model, W = several(X, run, **parameters)
    ends = []
    for start, seed in enumerate(model.start_seeds_.tolist()):
        alone, W_alone = several(X, **parameters | {"n_init": 1, "random_state": seed})
        ends.append(alone.n_iter_)
        assert model.start_losses_[start] == pytest.approx(alone.history_[-1].loss, rel=1e-8, abs=1e-20)
        if start == model.best_start_:
            np.testing.assert_allclose(W, W_alone, rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(model.components_, alone.components_, rtol=1e-8, atol=1e-9)
            assert model.n_iter_ == alone.n_iter_
    assert len(set(ends)) > 1  # else this test tells nothing
    assert max(record.iteration for record in model.history_) == max(ends)
    beta = parameters.get("beta_loss", 2)
    loss = divergence_of(X, W, model.components_, beta)
    assert model.history_[-1].loss == pytest.approx(loss, rel=1e-6, abs=1e-12)
    assert model.start_losses_[model.best_start_] == np.min(model.start_losses_)
    objective = np.array([r.objective for r in model.history_ if r.objective is not None])
    assert (np.diff(objective) <= 1e-10 * objective[:-1] + 1e-9).all()
    if stores:
        opened = open_run(tmp_path / "run")
        np.testing.assert_array_equal(opened.W.compute(), W)
        np.testing.assert_array_equal(opened.H, model.components_)
        again, W_again = several(X, run, **parameters)
        np.testing.assert_array_equal(W_again, W)
        assert again.n_reads_ == model.n_reads_
        np.testing.assert_array_equal(again.start_losses_, model.start_losses_)


def test_the_higher_half_is_given_up(tmp_path):
    runs = []
    for target in (None, tmp_path / "run"):
        model, W = several(V, {"checkpoint": target}, n_init=7, halving=True, max_iter=20)
        runs.append((model, W))
        took_part = {}
        for record in model.history_.exact:
            took_part[record.iteration] = [advance.model for advance in record.models]
        assert [len(took_part[i]) for i in (1, 4, 5, 8, 9, 16, 17, 20)] == [7, 7, 4, 4, 2, 2, 1, 1]
        for last in (4, 8, 16):
            at = next(record for record in model.history_.exact if record.iteration == last)
            by_objective = sorted(at.models, key=lambda advance: advance.objective)
            kept = sorted(advance.model for advance in by_objective[: len(took_part[last + 1])])
            assert took_part[last + 1] == kept
        assert model.best_start_ == took_part[20][0]
        assert np.isfinite(model.start_losses_).all()
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    seed = int(model.start_seeds_[model.best_start_])
    _, W_alone = several(V, n_init=1, random_state=seed)
    np.testing.assert_allclose(W, W_alone, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_halves_that_end_at_different_passes(tmp_path, beta):
    """Those that are left may have ended before the last pass, which has nothing of theirs."""
    X, parameters = V, {"n_init": 6, "halving": True, "max_iter": 30, "beta_loss": beta, "tol": 0.1}
    for seed in range(3):
        run = {"checkpoint": tmp_path / f"run{seed}"}
        model, W = several(X, run, random_state=seed, **parameters)
        start = int(model.start_seeds_[model.best_start_])
        alone, W_alone = several(X, **parameters | {"n_init": 1, "halving": False, "random_state": start})
        np.testing.assert_allclose(W, W_alone, rtol=1e-8, atol=1e-9)
        assert model.n_iter_ == alone.n_iter_
        finer, _ = several(X, run, random_state=seed, **parameters | {"tol": 1e-2})
        assert finer.history_[-1].objective <= model.history_[-1].objective


class Narrow:
    """A scheduler's memory in which so many models of `several` fit together."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch

    def __call__(self, nbytes):
        self._monkeypatch.setattr(Scheduler, "baseline", property(lambda self: 0))
        self._monkeypatch.setattr(Scheduler, "memory_limit", property(lambda self: nbytes))


@pytest.fixture
def narrow(monkeypatch):
    return Narrow(monkeypatch)


WIDE = np.random.default_rng(0).random((12, 3)) @ np.random.default_rng(1).random((3, 20_000)) + 0.01


def least_for(n_init, narrow, **parameters):
    """The memory below which so many models do not share a read."""
    low, high = 2**20, 2**33
    while high - low > 2**16:
        narrow((low + high) // 2)
        try:
            found, _ = several(WIDE.T, n_init=n_init, max_iter=1, **parameters)
            shared = found.history_.exact[0].reads - found.history_[0].reads == 1
        except MemoryLimitError:
            shared = False
        low, high = (low, (low + high) // 2) if shared else ((low + high) // 2, high)
    return high
