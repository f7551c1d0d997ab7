"""Several starts in the same reads: each equals its fit alone, and the lowest objective wins."""

from __future__ import annotations

import pickle
import shutil
import warnings
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.decomposition._nmf import _beta_divergence
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from zarr.storage import LocalStore

from benchmarks.counting import CountingStore
from dasknmf import NMF, open_run, open_sweep, rank_sweep
from dasknmf.engine.scheduler import Scheduler
from dasknmf.errors import DataError, MemoryLimitError, RunMismatchError
from dasknmf.fitting import memory
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection.study import open_study
from tests.helpers import DyingStore, Killed, fitted, stored

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
            continue  # alone it would hide the entries of another seed
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
        # Else equality would show nothing.
        assert len({alone.components_.tobytes() for alone, _ in models}) > 1
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
    "is": (V, {"tol": 0.01, "beta_loss": 0}),
    "gaps filled": (GAPS, {"tol": 0.3, "missing_values": "nan", "n_components": 12, "solver": "mu"}),
    "exact": (V[:, :2] @ V[:2], {"tol": 1e-9, "n_components": 2, "max_iter": 120}),
    "sample": (V, {"tol": 1e-3, "init": "sample", "sample_bytes": 25 * M * 8}),
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
    assert len(set(ends)) > 1  # else this test shows nothing
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
    """The models that are left may have ended before the last pass, which then has no state of theirs."""
    X, parameters = V, {"n_init": 6, "halving": True, "max_iter": 30, "beta_loss": beta, "tol": 0.1}
    for seed in range(2):
        run = {"checkpoint": tmp_path / f"run{seed}"}
        model, W = several(X, run, random_state=seed, **parameters)
        start = int(model.start_seeds_[model.best_start_])
        alone, W_alone = several(X, **parameters | {"n_init": 1, "halving": False, "random_state": start})
        np.testing.assert_allclose(W, W_alone, rtol=1e-8, atol=1e-9)
        assert model.n_iter_ == alone.n_iter_
        finer, _ = several(X, run, random_state=seed, **parameters | {"tol": 1e-2})
        assert finer.history_[-1].objective <= model.history_[-1].objective


@pytest.fixture
def room_for(monkeypatch):
    """Limits the memory of this process to the need of some number of models."""
    project = memory.Footprint.projection

    def room(count, X, parameters):
        peaks = []

        def noted(*arguments):
            peaks.append(project(*arguments).peak)
            return project(*arguments)

        with monkeypatch.context() as context:
            context.setattr(memory.Footprint, "projection", noted)
            context.setattr(Scheduler, "memory_limit", 2**40)
            context.setattr(Scheduler, "baseline", 0)
            several(X, **parameters | {"n_init": count, "max_iter": 1, "scheduler": "synchronous"})
        monkeypatch.setattr(Scheduler, "baseline", 0)
        # Rows of waiting models stay in memory: less than one more model in a read needs.
        monkeypatch.setattr(Scheduler, "memory_limit", max(peaks) + 2**17)
        return max(peaks)

    return room


BROAD = noisy(40, 800)


@pytest.mark.parametrize(
    ("parameters", "stores"),
    [({}, False), ({}, True), ({"beta_loss": 1}, True), ({"init": "sample", "sample_bytes": 80_000}, False)],
    ids=["cd in memory", "cd", "kl", "sample"],
)
def test_models_that_do_not_fit_together_take_turns(room_for, tmp_path, caplog, parameters, stores):
    X, usual = da.from_array(BROAD, chunks=(15, 800)), {"n_init": 5, "max_iter": 5, "inner_iter": 2}
    usual = usual | parameters
    whole, W = several(X, scheduler="synchronous", **usual)
    assert not caplog.records
    for count, turns in ((2, 3), (1, 5)):
        room_for(count, X, usual)
        run = {"checkpoint": tmp_path / f"run{count}"} if stores else {}
        model, W_turns = several(X, run, scheduler="synchronous", **usual)
        assert f"each pass reads V {turns} times" in caplog.text
        np.testing.assert_allclose(W_turns, W, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(model.components_, whole.components_, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(model.start_losses_, whole.start_losses_, rtol=1e-12)
        reads = [record.reads for record in model.history_]
        exact = [r.reads - before for r, before in zip(model.history_, [0, *reads], strict=False)]
        assert {each for each, r in zip(exact, model.history_, strict=True) if r.phase == "exact"} == {turns}
        if stores:
            generations = {path.name for path in (tmp_path / f"run{count}" / "W").iterdir()} - {"zarr.json"}
            position = open_run(tmp_path / f"run{count}").progress
            assert generations >= position.versions
            # Others are of the pass before, which a reader may have pinned.
            last = max(int(name.split("-")[0]) for name in position.versions)
            assert {int(name.split("-")[0]) for name in generations} <= {last, last - 1}
            assert turns <= len(generations) <= 2 * turns
            np.testing.assert_array_equal(open_run(tmp_path / f"run{count}").W.compute(), W_turns)
        caplog.clear()


class Unread:
    """Chunks that must not be computed."""

    def __call__(self, block):
        raise AssertionError("X was read")


def test_where_not_even_one_fits_nothing_is_read(room_for, monkeypatch, tmp_path):
    one = room_for(1, BROAD, {})
    monkeypatch.setattr(Scheduler, "memory_limit", one // 2)
    X = da.from_array(BROAD, chunks=(15, 800)).map_blocks(Unread(), meta=np.empty((0, 0)))
    for run in ({}, {"checkpoint": tmp_path / "run"}):
        with pytest.raises(MemoryLimitError, match="fit fewer components"):
            several(X, run, "synchronous")
        with pytest.raises(MemoryLimitError, match="fit fewer components"):
            rank_sweep(X, [2, 3], n_init=2, random_state=0, **run)
    assert not (tmp_path / "run").exists()


def deaths_of(store):
    """Deaths before each commit, after the last commit, and while findings are written."""
    commits = [i for i, key in enumerate(store.keys) if key.startswith("commit/")]
    found = next((i for i, key in enumerate(store.keys) if key.startswith("selection/")), len(store.keys))
    return sorted({*commits, *range(found + 2, len(store.keys), 12), commits[-1] + 1} - {len(store.keys)})


def assert_no_death_matters(tmp_path, run, same):
    """`run` returns the result for X at a store; `same` compares two results."""
    quiet = DyingStore(tmp_path / "quiet")
    whole = run(quiet)
    at = deaths_of(quiet)
    assert len(at) > 3
    for after in at:
        root = tmp_path / "dying"
        shutil.rmtree(root, ignore_errors=True)
        with pytest.raises(Killed):
            run(DyingStore(root, after=after))
        same(run(root), whole)
        rows = {path.name.split("-")[0] for path in (root / "W").iterdir()} - {"zarr.json"}
        assert len(rows) <= 3, quiet.keys[after]


def same_fit(found, whole):
    np.testing.assert_array_equal(found[1], whole[1])
    np.testing.assert_array_equal(found[0].components_, whole[0].components_)
    np.testing.assert_array_equal(found[0].start_losses_, whole[0].start_losses_)
    assert found[0].n_reads_ == whole[0].n_reads_
    assert [r.objective for r in found[0].history_] == [r.objective for r in whole[0].history_]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        pytest.param({"beta_loss": 1}, marks=pytest.mark.slow),
        pytest.param({"halving": True, "max_iter": 5}, marks=pytest.mark.slow),
    ],
)
def test_death_at_a_commit_changes_nothing(tmp_path, parameters):
    usual = {"max_iter": 2, "scheduler": "synchronous"} | parameters
    assert_no_death_matters(tmp_path, lambda store: several(V, {"checkpoint": store}, **usual), same_fit)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_any_budget_may_follow(tmp_path, beta):
    """Starts that had reached max_iter are continued; converged starts stay."""
    usual = {"beta_loss": beta, "random_state": 2}
    run = {"checkpoint": tmp_path / "run"}
    several(V, run, **usual, max_iter=3)
    model, W = several(V, run, **usual, max_iter=9)
    whole, W_whole = several(V, **usual, max_iter=9)
    np.testing.assert_array_equal(W, W_whole)
    np.testing.assert_array_equal(model.start_losses_, whole.start_losses_)
    tol = 1e-2 if beta == 2 else 1e-5
    several(V, run, **usual, max_iter=25, tol=tol)
    finer, W = several(V, run, **usual, max_iter=25, tol=tol / 10)
    assert finer.n_iter_ > 9
    loss = divergence_of(V, W, finer.components_, beta)
    assert finer.history_[-1].loss == pytest.approx(loss, rel=1e-6)
    assert finer.start_losses_.min() == finer.start_losses_[finer.best_start_]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_init": 4}, "n_init: 3 in the run, 4 now"),
        ({"n_init": 1}, "n_init: 3 in the run, not set now"),
        ({"halving": True}, "halving: False in the run, True now"),
        ({"random_state": 5}, "random_state: 0 in the run, 5 now"),
    ],
)
def test_other_starts_are_another_run(tmp_path, change, named):
    run = {"checkpoint": tmp_path / "run"}
    several(V, run, max_iter=1)
    with pytest.raises(RunMismatchError, match=named):
        several(V, run, **{"max_iter": 1} | change)


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_a_run_at_work_gives_the_lowest_so_far(tmp_path, beta):
    seen = []

    def look(record):
        run = open_run(tmp_path / "run")
        assert run.history[-1] == record
        if record.loss is None:
            return
        loss = _beta_divergence(V, run.W.compute(), run.H, beta)
        seen.append((loss, record.loss, record.loss_at))

    several(V, {"checkpoint": tmp_path / "run", "callbacks": [look]}, beta_loss=beta, tol=0.1, max_iter=8)
    told = [(loss, known) for loss, known, at in seen if at == "end"]
    if beta == 2:
        assert len(told) == len(seen) > 4
        for loss, known in told:
            assert loss == pytest.approx(known, rel=1e-8)
    assert seen[-1][0] == pytest.approx(seen[-1][1], rel=1e-8)


def test_an_estimator_among_others():
    model, W = several(V, init=None, max_iter=3)
    assert model.init_ == "random"  # for None: with other values all starts would be equal
    again = clone(model)
    assert again.get_params() == model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        np.testing.assert_array_equal(again.fit_transform(V), W)
        frame = again.set_output(transform="pandas").fit_transform(V)
        assert frame.columns.tolist() == ["nmf0", "nmf1", "nmf2"]
        np.testing.assert_array_equal(frame.to_numpy(), W)
        copied = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copied.start_losses_, model.start_losses_)
        np.testing.assert_array_equal(copied.transform(V), model.transform(V))
        search = GridSearchCV(
            NMF(2, n_init=2, max_iter=2, random_state=0),
            {"n_init": [1, 2], "n_components": [2, 3]},
            scoring=lambda model, X: -model.score_samples(X).sum(),
            cv=2,
        ).fit(V)
    assert search.best_params_["n_components"] == 3


def test_the_first_seed_is_the_random_state_and_others_follow_from_it():
    three, _ = several(V, max_iter=1, random_state=7)
    five, _ = several(V, max_iter=1, random_state=7, n_init=5)
    other, _ = several(V, max_iter=1, random_state=8)
    assert three.start_seeds_[0] == 7
    assert five.start_seeds_[:3].tolist() == three.start_seeds_.tolist()
    assert not set(three.start_seeds_) & set(other.start_seeds_)
    drawn, _ = several(V, max_iter=1, random_state=None)
    assert len(set(drawn.start_seeds_.tolist())) == R


@pytest.mark.parametrize(
    ("parameters", "run", "named"),
    [
        ({"init": "nndsvd"}, {}, "all starts would be the same"),
        ({"init": "nndsvda"}, {}, "all starts would be the same"),
        ({"init": "custom"}, {"W": np.ones((N, K)), "H": np.ones((K, M))}, "all starts would be the same"),
        ({"n_init": 0}, {}, "n_init"),
        ({"n_init": 2.0}, {}, "n_init"),
        ({"n_init": 1, "halving": True}, {}, "give n_init above 1"),
        ({"halving": "yes"}, {}, "halving"),
    ],
)
def test_refused(parameters, run, named):
    with pytest.raises(ValueError, match=named):
        several(V, run, **parameters)


def test_one_start_is_what_it_was(tmp_path):
    model, _ = several(V, {"checkpoint": tmp_path / "run"}, n_init=1, max_iter=2)
    assert not any(record.models for record in model.history_)
    assert (model.best_start_, model.start_seeds_.tolist()) == (0, [0])
    assert model.start_losses_.tolist() == [model.history_[-1].loss]
    assert open_run(tmp_path / "run").identity.model.n_init is None


HIDING = {"n_init": 1, "max_iter": 2, "random_state": 0}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_holdout_that_hides_a_whole_line_is_refused(tmp_path, axis, wide):
    X = GAPS.copy()
    X[7], X[:, 5] = np.nan, np.nan  # nothing to hide here, which is no error of the hold-out
    if axis == 0:
        X[20:32, 1:] = np.nan
    else:
        X[1:, 6:] = np.nan
    X = X.T.copy() if wide else X
    run = {"checkpoint": tmp_path / "run", "holdout": 0.4}
    lines = r"[1-9]\d* rows and \d+ columns" if (axis == 0) != wide else r"\d+ rows and [1-9]\d* columns"
    for n_init in (1, 2):
        with pytest.raises(DataError, match=lines):
            several(X, run, **HIDING | {"missing_values": "nan", "n_init": n_init})
        assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="holdout hides all"):
        rank_sweep(X, [2], n_init=1, holdout=0.4, random_state=0, missing_values="nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        several(X, **HIDING | {"missing_values": "nan"})  # nothing is hidden
        clean = GAPS.copy()
        clean[7], clean[:, 5] = np.nan, np.nan
        model, _ = several(clean, {"holdout": 0.1}, **HIDING | {"missing_values": "nan"})
    assert (model.n_unobserved_samples_, model.n_unobserved_features_) == (1, 1)


def test_a_block_that_hides_whole_rows_of_sparse_x_is_refused():
    X = COUNTS[:, :3]
    with pytest.raises(DataError, match=r"[1-9]\d* rows and 0 columns"):
        several(X, {"holdout": 0.9}, **HIDING)


def test_states_in_memory_are_those_that_are_needed():
    """Models end in many passes, each with the states of all models that were left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with open_study(V, [2, 3], 6, FitOptions(), max_iter=30, tol=0.05, random_state=0) as study:
            run = study.session.run
            assert len({member.location.state for member in run.progress.models}) > 2
            assert sum(map(len, run.factors._states.values())) == len(run.progress.models)
            study.final_pass(study.factorizations[0].components)
            assert sum(map(len, run.factors._states.values())) == len(run.progress.models) + 1


def test_states_that_one_pass_left_are_read_at_once(tmp_path):
    read = []

    class Reading(LocalStore):
        async def get(self, key, *arguments, **parameters):
            if key.startswith("small/3-") and key.endswith("/c.0"):
                read.append(key)
            return await super().get(key, *arguments, **parameters)

    usual = {"n_init": 5, "random_state": 0, "max_iter": 2, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank_sweep(V, [2, 3], **usual, checkpoint=tmp_path / "run")
        assert len(open_sweep(Reading(tmp_path / "run")).factorizations) == 10
        assert len(read) == 1  # the fits ended with that pass; its states are one array
        read.clear()
        rank_sweep(V, [2, 3], **usual, checkpoint=Reading(tmp_path / "run"))
    assert 1 < len(read) < 5


def projections_of(X, ranks, n_init, **parameters):
    """The passes of a sweep in this process, and its models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_study(X, ranks, n_init, FitOptions(), max_iter=1, random_state=0, **parameters) as study:
            work = study.session
            models = [
                replace(work.inputs.model, k=rank, drops_W=True) for rank in ranks for _ in range(n_init)
            ]
            return models, memory.projections_of(work.V, models, len(models), in_memory=True), study


def test_rows_of_the_models_that_keep_theirs_are_projected():
    """With missing entries only the smaller ranks are recomputed; the best ended model keeps its rows."""
    X = np.where(np.random.default_rng(0).random((60, 24)) < 0.1, np.nan, noisy(60, 24))
    models, projections, _ = projections_of(X, [3, 20], 2, missing_values="nan")
    assert [model.recomputed for model in models] == [True, True, False, False]
    assert {each.factors for each in projections} == {3 * 60 * 2 * 20 * 8}
    _, projections, _ = projections_of(V, [3, 4], 2, beta_loss=1)
    assert {each.factors for each in projections} == {3 * N * 2 * (3 + 4) * 8}
    _, projections, _ = projections_of(V, [3], 1, beta_loss=1)
    assert {each.factors for each in projections} == {2 * N * 3 * 8}
    _, projections, _ = projections_of(V, [3, 4], 2)
    assert {each.factors for each in projections} == {0}


def test_what_v_is_asked_is_projected_for_the_widest(monkeypatch):
    """Ranks ascend: a first read without care would have the smallest ranks."""
    monkeypatch.setattr(Scheduler, "baseline", 0)
    models, _, study = projections_of(V, [2, 9], 2)
    phases = [study._evaluation(np.ones((model.k, M)), sampled=True) for model in models]
    project, told = memory.Footprint.projection, []

    def noted(footprint, V):
        told.append(([phase.k for phase in footprint.phases], project(footprint, V)))
        return told[-1][1]

    monkeypatch.setattr(memory.Footprint, "projection", noted)
    assert memory.phases_per_read(study.session.V, phases, models) == 4
    monkeypatch.setattr(Scheduler, "memory_limit", told[-1][1].peak - 1)
    assert memory.phases_per_read(study.session.V, phases, models) < 4
    assert told[-1][0] == [9, 9][: len(told[-1][0])]


def test_lines_of_an_evaluation_are_projected():
    """Where entries are missing each rank has a Gram matrix for each row, however it was fitted."""
    X = np.where(np.random.default_rng(0).random((60, 300)) < 0.1, np.nan, noisy(60, 300))
    models, _, study = projections_of(X, [20, 30], 1, missing_values="nan")
    assert not any(model.lines_bytes for model in models)
    phases = [study._evaluation(np.ones((model.k, 300)), sampled=True) for model in models]
    lines = [phase.coder._grams[1].nbytes for phase in phases]
    told = [
        memory.footprint(asked, models, 50, 0, sparse=False).projection(study.session.V)
        for asked in (phases, phases[:1])
    ]
    assert told[0].inputs - told[1].inputs >= 0.99 * lines[1]
    assert told[1].inputs >= 4 * 50 * 300 * 8 + lines[0]
