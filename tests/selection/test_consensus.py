"""Consensus of many starts: densities, clusters, refits, scores."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse
import zarr
from sklearn.metrics import silhouette_score
from zarr.storage import LocalStore

from benchmarks.counting import CountingStore
from benchmarks.matching import matched_cosines
from dasknmf import NMF, Consensus, Prepared, consensus, open_consensus
from dasknmf.errors import DataError, MemoryLimitError, SourceError
from dasknmf.fitting import memory
from dasknmf.fitting.problem import FitOptions
from dasknmf.selection import clusters, refit
from dasknmf.selection.consensus import study_consensus
from dasknmf.selection.k_selection import k_selection
from dasknmf.selection.parameters import Clustering
from dasknmf.selection.scores import scores
from dasknmf.selection.study import open_study
from tests.helpers import computing, stored, stored_sparse

K = 3
N_INIT = 8


def planted(seed=0, n=150, m=20):
    """Rows that use one or several programs; programs have own and common features."""
    rng = np.random.default_rng(seed)
    H = 0.5 + rng.random((K, m))
    H[:, : 4 * K] *= np.repeat(np.eye(K), 4, axis=1)
    W = 1 + rng.gamma(1.0, size=(n, K))
    W[: n // 2] *= np.eye(K)[rng.integers(0, K, n // 2)]
    return W @ H, H


def agreed(X, **options):
    """A consensus of few starts with a fixed number of passes, converged or not."""
    usual = {"n_init": N_INIT, "random_state": 0, "local_neighborhood_size": 0.5, "max_iter": 30, "tol": 0}
    return consensus(X, K, **(usual | options))


@pytest.fixture(scope="module")
def counts():
    """Small counts, with rows of zeros."""
    X = np.random.default_rng(3).poisson(planted()[0]).astype("u2")
    X[[4, 77]] = 0
    return X


@pytest.fixture(scope="module")
def one(counts):
    return agreed(counts.astype("f8"))


def test_planted_programs_are_found():
    X, H = planted()
    found = agreed(X)
    assert matched_cosines(found.spectra, H).min() > 0.999
    assert matched_cosines(found.components, H).min() > 0.999
    np.testing.assert_allclose(found.usages @ found.components, X, atol=0.02 * X.max())
    assert found.silhouette > 0.9
    assert repr(found).startswith("<Consensus 3 programs of 20 features from 8 starts: 24 of 24")


def test_what_it_holds(one, counts):
    assert isinstance(one, Consensus)
    n, m = counts.shape
    R = N_INIT * K
    assert (one.stack.shape, one.density.shape, one.labels.shape) == ((R, m), (R,), (R,))
    assert (one.spectra.shape, one.components.shape, one.usages.shape) == ((K, m), (K, m), (n, K))
    assert (one.n_components, one.n_init, one.density_threshold) == (K, N_INIT, 0.5)
    np.testing.assert_allclose(np.linalg.norm(one.stack, axis=1), 1)
    np.testing.assert_allclose(one.spectra.sum(axis=1), 1)
    np.testing.assert_array_equal(one.kept, one.labels >= 0)


def test_density_by_brute_force(one):
    distances = np.sqrt(((one.stack[:, None] - one.stack) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, : N_INIT // 2].mean(axis=1)
    np.testing.assert_allclose(one.density, expected, atol=1e-7)


def test_spectra_are_medians_of_their_clusters(one):
    for t in range(K):
        middle = np.median(one.stack[one.labels == t], axis=0)
        np.testing.assert_allclose(one.spectra[t], middle / middle.sum(), rtol=1e-12)
    kept = one.kept
    assert one.silhouette == pytest.approx(silhouette_score(one.stack[kept], one.labels[kept]))


def test_refits_are_exact_least_squares(one, counts):
    X = counts.astype("f8")
    usages = np.array([scipy.optimize.nnls(one.spectra.T, x)[0] for x in X])
    np.testing.assert_allclose(one.usages, usages, atol=1e-9 * usages.max())
    components = np.array([scipy.optimize.nnls(usages, v)[0] for v in X.T]).T
    np.testing.assert_allclose(one.components, components, atol=1e-9 * components.max())
    assert one.loss == pytest.approx(0.5 * ((X - usages @ components) ** 2).sum())


def test_the_most_used_come_first(one):
    totals = one.usages.sum(axis=1)
    shares = (one.usages[totals > 0] / totals[totals > 0, None]).sum(axis=0)
    assert list(shares) == sorted(shares, reverse=True)


def test_a_lower_threshold_filters_more_and_needs_no_fit(one):
    everything = one.rethreshold(2)
    assert everything.kept.all()
    assert (everything.labels >= 0).all()
    threshold = np.quantile(one.density, 0.7)
    fewer = one.rethreshold(float(threshold))
    np.testing.assert_array_equal(fewer.kept, one.density < threshold)
    assert fewer.stack is one.stack
    again = fewer.rethreshold(0.5)
    np.testing.assert_array_equal(again.spectra, one.spectra)
    np.testing.assert_array_equal(again.usages, one.usages)


@pytest.mark.parametrize("threshold", [1e-9, "between"])
def test_too_few_left_tells_the_densities(one, threshold):
    if threshold == "between":
        threshold = float(np.sort(one.density)[K - 1])  # one less than is needed
    with pytest.raises(DataError, match=r"of 24 spectra have a density below .* quartiles .* larger") as told:
        one.rethreshold(threshold)
    assert f"{one.density.min():.3g} to {one.density.max():.3g}" in str(told.value)


def test_too_few_clusters_tell_the_densities():
    stack = np.repeat(np.eye(4)[:2], 5, axis=0)
    density = clusters.local_density(stack, 2)
    np.testing.assert_allclose(density, 0, atol=1e-7)
    with pytest.raises(DataError, match=r"make 2 clusters, and 3 programs need 3; densities are"):
        clusters.clustered(stack, density, 0.5, 3)


def test_spectra_of_zeros_are_left_out():
    rng = np.random.default_rng(0)
    stack = clusters.stacked([rng.random((3, 5)), np.zeros((2, 5)), 1e-200 * rng.random((2, 5))])
    np.testing.assert_allclose(np.linalg.norm(stack, axis=1), [1, 1, 1, 0, 0, 1, 1])
    density = clusters.local_density(stack, 2)
    assert np.isinf(density).tolist() == [False] * 3 + [True] * 2 + [False] * 2
    labels = clusters.clustered(stack, density, 2, 2)
    assert (labels < 0).tolist() == np.isinf(density).tolist()
    with pytest.raises(DataError, match="5 of 7 spectra are not zero throughout"):
        clusters.local_density(stack, 5)


def test_medians_of_zeros_are_refused():
    with pytest.raises(DataError, match="median of 4 spectra in one of 1 clusters is zero"):
        clusters.medians(np.eye(4), np.zeros(4, int), 1)


def test_dead_components_are_told_of():
    X = np.outer(np.arange(1.0, 40), [1.0, 2, 3, 4])
    X[:, 3] = 0
    with pytest.warns(UserWarning, match="zero throughout") as told:
        found = consensus(
            X, 2, n_init=6, density_threshold=2, random_state=0, solver="bpp", max_iter=5, tol=0
        )
    dead = ~found.stack.any(axis=1)
    assert dead.any()
    assert any(f"{dead.sum()} of 12 spectra are zero throughout" in str(each.message) for each in told)
    np.testing.assert_array_equal(found.labels < 0, dead)


KINDS = {
    "csr": lambda X, path: scipy.sparse.csr_array(X),
    "csc": lambda X, path: scipy.sparse.csc_array(X),
    "zarr": lambda X, path: stored(path / "x", X, (40, 7)),
    "dask": lambda X, path: da.from_array(X, chunks=(60, 20)),
    "stored csr": lambda X, path: stored_sparse(path / "x", X),
    "prepared": lambda X, path: Prepared(stored(path / "x", X, (40, 20)), columns=np.arange(20)),
}


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_gives_the_same(counts, tmp_path, kind):
    X = counts[:90].astype("f8")
    found = agreed(KINDS[kind](X, tmp_path), n_init=2, max_iter=3)
    expected = agreed(X, n_init=2, max_iter=3)
    np.testing.assert_allclose(found.spectra, expected.spectra, atol=1e-9)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-9 * expected.components.max())
    assert isinstance(found.usages, np.ndarray if kind in ("csr", "csc") else da.Array)
    np.testing.assert_allclose(np.asarray(found.usages), expected.usages, atol=1e-9 * expected.usages.max())
    assert found.loss == pytest.approx(expected.loss)


def test_float32_stays(counts):
    single = agreed(counts[:90].astype("f4"), n_init=2, max_iter=3, density_threshold=2)
    double = agreed(counts[:90].astype("f8"), n_init=2, max_iter=3, density_threshold=2)
    assert single.usages.dtype == single.components.dtype == np.float32
    np.testing.assert_allclose(single.components, double.components, rtol=0.01, atol=0.01)
    assert single.loss == pytest.approx(double.loss, rel=1e-4)


def test_one_of_several_ranks(one, counts):
    X, nmf = counts.astype("f8"), {"init": "random", "max_iter": 30, "tol": 0}
    with open_study(X, [2, K], N_INIT, FitOptions(), random_state=0, **nmf) as study:
        n_reads = study.history.reads
        again = study_consensus(study, K, Clustering(N_INIT, 0.5, 0.5))
        assert (again.n_init, again.n_reads) == (N_INIT, n_reads + 2)
    assert matched_cosines(again.spectra, one.spectra).min() > 0.999
    np.testing.assert_allclose(refit.usages_of(X, again.spectra), again.usages)


def test_what_is_opened_is_what_was_handed(counts, tmp_path):
    asked = {"n_init": 2, "max_iter": 2, "density_threshold": np.float32(1.9), "checkpoint": tmp_path / "run"}
    first, again = agreed(counts, **asked), agreed(counts, **asked)
    for found in (again, open_consensus(tmp_path / "run")):
        assert (found.n_reads, found.loss, found.silhouette) == (first.n_reads, first.loss, first.silhouette)
        np.testing.assert_array_equal(np.asarray(found.usages), first.usages)


@pytest.mark.parametrize("missing", [{}, {"missing_values": 0}], ids=["all", "gaps"])
def test_a_stage_is_read_by_the_refit_too(counts, tmp_path, missing):
    asked = {"n_init": 2, "max_iter": 2, "density_threshold": 2} | missing
    stored(tmp_path / "x", counts[:90].astype("f8"), (40, 20))
    found, nbytes = [], []
    for stage in (None, "memory", tmp_path / "stage"):
        store = CountingStore(LocalStore(tmp_path / "x", read_only=True))
        found.append(agreed(zarr.open_array(store, mode="r"), stage=stage, **asked))
        nbytes.append(store.nbytes)
    once = sum(path.stat().st_size for path in (tmp_path / "x").rglob("c/*/*"))
    assert once <= nbytes[1] == nbytes[2] < 2 * once < nbytes[0]
    for each in found[1:]:
        np.testing.assert_array_equal(each.components, found[0].components)
        assert each.loss == found[0].loss


def test_in_memory_usages_are_made_once(counts, monkeypatch):
    made = []
    monkeypatch.setattr(NMF, "transform", lambda *_: made.append(1))
    found = agreed(counts, n_init=2, max_iter=2, density_threshold=2)
    assert (len(made), found.usages.shape) == (0, (len(counts), K))  # the final pass has made them


def test_names_and_seeds(counts):
    X = pd.DataFrame(counts.astype("f8"), columns=[f"gene {j}" for j in range(20)])
    first, second, other = (
        agreed(X, n_init=2, max_iter=2, density_threshold=2, random_state=seed) for seed in (0, 0, 1)
    )
    assert first.feature_names.tolist() == list(X.columns)
    np.testing.assert_array_equal(first.stack, second.stack)
    assert (first.stack != other.stack).any()


def test_other_losses(counts):
    X = counts[counts.any(axis=1)].astype("f8") + 0.1
    found = agreed(X, n_init=2, beta_loss="kullback-leibler", density_threshold=2)
    assert matched_cosines(found.spectra, planted()[1]).min() > 0.9
    np.testing.assert_allclose(found.components, found.spectra)
    assert found.n_reads == found.rethreshold(2).n_reads - 2
    again = {"beta_loss": "kullback-leibler", "max_iter": 30, "tol": 0}
    chunked = refit.Refitter(da.from_array(X, chunks=(60, 20)), again, 1.0).refit(found.spectra)
    assert chunked.loss == pytest.approx(found.loss)
    np.testing.assert_allclose(chunked.shares, refit.normalised(found.usages).sum(axis=0))
    P = found.usages @ found.components
    assert found.loss == pytest.approx((X * np.log(X / P) - X + P).sum())


def test_missing_values_and_sums_of_one():
    X = planted()[0]
    holes = np.random.default_rng(1).random(X.shape) < 0.1
    found = agreed(np.where(holes, np.nan, X), n_init=2, missing_values="nan", density_threshold=2)
    assert matched_cosines(found.components, planted()[1]).min() > 0.99
    gap = np.where(holes, 0, X - found.usages @ found.components)
    assert found.loss == pytest.approx(0.5 * (gap**2).sum(), abs=1e-6 * (X**2).sum())
    W = np.random.default_rng(2).dirichlet(np.ones(K), 90)
    unmixed = agreed(W @ planted()[1], n_init=2, sum_to_one=True, density_threshold=2)
    # For spectra with a sum of one usages are no fractions; the penalty still draws their sums to one.
    assert np.isfinite(unmixed.components).all()
    assert unmixed.usages.shape == (90, K)


def dense_scores(X, usages):
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    return np.linalg.lstsq(usages, Z, rcond=None)[0]


def test_scores_are_those_of_dense_least_squares(one, counts):
    X = counts.astype("f8")
    np.testing.assert_allclose(one.scores(), dense_scores(X, one.usages), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_spectra_of_another_matrix(one, tmp_path, kind):
    X = np.random.default_rng(5).poisson(2.0, (150, 20)) * 1000.0 + 0
    X[:, 11] = 7  # the same in every row
    found = scores(KINDS[kind](X, tmp_path / "a"), one.usages)
    assert (found[:, 11] == 0).all()
    varied = np.arange(20) != 11
    np.testing.assert_allclose(
        found[:, varied], dense_scores(X[:, varied], one.usages), rtol=1e-9, atol=1e-13
    )
    usages = refit.normalised(one.usages)
    expected = np.array([scipy.optimize.nnls(usages, v)[0] for v in X.T]).T
    found = one.spectra_in(KINDS[kind](X, tmp_path / "b"))
    np.testing.assert_allclose(found, expected, atol=1e-10 * X.max())


def test_scores_where_usages_are_zero_or_tiny(one, counts):
    usages = one.usages * [1, 1e-9, 0]
    found = scores(counts, usages)
    expected = dense_scores(counts.astype("f8"), usages[:, :2] / [1, 1e-9])
    np.testing.assert_allclose(found[:2] * [[1], [1e-9]], expected, rtol=1e-8)
    assert (found[2] == 0).all()


@pytest.mark.usefixtures("small_panels")
def test_usages_reach_workers(one, counts, tmp_path, cluster):
    X = stored(tmp_path / "x", counts, (80, 20))
    expected = scores(counts, one.usages)
    with computing(cluster):
        for usages in (one.usages, da.from_array(one.usages, chunks=(33, 2))):
            np.testing.assert_allclose(scores(X, usages), expected, rtol=1e-12)
        found = refit.Refitter(X, {}, 1.0).refit(one.spectra)
    with computing("synchronous"):
        np.testing.assert_array_equal(
            found.components, refit.Refitter(X, {}, 1.0).refit(one.spectra).components
        )


def test_rows_must_be_the_same(one, counts):
    with pytest.raises(ValueError, match=r"usages have shape \(150, 3\) and X has \(149, 20\)"):
        one.scores(counts[1:])
    with pytest.raises(ValueError, match=r"usages are negative or not finite \(the smallest is -1\)"):
        refit.spectra_of(counts, np.full((150, 2), -1.0))


def test_what_does_not_fit_in_memory_is_refused(one, counts, monkeypatch):
    monkeypatch.setattr(memory, "_RUNTIME_BYTES", 2**50)
    for ask in (lambda: one.rethreshold(2), one.scores, lambda: one.spectra_in(counts)):
        with pytest.raises(MemoryLimitError, match="projected to peak"):
            ask()


class Unread:
    """An X with a shape and a dtype, whose values must not be read."""

    shape, dtype, ndim = (100, 10), np.dtype("f8"), 2

    def __array__(self, *args, **kwargs):
        raise AssertionError("read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_init": 0}, "n_init is 0; a consensus needs at least two"),
        ({"n_init": 1}, "n_init is 1; a consensus needs at least two"),
        ({"density_threshold": 0}, "density_threshold is 0"),
        ({"density_threshold": float("nan")}, "density_threshold is nan"),
        ({"local_neighborhood_size": 0}, r"local_neighborhood_size is 0; .* \(0, 1\]"),
        ({"local_neighborhood_size": 1.1}, "local_neighborhood_size is 1.1"),
        ({"local_neighborhood_size": 0.3, "n_init": 3}, "n_init=3 is 0, .* give a larger size, 0.333"),
        ({"n_components": 1, "local_neighborhood_size": 1}, "n_init=8 is 8, .* give a smaller size, 0.875"),
        ({"n_components": 0}, "n_components is 0"),
        ({"n_components": "auto"}, "n_components is 'auto'"),
        ({"init": "nndsvda"}, "init is 'nndsvda', which is nearly the same for every seed"),
        ({"fixed_components": np.ones((1, 10))}, "fixed_components are given, and would be the same"),
        ({"holdout": 0.1}, "holdout: not a parameter of NMF"),
        ({"sample_weights": None}, "sample_weights: not a parameter of NMF"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        consensus(Unread(), **({"n_components": 3, "n_init": N_INIT} | options))


def test_hidden_entries_are_refused_in_a_selection_of_ranks(counts):
    with pytest.raises(ValueError, match=r"holdout is 0.1; a consensus uses all entries .* rank_sweep"):
        k_selection(counts, [2, 3], Clustering(4), FitOptions(holdout=0.1))


def test_what_has_no_rows_is_refused_before_it_is_factorized(counts, tmp_path):
    with pytest.raises(SourceError, match=r"stored as CSC, .* store it as CSR"):
        agreed(stored_sparse(tmp_path / "x", counts, "csc"))
