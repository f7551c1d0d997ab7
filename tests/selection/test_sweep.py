"""Sweeps over ranks: recomputed rows, measures of each rank, and resumed runs."""

from __future__ import annotations

import shutil
import tempfile
import warnings

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import nnls
from sklearn.decomposition._nmf import _beta_divergence
from sklearn.exceptions import ConvergenceWarning

from dasknmf import RankSweep, consensus, open_consensus, open_run, open_sweep, rank_sweep
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.core.blocks.entries import EntryWeights, Holdout
from dasknmf.core.solvers.resampled import Resampling
from dasknmf.errors import DataChangedError, RunError, RunMismatchError
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection.study import open_study
from dasknmf.selection.sweep import COLUMNS
from tests.helpers import DyingStore, Killed, computing, fitted, stored, stored_sparse
from tests.selection.studies import many
from tests.selection.test_restarts import assert_no_death_matters

N, M = 50, 12
RANKS, R = [2, 3, 4], 3


def planted(n=N, m=M, noise=0.05, seed=1):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.4, size=(n, 3)) @ rng.gamma(0.4, size=(3, m)) + noise * rng.random((n, m)) + 0.01


V = planted()
COUNTS = sp.csr_array(np.random.default_rng(3).poisson(3 * V))


def swept(X, ranks=RANKS, scheduler="synchronous", **parameters) -> RankSweep:
    usual = {"n_init": R, "max_iter": 8, "tol": 0, "random_state": 0}
    with warnings.catch_warnings(), computing(scheduler):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="no rank has a smallest silhouette")
        return rank_sweep(X, ranks, **usual | parameters)


def rows_of(X, H):
    """W by the nonnegative least squares of SciPy, row by row."""
    return np.array([nnls(H.T.astype(float), x)[0] for x in np.asarray(X, float)])


def test_recomputed_rows_are_exact_and_the_objective_never_rises():
    """Alternating exact solves of W and H, to which passes are compared."""
    found = many(V, [2, 4], 2, random_state=0, solver="bpp", max_iter=6, tol=0)
    for start, each in enumerate(found.factorizations):
        begun = many(V, [each.n_components], 1, random_state=each.seed, solver="bpp", max_iter=1, tol=0)
        H = begun.factorizations[0].components
        told = [record.objective for record in found.history.of_model(start) if record.objective is not None]
        for _ in range(5):
            W = rows_of(V, H)
            H = np.array([nnls(W, column)[0] for column in V.T]).T
        np.testing.assert_allclose(each.components, H, rtol=1e-6, atol=1e-8)
        assert (np.diff(told) <= 1e-12 * told[0]).all()
        assert each.n_iter == 6


@pytest.mark.parametrize(
    ("X", "parameters"),
    [
        (V, {}),
        (V, {"solver": "mu"}),
        (V, {"beta_loss": 1}),
        (V, {"init": "sample"}),
        (COUNTS, {}),
        (np.where(np.random.default_rng(0).random(V.shape) < 0.1, np.nan, V), {"missing_values": "nan"}),
    ],
    ids=["cd", "mu", "kl", "sample", "sparse", "gaps"],
)
def test_each_is_what_it_is_alone(X, parameters):
    parameters = {"max_iter": 7, "tol": 0} | parameters
    found = many(X, [2, 3], 2, random_state=4, **parameters)
    assert [each.n_components for each in found.factorizations] == [2, 2, 3, 3]
    for each in found.factorizations:
        (alone,) = many(X, [each.n_components], 1, random_state=each.seed, **parameters).factorizations
        np.testing.assert_allclose(each.components, alone.components, rtol=1e-9, atol=1e-10)
        assert each.loss == pytest.approx(alone.loss, rel=1e-9)
        assert (each.n_iter, each.outcome) == (alone.n_iter, alone.outcome) == (7, "max_iter")
    if "beta_loss" in parameters:
        model, _ = fitted(X, n_components=3, init="random", random_state=4, **parameters)
        np.testing.assert_allclose(found.factorizations[2].components, model.components_, rtol=1e-9)


@pytest.mark.parametrize(("X", "beta"), [(V, 2), (V, 1), (V, 1.5), (COUNTS, 2), (COUNTS, 1)], ids=str)
@pytest.mark.parametrize("holdout", [None, 0.1])
def test_what_ranks_tell_is_of_all_of_x(X, beta, holdout):
    sweep = swept(X, [2, 3], beta_loss=beta, holdout=holdout, random_state=1)
    dense = np.asarray(X.toarray() if sp.issparse(X) else X, float)
    assert list(sweep.to_dataframe().columns) == list(COLUMNS)
    assert sweep.to_dataframe().index.tolist() == sweep.n_components == [2, 3]
    for at, rank in enumerate(sweep.n_components):
        best = sweep.of_rank(rank)[0]
        if beta == 2:
            W = rows_of(dense, best.components)
            loss = 0.5 * ((dense - W @ best.components) ** 2).sum()
            assert sweep.columns["loss"][at] == pytest.approx(loss, rel=1e-9)
            unexplained = 2 * loss / (dense**2).sum()
            assert sweep.columns["explained_variance"][at] == pytest.approx(1 - unexplained, rel=1e-9)
            assert sweep.columns["relative_error"][at] == pytest.approx(np.sqrt(unexplained), rel=1e-9)
        else:
            assert np.isnan(sweep.columns["explained_variance"][at])
    H, W = sweep.components, np.asarray(sweep.W)
    assert len(H) == sweep.best
    np.testing.assert_array_equal(H, sweep.of_rank(sweep.best)[0].components)
    if beta == 2:
        np.testing.assert_allclose(W, rows_of(dense, H), rtol=1e-7, atol=1e-9)
    told = sweep.columns["loss"][sweep.n_components.index(sweep.best)]
    assert told == pytest.approx(_beta_divergence(dense, W, H, beta), rel=1e-7)
    assert sweep.n_reads == sweep.history.reads + (1 if holdout is None else 2)


def hidden_of(X, share, seed):
    """The mask of hidden entries."""
    holdout = Holdout(share, seed, X.shape[1])
    if sp.issparse(X):
        return np.outer(holdout.hidden_rows(0, X.shape[0]), holdout.hidden_columns(X.shape[1]))
    spec = PanelSpec(X.shape[0], 0, X.shape[1], np.dtype(float))
    block = block_of([np.ones(X.shape)], spec, EntryWeights(holdout=holdout))
    mask = np.zeros(X.shape, bool)
    for tile in block.tiles():
        mask[tile.rows][tile.hidden.rows, tile.hidden.columns] = True
    return mask


@pytest.mark.parametrize("X", [V, COUNTS], ids=["dense", "sparse"])
def test_the_loss_of_hidden_entries_by_brute_force(X):
    """The loss over hidden entries of the W that is fitted to the others, row by row."""
    sweep = swept(X, [2, 3], holdout=0.15, random_state=1)
    dense = np.asarray(X.toarray() if sp.issparse(X) else X, float)
    mask = hidden_of(X, 0.15, 1)
    for at, rank in enumerate(sweep.n_components):
        losses = []
        for each in sweep.of_rank(rank):
            H = each.components
            W = np.array([nnls(H[:, ~no].T, x[~no])[0] for x, no in zip(dense, mask, strict=True)])
            losses.append(0.5 * ((dense - W @ H)[mask] ** 2).sum() / mask.sum())
            assert each.holdout == pytest.approx(losses[-1], rel=1e-7)
            inside = 0.5 * ((dense - W @ H)[~mask] ** 2).sum()
            assert each.loss == pytest.approx(inside, rel=1e-7)
        assert sweep.columns["holdout"][at] == pytest.approx(np.mean(losses), rel=1e-7)
        assert sweep.columns["holdout_std"][at] == pytest.approx(np.std(losses, ddof=1), rel=1e-6)


@pytest.mark.parametrize("parameters", [{"holdout": 0.1}, {"rule": "silhouette"}, {"method": "nmfk"}])
def test_the_planted_rank(parameters):
    n, m, k = 300, 60, 4
    i = np.arange(n)
    middles = np.arange(k) * n / k + n / (2 * k) - 0.5
    W = np.exp(-(k / (0.01 * n**2)) * (i[:, None] - middles) ** 2)
    rng = np.random.default_rng(0)
    X = W @ rng.random((k, m))
    X = np.maximum(X + 0.01 * X.std() * rng.standard_normal(X.shape), 0)
    sweep = swept(X, range(2, 8), n_init=6, max_iter=40, **parameters)
    assert sweep.best == k
    assert sweep.rule == ("holdout" if "holdout" in parameters else "silhouette")
    assert sweep.choose(sweep.rule) == k


@pytest.mark.parametrize("kind", ["rows", "uniform", "poisson"])
def test_versions_of_x(kind):
    """Each start equals a fit to its own version of V alone."""
    X = V if kind != "poisson" else COUNTS
    sweep = swept(X, [2, 3], method="nmfk", perturb=kind, max_iter=5)
    for each in sweep.factorizations:
        (alone,) = many(
            X,
            [each.n_components],
            1,
            resampling=Resampling(kind),
            random_state=each.seed,
            max_iter=5,
            tol=0,
        ).factorizations
        np.testing.assert_allclose(each.components, alone.components, rtol=1e-8, atol=1e-9)
    dense = np.asarray(X.toarray() if sp.issparse(X) else X, float)
    W, H = np.asarray(sweep.W), sweep.components
    np.testing.assert_allclose(W, rows_of(dense, H), rtol=1e-6, atol=1e-8)
    told = sweep.columns["loss"][sweep.n_components.index(sweep.best)]
    assert told == pytest.approx(_beta_divergence(dense, W, H, 2), rel=1e-8)
    assert sweep.n_reads == sweep.history.reads + 2


def test_chunks_and_schedulers_do_not_matter(small_panels, tmp_path, cluster):
    array = stored(tmp_path / "v", V, (15, 5))
    one = swept(V, holdout=0.1, max_iter=4)
    found = [swept(array, scheduler=each, holdout=0.1, max_iter=4) for each in ("synchronous", cluster)]
    for sweep in found:
        for name in COLUMNS:
            np.testing.assert_array_equal(sweep.columns[name], found[0].columns[name])
            np.testing.assert_allclose(sweep.columns[name], one.columns[name], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(sweep.components, found[0].components)
        np.testing.assert_array_equal(np.asarray(sweep.W), np.asarray(found[0].W))


def same_sweep(found, whole):
    assert (found.best, found.rule, found.n_reads) == (whole.best, whole.rule, whole.n_reads)
    for name in COLUMNS:
        np.testing.assert_array_equal(found.columns[name], whole.columns[name])
    np.testing.assert_array_equal(found.components, whole.components)
    np.testing.assert_array_equal(np.asarray(found.W), np.asarray(whole.W))
    for one, other in zip(found.factorizations, whole.factorizations, strict=True):
        np.testing.assert_array_equal(one.components, other.components)
        assert (one.loss, one.holdout, one.seed) == (other.loss, other.holdout, other.seed)


SWEEPS = {
    "restarts": {},
    "nmfk": {"method": "nmfk"},
    "holdout": {"holdout": 0.1},
    "one": {"holdout": 0.1, "n_init": 1, "ranks": [3]},
}


# Each case runs two sweeps for every death: these cover most.
@pytest.mark.parametrize(
    "name", ["holdout", *(pytest.param(name, marks=pytest.mark.slow) for name in SWEEPS if name != "holdout")]
)
def test_death_changes_nothing(tmp_path, name):
    parameters = {"n_init": 2, "ranks": [2, 3], "max_iter": 1} | SWEEPS[name]
    ranks = parameters.pop("ranks")
    X = da.from_array(V, chunks=(30, M))

    def run(store):
        return swept(X, ranks, checkpoint=store, **parameters)

    assert_no_death_matters(tmp_path, run, same_sweep)
    plain = swept(X, ranks, **parameters)
    same_sweep(open_sweep(tmp_path / "quiet"), plain)
    same_sweep(run(tmp_path / "quiet"), plain)  # the run has ended


def test_another_rule_that_dies_leaves_no_mixture(tmp_path):
    """Deaths between the new findings and the final pass, while W is that of another rank."""
    X = da.from_array(np.random.default_rng(1).random((30, 8)), chunks=(15, 8))
    usual = {"n_init": 3, "max_iter": 4, "ranks": [2, 3, 4, 5]}
    first = swept(X, checkpoint=tmp_path / "run", **usual)
    rules = ("stability", "cophenetic", "dispersion")
    other = next((rule for rule in rules if first.choose(rule) != first.best), None)
    assert other is not None
    quiet = tmp_path / "quiet"
    shutil.copytree(tmp_path / "run", quiet)
    store = DyingStore(quiet)
    whole = swept(X, checkpoint=store, rule=other, **usual)
    assert whole.best != first.best
    for after in range(1, store.writes, 6):
        root = tmp_path / "dying"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "run", root)
        with pytest.raises(Killed):
            swept(X, checkpoint=DyingStore(root, after=after), rule=other, **usual)
        try:
            left = open_sweep(root)
        except RunError:
            pass
        else:
            assert len(left.components) == left.best == left.W.shape[1]
        found = swept(X, checkpoint=root, rule=other, **usual)
        np.testing.assert_array_equal(np.asarray(found.W), np.asarray(whole.W), err_msg=store.keys[after])
        assert open_sweep(root).best == whole.best


def test_another_rule_that_chooses_the_same_is_told(tmp_path):
    run = {"checkpoint": tmp_path / "run", "max_iter": 1, "n_init": 2}
    for rule in ("silhouette", "stability", "cophenetic"):
        found, told = swept(V, [3], rule=rule, **run), open_sweep(tmp_path / "run")
        assert (found.rule, told.rule, told.best) == (rule, rule, 3)
        np.testing.assert_array_equal(np.asarray(told.W), np.asarray(found.W))
    n_passes = open_run(tmp_path / "run").n_passes
    swept(V, [3], rule=rule, **run)
    assert open_run(tmp_path / "run").n_passes == n_passes


def test_more_passes_follow(tmp_path):
    X = da.from_array(V, chunks=(30, M))
    swept(X, checkpoint=tmp_path / "run", max_iter=2)
    longer = swept(X, checkpoint=tmp_path / "run", max_iter=6)
    whole = swept(X, max_iter=6)
    for name in COLUMNS:
        np.testing.assert_array_equal(longer.columns[name], whole.columns[name])
    np.testing.assert_array_equal(np.asarray(longer.W), np.asarray(whole.W))
    # A single model has all passes of the run, the final pass included.
    run = {"n_init": 1, "holdout": 0.1}
    swept(X, [3], **run, checkpoint=tmp_path / "one", max_iter=2)
    longer = swept(X, [3], **run, checkpoint=tmp_path / "one", max_iter=6)
    whole = swept(X, [3], **run, max_iter=6)
    np.testing.assert_array_equal(np.asarray(longer.W), np.asarray(whole.W))
    assert longer.columns["holdout"].tolist() == whole.columns["holdout"].tolist()


def test_another_study_is_another_run(tmp_path):
    run = {"checkpoint": tmp_path / "run", "max_iter": 1, "n_init": 2}
    swept(V, [2, 3], **run)
    for change, named in (
        ({"ranks": [2, 4]}, r"ranks: \[2, 3\] in the run, \[2, 4\] now"),
        ({"ranks": [2, 3, 4]}, r"ranks: \[2, 3\] in the run, \[2, 3, 4\] now"),
        ({"n_init": 3}, "n_init: 2 in the run, 3 now"),
        ({"method": "nmfk"}, "perturbation: not set in the run"),
        ({"holdout": 0.1}, "holdout: not set in the run, 0.1 now"),
    ):
        with pytest.raises(RunMismatchError, match=named):
            swept(V, **{"ranks": [2, 3]} | run | change)
    swept(V, [2, 3], **run | {"checkpoint": tmp_path / "nmfk"}, method="nmfk", perturb="uniform")
    for change in ({"perturb": "rows"}, {"perturb": "uniform", "epsilon": 0.1}):
        with pytest.raises(RunMismatchError, match="perturbation: "):
            swept(V, [2, 3], **run | {"checkpoint": tmp_path / "nmfk"}, method="nmfk", **change)
    alone = {"max_iter": 1, "tol": 0, "init": "random", "n_components": 3, "n_init": 2}
    with pytest.raises(RunMismatchError, match=r"ranks: \[2, 3\] in the run, not set now"):
        fitted(V, run={"checkpoint": tmp_path / "run"}, **alone)
    fitted(V, run={"checkpoint": tmp_path / "fit"}, **alone)
    with pytest.raises(RunMismatchError, match=r"ranks: not set in the run, \[3\] now"):
        swept(V, [3], **run | {"checkpoint": tmp_path / "fit"})
    with pytest.raises(RunMismatchError, match="method: 'restarts' in the run, not set now"):
        consensus(
            V,
            3,
            n_init=2,
            random_state=0,
            max_iter=1,
            tol=0,
            checkpoint=tmp_path / "run",
            local_neighborhood_size=0.5,
        )
    with pytest.raises(RunError, match="is not a sweep; open_sweep takes"):
        open_sweep(tmp_path / "fit")
    with pytest.raises(RunError, match="is not a consensus; open_consensus takes"):
        open_consensus(tmp_path / "fit")
    with pytest.raises(RunError, match="is not a consensus"):
        open_consensus(tmp_path / "run")
    with pytest.raises(RunError, match="there is no run"):
        open_sweep(tmp_path / "nowhere")


class Interrupted(Exception):
    """The exception by which a callback ends a sweep."""


@pytest.mark.parametrize("beta", [2, 1])
def test_a_sweep_at_work_says_so(tmp_path, beta):
    seen = []

    def look(record):
        run = open_run(tmp_path / "run")
        seen.append((record.phase, run.status))
        assert run.found is None or run.concluded
        assert str(run)
        assert run._repr_html_()
        assert run.writer is not None
        if not run.concluded:
            with pytest.raises(RunError, match="has not ended, after"):
                open_sweep(tmp_path / "run")
            if beta == 2:
                with pytest.raises(RunError, match="whose W is written at the end"):
                    _ = run.W
        if record.iteration == 2 and len(seen) < 8 and not halted:
            halted.append(True)
            raise Interrupted

    halted: list[bool] = []
    parameters = {"checkpoint": tmp_path / "run", "callbacks": [look], "max_iter": 3, "beta_loss": beta}
    with pytest.raises(Interrupted):
        swept(V, [2, 3], **parameters)
    run = open_run(tmp_path / "run")
    assert (run.status, run.writer, run.n_iter) == ("running", None, 2)
    with pytest.raises(RunError, match="has not ended"):
        open_sweep(tmp_path / "run")
    sweep = swept(V, [2, 3], **parameters)
    assert seen[-1][1] == "max_iter"
    assert {phase for phase, _ in seen} >= {"survey", "start", "exact", "final"}
    run = open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.H, sweep.components)
    np.testing.assert_array_equal(run.W.compute(), np.asarray(sweep.W))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"ranks": [3, 2]}, "ranks must ascend"),
        ({"ranks": [2, 2, 3]}, "ranks must ascend"),
        ({"ranks": [2, M + 1]}, f"has {M + 1}; X is {N} x {M}"),
        ({"ranks": [0, 2]}, "has 0"),
        ({"ranks": [-1, 2]}, "has -1"),
        ({"ranks": []}, r"n_components is \[\]"),
        ({"ranks": [2, 2.5]}, "several integers"),
        ({"ranks": [True, 2]}, "several integers"),
        ({"ranks": ["2"]}, "several integers"),
        ({"ranks": 4}, "a sweep is over several"),
        ({"ranks": True}, "n_components is True"),
        ({"ranks": None}, "n_components is None"),
        ({"ranks": 2.5}, "n_components is 2.5"),
        ({"n_init": 0}, "n_init is 0"),
        ({"n_init": True}, "n_init is True"),
        ({"n_init": 1}, "n_init is 1 and no entries are hidden"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"rule": "magic"}, "magic"),
        ({"rule": "holdout"}, "no entries are hidden"),
        ({"holdout": 1.5}, "holdout is 1.5"),
        ({"method": "nmfk", "perturb": "magic"}, "magic"),
        ({"method": "nmfk", "perturb": "uniform", "epsilon": -1}, "epsilon"),
        ({"rule": "silhouette", "n_init": 1, "holdout": 0.1}, "chooses by the agreement of starts"),
        ({"init": "custom"}, "init"),
        ({"halving": True}, "leave halving out"),
        ({"init": "nndsvd"}, "all starts would be the same"),
        ({"init": "magic"}, "init"),
    ],
    ids=str,
)
def test_refused_before_anything_is_read(tmp_path, arguments, named):
    class Unread:
        def __call__(self, block):
            raise AssertionError("X was read")

    X = da.from_array(V, chunks=(25, M)).map_blocks(Unread(), meta=np.empty((0, 0)))
    with pytest.raises((ValueError, TypeError), match=named):
        swept(X, **{"ranks": [2, 3], "checkpoint": tmp_path / "run"} | arguments)
    assert not (tmp_path / "run" / "commit").exists()


def test_what_a_cluster_was_given_goes(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    X = da.from_array(V, chunks=(25, M))

    def stop(record):
        assert list((tmp_path / "scratch").iterdir())
        if record.iteration == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        swept(X, [2, 3], scheduler=cluster, callbacks=[stop])
    assert not list((tmp_path / "scratch").iterdir())


def test_a_generator_of_ranks_and_ranks_of_numpy():
    one = swept(V, (rank for rank in (2, 3)), max_iter=2)
    other = swept(V, np.array([2, 3]), max_iter=2)
    assert one.n_components == other.n_components == [2, 3]
    with pytest.raises(ValueError, match="the sweep has"):
        one.of_rank(7)


def test_consensus_that_dies_goes_on(tmp_path):
    def run(store):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return consensus(
                V,
                3,
                n_init=4,
                density_threshold=2,
                local_neighborhood_size=0.5,
                random_state=0,
                max_iter=1,
                tol=0,
                checkpoint=store,
            )

    def same(found, whole):
        for name in ("spectra", "components", "stack", "density", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        np.testing.assert_array_equal(np.asarray(found.usages), np.asarray(whole.usages))
        assert found.loss == whole.loss

    assert_no_death_matters(tmp_path, run, same)
    same(open_consensus(tmp_path / "quiet"), open_consensus(tmp_path / "dying"))
    with pytest.raises(RunError, match="is not a sweep"):
        open_sweep(tmp_path / "quiet")
    with pytest.raises(RunMismatchError, match="consensus: True in the run, not set now; method"):
        swept(V, [3], checkpoint=tmp_path / "quiet", n_init=4, max_iter=2)


@pytest.mark.parametrize("X", [V, COUNTS], ids=["dense", "sparse"])
def test_what_was_hidden_from_fits_costs_no_gram_for_each_row(X):
    """After the fits no entry is missing: packed products would be larger than V."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with open_study(X, [2], 2, FitOptions(holdout=0.1), max_iter=2, random_state=1) as study:
            (told,) = study.evaluated([study.factorizations[0].components])
            assert study._evaluation(study.factorizations[0].components, sampled=True).coder.entries is None
    dense = np.asarray(X.toarray() if sp.issparse(X) else X, float)
    H = study.factorizations[0].components
    assert told.loss == pytest.approx(0.5 * ((dense - rows_of(dense, H) @ H) ** 2).sum(), rel=1e-9)
    np.testing.assert_allclose(told.rows, rows_of(dense, H), rtol=1e-7, atol=1e-9)


def test_a_sweep_is_told_of_where_verbose(caplog):
    with caplog.at_level("INFO", "dasknmf"):
        swept(V, [2, 3], n_init=2, max_iter=2)
        assert not caplog.records
        swept(V, [2, 3], n_init=2, max_iter=2, verbose=1)
    assert sum("exact" in record.getMessage() for record in caplog.records) == 2


def test_a_hidden_block_of_a_stored_csr_is_no_other_v(tmp_path):
    X = sp.csr_array(planted(60, 12) * (np.random.default_rng(2).random((60, 12)) < 0.7))
    stored_sparse(tmp_path / "v.zarr", X)
    sweep = rank_sweep(
        tmp_path / "v.zarr",
        [2, 3],
        n_init=2,
        holdout=0.2,
        max_iter=4,
        random_state=0,
        checkpoint=tmp_path / "r",
    )
    memory = rank_sweep(X, [2, 3], n_init=2, holdout=0.2, max_iter=4, random_state=0)
    np.testing.assert_allclose(sweep.columns["loss"], memory.columns["loss"])


def test_another_v_leaves_what_has_ended_as_it_was(tmp_path):
    X = planted()
    parameters = {"n_init": 2, "random_state": 0, "checkpoint": tmp_path / "run"}
    V = da.from_array(X, chunks=(25, N))
    first = rank_sweep(V, RANKS, max_iter=3, **parameters)
    with pytest.raises(DataChangedError, match="V changed"):
        rank_sweep(5 * V, RANKS, max_iter=6, **parameters)
    again = open_sweep(tmp_path / "run")
    np.testing.assert_array_equal(again.components, first.components)
    np.testing.assert_array_equal(again.W.compute(), first.W.compute())
    longer = rank_sweep(V, RANKS, max_iter=6, **parameters)
    assert max(each.n_iter for each in longer.factorizations) == 6
    quiet = rank_sweep(V, RANKS, n_init=2, random_state=0, max_iter=6)
    np.testing.assert_array_equal(longer.components, quiet.components)


def test_a_sweep_whose_best_model_has_ended_first_opens(tmp_path):
    """A pass is exact while any model continues, though the best model was only evaluated in it."""
    rng = np.random.default_rng(0)
    X = rng.poisson(3 * rng.gamma(0.5, size=(300, 6)) @ rng.gamma(0.3, size=(6, 30))).astype("float32")
    options = {
        "n_init": 4,
        "holdout": 0.05,
        "max_iter": 50,
        "random_state": 2,
        "checkpoint": tmp_path / "run",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweep = rank_sweep(X, [4, 5, 6, 7], **options)
    assert open_sweep(tmp_path / "run").best == sweep.best
