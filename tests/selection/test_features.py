"""Moments of features in one read, and the choice of features that vary most."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from distributed import Client

from dasknmf import Moments, Prepared, highly_variable, moments
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.errors import DataError, MemoryLimitError
from dasknmf.fitting import memory
from tests.helpers import computing, stored, stored_sparse

pytestmark = pytest.mark.usefixtures("small_panels")


@pytest.fixture
def counts(low_rank):
    X = np.random.default_rng(1).poisson(2 * low_rank).astype("u2")
    X[[4, 50, 89]] = 0
    X[:, 6] = 0
    return X


KINDS = {
    "numpy": lambda X, path: X,
    "wide": lambda X, path: X[:10],
    "columns first": lambda X, path: np.asfortranarray(X),
    "csr": lambda X, path: scipy.sparse.csr_array(X),
    "csc": lambda X, path: scipy.sparse.csc_matrix(X),
    "zarr": lambda X, path: stored(path / "x", X, (9, 5)),
    "zarr by columns": lambda X, path: stored(path / "x", X, (90, 5)),
    "path": lambda X, path: stored(path / "x", X, (9, 5)) and path / "x",
    "dask": lambda X, path: da.from_array(X, chunks=(20, 5)),
    "dask by columns": lambda X, path: da.from_array(X, chunks=(90, 4)),
    "dask of csr": lambda X, path: da.from_array(X, chunks=(20, 14)).map_blocks(
        scipy.sparse.csr_array, dtype=X.dtype
    ),
    "stored csr": lambda X, path: stored_sparse(path / "x", X),
    "stored csc": lambda X, path: stored_sparse(path / "x", X, "csc"),
}


def check(found: Moments, V, rtol=1e-13):
    V = np.asarray(V, dtype=np.float64)
    assert found.n_samples == len(V)
    np.testing.assert_allclose(found.mean, V.mean(axis=0), rtol=rtol)
    np.testing.assert_allclose(found.variance, V.var(axis=0), rtol=rtol)
    np.testing.assert_array_equal(found.nonzeros, np.count_nonzero(V, axis=0))
    assert found.mean.dtype == found.variance.dtype == np.float64
    assert found.nonzeros.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8"])
def test_moments_of_every_input(counts, tmp_path, kind, dtype):
    X = counts.astype(dtype)
    check(moments(KINDS[kind](X, tmp_path)), X[:10] if kind == "wide" else X, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_a_prepared_matrix(counts, tmp_path, kind):
    if kind != "stored csc":  # whose rows cannot be summed
        V = Prepared(KINDS[kind](counts, tmp_path), target_sum=100, log1p=True, columns=[9, 0, 6, 2])
        values = V.preparation(counts[:10] if kind == "wide" else counts)
        check(moments(V), values, rtol=1e-5)
    V = Prepared(KINDS[kind](counts, tmp_path / "again"), log1p=True, columns=[0, 2, 6, 9])
    values = V.preparation(counts[:10] if kind == "wide" else counts)
    check(moments(V), values, rtol=1e-5)


@pytest.mark.parametrize(
    "kind", ["zarr", "dask", "zarr by columns", "dask of csr", "stored csr", "stored csc"]
)
def test_the_same_bits_on_every_scheduler(counts, tmp_path, cluster, kind):
    X = KINDS[kind](counts.astype("f4") / 3, tmp_path)
    with computing("threads"):
        wanted = moments(X)
    for scheduler in ("synchronous", cluster):
        with computing(scheduler):
            found = moments(X)
        for name in ("mean", "variance", "nonzeros"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_workers_need_not_see_this_process(counts, tmp_path, cluster: Client, monkeypatch):
    """Workers send tallies only, and need no common directory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with computing(cluster):
        check(moments(da.from_array(counts, chunks=(20, 14))), counts, rtol=1e-12)


def test_a_large_mean_does_not_swallow_the_variance(tmp_path):
    X = 1e9 + np.random.default_rng(0).random((2000, 3))
    found = moments(stored(tmp_path / "x", X, (70, 3)))
    np.testing.assert_allclose(found.variance, X.var(axis=0), rtol=1e-6)
    plain = (X**2).mean(axis=0) - X.mean(axis=0) ** 2
    assert abs(plain / X.var(axis=0) - 1).max() > 1  # the error of plain sums of squares


def test_one_read(tmp_path, counts):
    made = []

    def chunk(block_info=None):
        made.append(block_info[None]["chunk-location"])
        (first, stop), (left, right) = block_info[None]["array-location"]
        return counts[first:stop, left:right]

    X = da.map_blocks(
        chunk, chunks=((30, 60), (14,)), dtype=counts.dtype, meta=np.empty((0, 0), counts.dtype)
    )
    with computing("synchronous"):
        moments(X)
    assert sorted(made) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("order", ["C", "F", "gaps", "sparse", "explicit zeros"])
def test_tiles(order):
    X = np.random.default_rng(0).poisson(1, size=(300, 20)).astype("f4")
    slab = {
        "C": lambda: X,
        "F": lambda: np.asfortranarray(X),
        "gaps": lambda: np.tile(X, 2)[:, :20],
        "sparse": lambda: scipy.sparse.csr_array(X),
        "explicit zeros": lambda: scipy.sparse.csr_array(X + 1),
    }[order]()
    if order == "explicit zeros":
        slab.data -= 1
    block = block_of([slab], PanelSpec(300, 0, 20, np.dtype("f4")))
    for tile in block.tiles():
        V = X[tile.rows].astype(np.float64)
        for axis, found in enumerate((tile.column_moments(), tile.row_moments())):
            mean, squares, nonzeros = found
            np.testing.assert_allclose(mean, V.mean(axis=axis), rtol=1e-13)
            np.testing.assert_allclose(squares, V.var(axis=axis) * V.shape[axis], rtol=1e-12)
            np.testing.assert_array_equal(nonzeros, np.count_nonzero(V, axis=axis))


@pytest.mark.parametrize("kind", ["zarr", "zarr by columns", "dask", "dask of csr", "stored csr"])
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "contains NaN"), (np.inf, "infinity"), (-1.0, "Negative")]
)
def test_bad_values_are_refused(counts, tmp_path, kind, value, said):
    X = counts.astype(np.float64)
    X[7, 2] = value
    with pytest.raises(DataError, match=said):
        moments(KINDS[kind](X, tmp_path))


def test_small_and_large_values_are_no_reason_to_refuse(counts, tmp_path):
    X = stored(tmp_path / "x", counts.astype("f4") * np.float32(1e-20), (9, 5))
    np.testing.assert_allclose(moments(X).mean, counts.mean(axis=0) * 1e-20, rtol=1e-6)


def test_what_does_not_fit_in_memory_is_refused(counts, monkeypatch):
    X = da.from_array(counts, chunks=(20, 5))
    monkeypatch.setattr(memory, "_RUNTIME_BYTES", 2**50)
    with pytest.raises(MemoryLimitError, match="projected to peak"):
        moments(X)


def test_std(counts):
    found = moments(counts)
    np.testing.assert_allclose(found.std(), counts.std(axis=0, ddof=1))
    np.testing.assert_allclose(found.std(ddof=0), counts.std(axis=0))
    with pytest.raises(ValueError, match="ddof is 1 and X has 1 sample;"):
        moments(counts[:1]).std()


def test_a_table(counts):
    names = [f"g{i}" for i in range(14)]
    table = moments(pd.DataFrame(counts, columns=names)).to_dataframe()
    assert table.index.tolist() == names
    assert table.columns.tolist() == ["mean", "variance", "nonzeros"]
    assert table.loc["g3", "nonzeros"] == np.count_nonzero(counts[:, 3])
    assert moments(counts).to_dataframe(names).index.tolist() == names
    assert moments(counts).to_dataframe().index.tolist() == list(range(14))


def over_dispersed(V, n_top):
    """The rule of cNMF in pandas, for features that are not zero throughout."""
    mean, variance = pd.Series(V.mean(axis=0)), pd.Series(V.var(axis=0))
    fano = variance / mean
    A = (np.sqrt(variance) / mean)[mean.nlargest(20).index].min()
    (mean_low, mean_high), (fano_low, fano_high) = mean.quantile([0.1, 0.9]), fano.quantile([0.1, 0.9])
    box = mean.between(mean_low, mean_high, "neither") & fano.between(fano_low, fano_high, "neither")
    B = np.sqrt(fano[box].median())
    ratio = fano / (A**2 * mean + B**2)
    return np.sort(ratio.nlargest(n_top).index)


@pytest.fixture(scope="module")
def expression():
    """400 x 300 counts of five programs, cells of different depths, every gene expressed."""
    rng = np.random.default_rng(5)
    usages = rng.dirichlet(np.full(5, 0.3), size=400) * rng.lognormal(7, 0.5, size=(400, 1))
    X = rng.poisson(usages @ rng.dirichlet(np.full(300, 0.2), size=5))
    X[0] += X.sum(axis=0) == 0
    return X


@pytest.mark.parametrize("n_top", [1, 20, 100, 299])
def test_highly_variable_features_are_those_of_the_rule(expression, n_top):
    V = Prepared(expression.astype(np.float64), target_sum=1e6)
    mask = highly_variable(moments(V), n_top)
    assert mask.dtype == bool
    wanted = over_dispersed(V.preparation(V.X), n_top)
    np.testing.assert_array_equal(np.flatnonzero(mask), wanted)


def test_features_of_zeros_change_nothing(expression):
    X = np.concatenate([np.zeros((400, 40), int), expression, np.zeros((400, 60), int)], axis=1)
    mask = highly_variable(moments(X), 50)
    np.testing.assert_array_equal(mask[40:340], highly_variable(moments(expression), 50))
    assert mask.sum() == 50
    assert highly_variable(moments(X)).sum() == 300  # all that are not zero throughout


def test_a_feature_that_varies_is_found():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(2, 3, size=100), size=(500, 100))
    X[:250, 17] *= 4
    assert np.flatnonzero(highly_variable(moments(X), 1)).tolist() == [17]


def test_what_highly_variable_refuses(expression):
    found = moments(expression)
    for n_top in (0, -3, 2.5):
        with pytest.raises(ValueError, match=f"n_top is {n_top}"):
            highly_variable(found, n_top)
    with pytest.raises(ValueError, match="none of 2 features"):
        highly_variable(moments(expression[:, :2]), 1)
    with pytest.raises(ValueError, match="none of 0 features"):
        highly_variable(moments(np.zeros((4, 3))), 1)
