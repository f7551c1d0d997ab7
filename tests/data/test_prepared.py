"""Preparation in the read: the same V as one prepared beforehand."""

from __future__ import annotations

import pickle

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from dasknmf import NMF, Prepared, open_run
from dasknmf.data import grid_of, is_chunked, rather_transposed, source_of
from dasknmf.data.staging import staged
from dasknmf.errors import DataChangedError, DataError, RunMismatchError, SourceError
from tests.helpers import fitted, stored, stored_sparse

pytestmark = pytest.mark.usefixtures("small_panels")

PARAMETERS = {"n_components": 3, "init": "random", "max_iter": 3, "tol": 0}
ORDERED = [0, 2, 3, 7, 8, 13]
SHUFFLED = [8, 2, 13, 0, 3, 7]
SCALE = [0.5, 1.0, 2.0, 3.0, 0.25, 5.0]
STEPS = {
    "nothing": {},
    "total": {"target_sum": 1e3},
    "log": {"log1p": True},
    "columns": {"columns": ORDERED},
    "columns in another order": {"columns": SHUFFLED},
    "columns, scaled": {"columns": ORDERED, "scale": SCALE},
    "all": {"target_sum": 1e4, "log1p": True, "columns": SHUFFLED, "scale": SCALE},
}


@pytest.fixture
def counts(low_rank):
    """90 x 14 counts with zeros, three rows of zeros, and each column in use."""
    X = np.random.default_rng(1).poisson(2 * low_rank).astype("u2")
    X[[4, 50, 89]] = 0
    assert X.any(axis=0).all()
    return X


def beforehand(X, columns=None, target_sum=None, log1p=False, scale=None):
    """The documented steps in their order, in float64."""
    V = np.array(X, dtype=np.float64)
    if target_sum is not None:
        for i in range(len(V)):
            V[i] *= target_sum / V[i].sum() if V[i].sum() else 1
    if log1p:
        V = np.log(1 + V)
    if columns is not None:
        V = V[:, columns]
    return V if scale is None else V / np.asarray(scale)


KINDS = {
    "numpy": lambda X, path: X,
    "columns first": lambda X, path: np.asfortranarray(X),
    "csr": lambda X, path: scipy.sparse.csr_array(X),
    "csc": lambda X, path: scipy.sparse.csc_matrix(X),
    "zarr": lambda X, path: stored(path / "x.zarr", X, (9, 5)),
    "path": lambda X, path: stored(path / "x.zarr", X, (9, 5)) and path / "x.zarr",
    "dask": lambda X, path: da.from_array(X, chunks=(20, 5)),
    "dask of csr": lambda X, path: da.from_array(X, chunks=(20, X.shape[1])).map_blocks(
        scipy.sparse.csr_array, dtype=X.dtype
    ),
    "stored csr": lambda X, path: stored_sparse(path / "x.zarr", X),
}
SPARSE = {"csr", "csc", "dask of csr", "stored csr"}


def read(source):
    """V as a source gives it, panel by panel."""
    slabs = []
    for panel in grid_of(source):
        keys = source.chunk_keys(panel)
        chunks = [dask.get(source.upstream(), row) for row in keys] if keys else []
        slabs += source.slabs(panel.start, panel.stop, chunks)
    return np.concatenate([slab.toarray() if scipy.sparse.issparse(slab) else slab for slab in slabs])


def same(left, right):
    (model, W), (other, W_other) = left, right
    np.testing.assert_array_equal(W, W_other)
    np.testing.assert_array_equal(model.components_, other.components_)


@pytest.mark.parametrize("dtype", ["u2", "i8", "f4", ">f4", "f8", "g", "f2", "?"])
@pytest.mark.parametrize("steps", STEPS)
def test_the_steps_are_those_documented(counts, steps, dtype):
    X = counts.astype(dtype)
    V = Prepared(X, **STEPS[steps])
    wanted = beforehand(X, **STEPS[steps])
    values = V.preparation(X)
    # SciPy has no sparse matrices of half or of foreign floats.
    taken = X if dtype not in (">f4", "f2") else X.astype("f4")
    sparse = V.preparation(scipy.sparse.csr_array(taken))
    np.testing.assert_allclose(values, wanted, rtol=1e-12 if V.dtype == np.float64 else 1e-6)
    np.testing.assert_allclose(sparse.toarray(), values, rtol=1e-6)
    assert V.shape == wanted.shape
    assert values.dtype == sparse.dtype == V.dtype
    assert isinstance(sparse, scipy.sparse.csr_array)
    assert sparse.nnz == np.count_nonzero(wanted)
    assert (np.diff(sparse.indices)[np.diff(np.repeat(np.arange(90), np.diff(sparse.indptr))) == 0] > 0).all()
    changes = {"target_sum", "log1p", "scale"} & STEPS[steps].keys()
    if not changes and dtype in ("u2", "i8", "?"):
        assert V.dtype == X.dtype
    else:
        assert V.dtype == ("f8" if dtype in ("f8", "g") else "f4")


def test_rows_are_left_as_they_were(counts):
    for X in (counts.astype("f4"), scipy.sparse.csr_array(counts.astype("f4"))):
        before = X.copy()
        Prepared(X, **STEPS["all"]).preparation(X)
        assert (before != X).sum() == 0


def test_sparse_rows_out_of_order_and_with_duplicates():
    X = scipy.sparse.csr_array(
        (np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2]), np.array([0, 3, 3])), shape=(2, 3)
    )
    V = Prepared(np.ones((2, 3)), target_sum=12, columns=[2, 0]).preparation(X)
    np.testing.assert_array_equal(V.toarray(), [[8, 4], [0, 0]])
    assert X.indices.tolist() == [2, 0, 2]


def test_a_mask_is_its_indices(counts):
    mask = np.zeros(14, dtype=bool)
    mask[ORDERED] = True
    V, other = Prepared(counts, columns=mask), Prepared(counts, columns=ORDERED)
    np.testing.assert_array_equal(V.preparation(counts), other.preparation(counts))
    assert V.described() == other.described()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_fit_is_that_of_V_prepared_beforehand(counts, tmp_path, kind, steps):
    counts = counts.astype("f4")  # integers of sparse matrices would be float64 in a plain fit
    X = KINDS[kind](counts, tmp_path)
    V = Prepared(X, **STEPS[steps])
    (tmp_path / "beforehand").mkdir()
    written = KINDS[kind](V.preparation(counts), tmp_path / "beforehand")
    if kind in ("zarr", "path", "dask"):
        # The chunks of X decide the panels, and its columns are not cut where all of V is.
        rows = 9 if kind != "dask" else 20
        written = da.from_array(V.preparation(counts), chunks=(rows, V.shape[1]))
    parameters = PARAMETERS | {"dtype": np.float64}
    (model, W), (other, W_other) = fitted(V, **parameters), fitted(written, **parameters)
    np.testing.assert_allclose(W, W_other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.components_, other.components_, rtol=1e-5, atol=1e-6)
    assert model.n_features_in_ == V.shape[1]


@pytest.mark.parametrize("beta_loss", [2, 1])
@pytest.mark.parametrize("steps", STEPS)
def test_the_same_bits_from_zarr(counts, tmp_path, steps, beta_loss):
    V = Prepared(stored(tmp_path / "x", counts, (9, 14)), **STEPS[steps])
    written = stored(tmp_path / "v", V.preparation(counts), (9, V.shape[1]))
    parameters = PARAMETERS | {"beta_loss": beta_loss}
    same(fitted(V, **parameters), fitted(written, **parameters))


@pytest.mark.parametrize("kind", ["zarr", "dask", "dask of csr", "stored csr"])
def test_the_same_bits_on_every_scheduler(counts, tmp_path, cluster, kind):
    V = Prepared(KINDS[kind](counts, tmp_path), **STEPS["all"])
    threads = fitted(V, **PARAMETERS)
    same(fitted(V, "synchronous", **PARAMETERS), threads)
    same(fitted(V, cluster, **PARAMETERS), threads)


@pytest.mark.parametrize("kind", ["numpy", "zarr", "csr", "dask", "dask of csr", "stored csr"])
@pytest.mark.parametrize("stage", ["memory", "directory"])
def test_the_same_bits_with_a_stage(counts, tmp_path, kind, stage):
    V = Prepared(KINDS[kind](counts, tmp_path), **STEPS["all"])
    place = stage if stage == "memory" else tmp_path / stage
    same(fitted(V, run={"stage": place}, **PARAMETERS), fitted(V, **PARAMETERS))


@pytest.mark.parametrize("kind", ["zarr", "dask", "stored csr"])
def test_the_same_bits_with_a_stage_on_a_cluster(counts, tmp_path, cluster, kind):
    V = Prepared(KINDS[kind](counts, tmp_path), **STEPS["all"])
    same(fitted(V, cluster, {"stage": "memory"}, **PARAMETERS), fitted(V, **PARAMETERS))
    same(fitted(V, cluster, {"stage": tmp_path / "stage"}, **PARAMETERS), fitted(V, **PARAMETERS))


def test_a_stage_keeps_what_was_prepared(counts, tmp_path, monkeypatch):
    V = Prepared(stored(tmp_path / "x", counts, (9, 5)), **STEPS["all"])
    source = source_of(V)
    grid = grid_of(source)
    with staged(source, grid, "memory", None) as kept:
        assert kept.staged_bytes == 90 * 6 * 4
        first = read(kept)
        monkeypatch.setattr(type(V.preparation), "__call__", None)  # it is not called again
        np.testing.assert_array_equal(read(kept), first)
    np.testing.assert_allclose(first, beforehand(counts, **STEPS["all"]), rtol=1e-6)


def test_bytes_read_are_those_of_X(counts, tmp_path):
    X = stored(tmp_path / "x.zarr", counts, (9, 5))
    size = sum(path.stat().st_size for path in X.store.root.rglob("c/*/*"))
    model, _ = fitted(Prepared(X, **STEPS["all"]), run={"stage": "memory"}, **PARAMETERS)
    assert [record.bytes_read for record in model.history_][:3] == [size, 0, 90 * 3 * 4]


def test_panels_are_those_of_X(counts, tmp_path, monkeypatch):
    from dasknmf.core import panels

    monkeypatch.setattr(panels, "_PANEL_BYTES", (600, 600))
    X = stored(tmp_path / "x", counts, (9, 5))
    grid = grid_of(source_of(X))
    assert 1 < len(grid) < 10
    assert grid_of(source_of(Prepared(X, **STEPS["all"]))) == grid


@pytest.mark.parametrize("shape", [(90, 3), (90, 5), (90, 14)])
@pytest.mark.parametrize("steps", ["nothing", "log", "columns", "columns, scaled"])
@pytest.mark.parametrize("kind", ["zarr", "dask", "dask of csr", "csc", "stored csc"])
def test_X_read_by_columns(counts, tmp_path, shape, steps, kind):
    X = {
        "zarr": lambda: stored(tmp_path / "x", counts, shape),
        "dask": lambda: da.from_array(counts, chunks=shape),
        "dask of csr": lambda: da.from_array(counts, chunks=shape).map_blocks(scipy.sparse.csr_array),
        "csc": lambda: scipy.sparse.csc_array(counts),
        "stored csc": lambda: stored_sparse(tmp_path / "x", counts, "csc", 10 * shape[1]),
    }[kind]()
    V = Prepared(X, **STEPS[steps])
    source = source_of(V, transposed=True)
    wanted = V.preparation(counts)
    assert source.shape == wanted.T.shape
    np.testing.assert_allclose(read(source), wanted.T, rtol=1e-6)
    assert grid_of(source).n_rows == V.shape[1]


def test_a_fit_of_X_read_by_columns(counts, tmp_path):
    V = Prepared(stored(tmp_path / "x", counts, (90, 5)), **STEPS["columns, scaled"])
    assert rather_transposed(V, parity=False)
    written = da.from_array(V.preparation(counts), chunks=(90, (3, 2, 1)))
    (model, W), (other, W_other) = fitted(V, **PARAMETERS), fitted(written, **PARAMETERS)
    np.testing.assert_allclose(W, W_other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.components_, other.components_, rtol=1e-4, atol=1e-6)


def test_columns_that_are_not_chosen_are_not_read(counts, tmp_path):
    X = stored(tmp_path / "x.zarr", counts, (90, 2))
    V = Prepared(X, columns=[0, 1, 9])
    sizes = [(X.store.root / "c" / "0" / str(column)).stat().st_size for column in (0, 4)]
    model, _ = fitted(V, **PARAMETERS)
    assert model.history_[0].bytes_read == sum(sizes)


@pytest.mark.parametrize("steps", ["total", "columns in another order"])
def test_X_whose_rows_are_needed_is_read_by_rows(counts, tmp_path, steps):
    V = Prepared(stored(tmp_path / "x", counts, (90, 5)), **STEPS[steps])
    assert not rather_transposed(V, parity=False)
    same(fitted(V, **PARAMETERS), fitted(da.from_array(V.preparation(counts), chunks=-1), **PARAMETERS))
    with pytest.raises(SourceError, match="stored by columns"):
        source_of(V, transposed=True)


def test_a_store_of_columns(counts, tmp_path):
    """CSC has no rows to read, so steps that need them are refused before anything is read."""
    X = stored_sparse(tmp_path / "x", counts, "csc")
    V = Prepared(X, **STEPS["columns, scaled"])
    values = scipy.sparse.csc_array(V.preparation(counts))
    (model, W), (other, W_other) = (
        fitted(V, **PARAMETERS),
        fitted(stored_sparse(tmp_path / "v", values, "csc"), **PARAMETERS),
    )
    np.testing.assert_allclose(W, W_other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.components_, other.components_, rtol=1e-4, atol=1e-6)
    for steps in ("total", "columns in another order"):
        with pytest.raises(SourceError, match="stored by columns"):
            Prepared(X, **STEPS[steps])
    with pytest.raises(SourceError, match="stored by columns"):
        Prepared(Prepared(X, log1p=True), target_sum=1)


def test_sparse_V_takes_the_memory_of_its_nonzeros(counts, tmp_path):
    X = stored_sparse(tmp_path / "x", counts.astype("u2"))
    source = source_of(Prepared(X, log1p=True))
    nnz = np.count_nonzero(counts)
    with staged(source, grid_of(source), "memory", None) as kept:
        # Values and columns of four bytes each; offsets of rows are few beside them.
        assert nnz * 8 <= kept.staged_bytes < nnz * 8 + 90 * 16
    assert grid_of(source) == grid_of(source_of(Prepared(X)))


def test_prepared_twice(counts, tmp_path):
    X = stored(tmp_path / "x", counts, (9, 5))
    inner = Prepared(X, columns=ORDERED, target_sum=100)
    V = Prepared(inner, target_sum=50, log1p=True)
    wanted = beforehand(beforehand(counts, columns=ORDERED, target_sum=100), target_sum=50, log1p=True)
    np.testing.assert_allclose(read(source_of(V)), wanted, rtol=1e-6)
    assert V.described()["before"] == inner.described()
    model, _ = fitted(V, **PARAMETERS)
    np.testing.assert_allclose(model.transform(V).compute(), model.transform(wanted), rtol=2e-3, atol=1e-4)


def test_the_order_of_steps(counts):
    """Totals are those of all columns, and what is divided by the scale are the logarithms."""
    V = Prepared(counts, **STEPS["all"]).preparation(counts)
    i, j = np.argwhere(counts[:, SHUFFLED] > 0)[5]
    share = counts[i, SHUFFLED[j]] / counts[i].sum()
    np.testing.assert_allclose(V[i, j], np.log1p(share * 1e4) / SCALE[j], rtol=1e-6)
    assert not V[[4, 50, 89]].any()


def test_columns_of_unit_variance(counts):
    X = counts.astype(np.float64)
    V = Prepared(X, columns=SHUFFLED, scale=X.std(axis=0, ddof=1)[SHUFFLED])
    np.testing.assert_allclose(V.preparation(X).std(axis=0, ddof=1), 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta_loss", [2, 1])
def test_transform(counts, tmp_path, kind, beta_loss):
    V = Prepared(KINDS[kind](counts, tmp_path), **STEPS["all"])
    model, _ = fitted(V, **PARAMETERS, beta_loss=beta_loss)
    W, scores = model.transform(V), model.score_samples(V)
    assert isinstance(W, da.Array) == isinstance(scores, da.Array) == is_chunked(V)
    values = V.preparation(scipy.sparse.csr_array(counts) if kind in SPARSE else counts)
    np.testing.assert_allclose(np.asarray(W), model.transform(values), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.asarray(scores), model.score_samples(values), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expecting 6 features"):
        model.transform(V.X)


@pytest.mark.parametrize("kind", ["zarr", "dask of csr", "stored csr"])
def test_a_run_goes_on_with_the_same_preparation_only(counts, tmp_path, kind):
    X = KINDS[kind](counts, tmp_path)
    run = {"checkpoint": tmp_path / "run"}
    fitted(Prepared(X, **STEPS["all"]), run=run, **PARAMETERS)
    assert open_run(tmp_path / "run").identity.preparation.target_sum == 1e4
    longer = fitted(Prepared(X, **STEPS["all"]), run=run, **PARAMETERS | {"max_iter": 5})
    same(longer, fitted(Prepared(X, **STEPS["all"]), **PARAMETERS | {"max_iter": 5}))
    for change, named in [
        ({"target_sum": 1e3}, "target_sum of Prepared: 10000.0 in the run, 1000.0 now"),
        ({"log1p": False}, "log1p of Prepared: True in the run, False now"),
        ({"scale": None}, "scale of Prepared: given in the run, not set now"),
        ({"columns": ORDERED}, "columns of Prepared: other values in the run than now"),
    ]:
        with pytest.raises(RunMismatchError) as error:
            fitted(Prepared(X, **STEPS["all"] | change), run=run, **PARAMETERS)
        assert named in str(error.value)


def test_what_is_read_between_chosen_columns_counts():
    array = zarr.create_array({}, shape=(5, 60), chunks=(5, 10), dtype="f4")
    source = source_of(Prepared(array, columns=[12, 41]), transposed=True)
    # Columns 10 to 49 are read for both; of those before and after nothing is.
    assert source.facts.cuts.tolist() == [0, 1, 2]
    assert source.facts.cut_bytes.tolist() == [0, 10 * 20, 40 * 20]


@pytest.mark.parametrize("kind", ["zarr", "stored csr"])
def test_a_run_goes_on_with_its_own_scale(counts, tmp_path, kind):
    """A scale that was computed on another CPU is another one in last bits, and V is the same."""
    X = KINDS[kind](counts, tmp_path)
    scale = np.linspace(1, 2.3, 14)
    run = {"checkpoint": tmp_path / "run"}
    names = list("abcdefghijklmn")
    begun = fitted(Prepared(X, scale=scale, feature_names=names), run=run, **PARAMETERS)
    rounded = scale * (1 + np.resize([1, -1], 14) * 1e-7)
    assert (rounded != scale).all()
    longer = PARAMETERS | {"max_iter": 5}
    model, W = fitted(Prepared(X, scale=rounded, feature_names=names), run=run, **longer)
    assert model.n_reads_ > begun[0].n_reads_
    np.testing.assert_array_equal(model.preparation_["scale"], scale)
    same((model, W), fitted(Prepared(X, scale=scale), **longer))
    other = scale.copy()
    other[4] *= 1 + 1e-5
    said = r"another scale: 1 of 14 divisors changed, most of all that of feature 'e': 1\.4 .* 1\.40001 now"
    with pytest.raises(RunMismatchError, match=said):
        fitted(Prepared(X, scale=other, feature_names=names), run=run, **longer)
    begun_anew, _ = fitted(Prepared(X, scale=other), run=run | {"overwrite": True}, **longer)
    np.testing.assert_array_equal(begun_anew.preparation_["scale"], other)


def test_a_run_of_X_does_not_go_on_prepared(counts, tmp_path):
    X = KINDS["zarr"](counts, tmp_path)
    run = {"checkpoint": tmp_path / "run"}
    fitted(X, run=run, **PARAMETERS)
    with pytest.raises(RunMismatchError, match="log1p of Prepared: not set in the run, True now"):
        fitted(Prepared(X, log1p=True), run=run, **PARAMETERS)


def test_an_X_that_changed_is_refused(counts, tmp_path):
    X = KINDS["zarr"](counts, tmp_path)
    run = {"checkpoint": tmp_path / "run"}
    fitted(Prepared(X, target_sum=1e3), run=run, **PARAMETERS)
    X[4] = 1  # a row of zeros before
    with pytest.raises(DataChangedError, match="panel 0"):
        fitted(Prepared(X, target_sum=1e3), run=run, **PARAMETERS | {"max_iter": 5})


@pytest.mark.parametrize("steps", ["nothing", "total", "log", "all"])
@pytest.mark.parametrize("kind", ["zarr", "dask", "dask of csr", "stored csr"])
@pytest.mark.parametrize(
    ("value", "said"), [(-3.0, "below zero"), (np.nan, "contains NaN"), (-0.5, "below zero")]
)
def test_bad_values_are_refused_for_what_they_are(counts, tmp_path, kind, steps, value, said):
    X = counts.astype(np.float64)
    X[7, 2] = value
    with pytest.raises(DataError, match=said):
        fitted(Prepared(KINDS[kind](X, tmp_path), **STEPS[steps]), **PARAMETERS)


def test_bad_values_in_memory_are_refused_at_once(counts):
    X = counts.astype(np.float64)
    X[7, 2] = -3
    for matrix in (X, scipy.sparse.csr_array(X)):
        with pytest.raises(DataError, match="The smallest is -3"):
            Prepared(matrix, log1p=True)
    X[7, 2] = np.nan
    with pytest.raises(DataError, match=r"contains NaN. target_sum divides rows by their totals"):
        Prepared(X, target_sum=1.0)
    with pytest.raises(DataError, match=r"contains NaN. 1 of .* give missing_values='nan'"):
        NMF(2).fit(Prepared(X))


def test_missing_values_pass_through_steps_of_single_entries(counts, tmp_path):
    """A wrapper that selects, takes logarithms or divides keeps what is missing; each remedy is run."""
    X = counts.astype(np.float64)
    X[7, 2], X[9, 0] = np.nan, np.nan
    scale = np.linspace(1, 2, 5)
    right = NMF(2, random_state=0, missing_values="nan", tol=1e-2).fit(np.log1p(X)[:, :5] / scale)
    for kind in ("memory", "zarr", "dask"):
        stored_X = X if kind == "memory" else KINDS[kind](X, tmp_path)
        V = Prepared(Prepared(stored_X, log1p=True), columns=np.arange(5), scale=scale)
        model = NMF(2, random_state=0, missing_values="nan", tol=1e-2)
        W = model.fit_transform(V)
        np.testing.assert_allclose(model.components_, right.components_, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(model.transform(V)), np.asarray(W), rtol=1e-2, atol=1e-2)
    coded = NMF(2, random_state=0, missing_values=0.0, tol=1e-2)
    assert coded.fit(Prepared(counts[counts.any(axis=1)], columns=np.arange(14))).n_unobserved_features_ == 0
    for missing, steps in ((0.0, {"log1p": True}), (0.0, {"scale": np.ones(14)}), ("nan", {"target_sum": 1})):
        refused = NMF(2, missing_values=missing)
        with pytest.raises(ValueError, match=r"missing_values is .*leave out these steps"):
            refused.fit(Prepared(counts, **steps))


REFUSED = [
    ({"columns": [0, 14]}, ValueError, "columns holds 14; X has 14 columns"),
    ({"columns": [-1]}, ValueError, "columns holds -1"),
    ({"columns": [3, 1, 3]}, ValueError, "columns holds 3 2 times"),
    ({"columns": []}, ValueError, "selects none"),
    ({"columns": np.zeros(14, dtype=bool)}, ValueError, "selects none"),
    ({"columns": np.ones(13, dtype=bool)}, ValueError, "mask of 13 values"),
    ({"columns": [0.0, 1.0]}, TypeError, "columns is float64"),
    ({"columns": [[0, 1]]}, TypeError, r"shape \(1, 2\)"),
    ({"columns": ["a"]}, TypeError, "list of column indices"),
    ({"target_sum": 0}, ValueError, "target_sum is 0"),
    ({"target_sum": -1e4}, ValueError, "positive"),
    ({"target_sum": np.nan}, ValueError, "target_sum is nan"),
    ({"target_sum": np.inf}, ValueError, "finite"),
    ({"target_sum": "1e4"}, TypeError, "target_sum is '1e4'"),
    ({"target_sum": True}, TypeError, "target_sum is True"),
    ({"scale": np.ones(13)}, ValueError, r"scale has shape \(13,\)"),
    ({"scale": np.ones(14), "columns": [1, 2]}, ValueError, r"give an array of shape \(2,\)"),
    ({"scale": [1.0, 0.0], "columns": [1, 2]}, ValueError, "scale is 0 for column 1"),
    ({"scale": [-1.0, 1.0], "columns": [1, 2]}, ValueError, "scale is -1 for column 0"),
    ({"scale": [1.0, np.nan], "columns": [1, 2]}, ValueError, "scale is nan"),
    ({"feature_names": ["a"]}, ValueError, "feature_names has shape"),
]


@pytest.mark.parametrize(("arguments", "error", "said"), REFUSED)
def test_refused(counts, arguments, error, said):
    with pytest.raises(error, match=said):
        Prepared(counts, **arguments)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(SourceError, match="cannot be opened"):
        Prepared(tmp_path / "none.zarr")
    with pytest.raises(ValueError, match="Complex"):
        Prepared(da.ones((3, 3), dtype=complex))


def test_names(counts):
    names = np.array([f"g{i}" for i in range(14)])
    frame = pd.DataFrame(counts, columns=names)
    assert Prepared(frame, columns=[3, 1]).feature_names.tolist() == ["g3", "g1"]
    assert Prepared(counts, columns=[3, 1], feature_names=["a", "b"]).feature_names.tolist() == ["a", "b"]
    assert Prepared(Prepared(frame, columns=[3, 1]), columns=[1]).feature_names.tolist() == ["g1"]
    assert Prepared(counts).feature_names is None
    assert Prepared(pd.DataFrame(counts)).feature_names is None


def test_it_travels_small(counts, tmp_path):
    X = stored(tmp_path / "x", counts, (9, 5))
    V = Prepared(X, **STEPS["all"])
    assert len(pickle.dumps(source_of(V).for_tasks())) < 8000
    again = pickle.loads(pickle.dumps(V))
    np.testing.assert_array_equal(read(source_of(again)), read(source_of(V)))
    assert "target_sum=10000, log1p, 6 of 14 columns, scaled" in repr(again)


def test_memory_is_projected_for_what_is_read(counts, tmp_path):
    X = da.from_array(np.tile(counts, (1, 10)), chunks=(30, 140))
    source = source_of(Prepared(X, columns=[0], log1p=True))
    # A panel of X in the scheduler's hands, and what is made of it.
    assert source.facts.slab_bytes == 30 * 140 * 2 + 30 * 4


def test_the_start_and_its_default(counts, tmp_path):
    """`init` reads the prepared V, and a custom start has its shape."""
    V = Prepared(stored(tmp_path / "x", counts, (9, 5)), **STEPS["all"])
    for init in ("sample", "sketch", "nndsvda"):
        assert fitted(V, **PARAMETERS | {"init": init})[0].components_.shape == (3, 6)
    W, H = np.ones((90, 3), "f4"), np.full((3, 6), 0.5, "f4")
    H[0, 0] = 1
    model, _ = fitted(V, run={"W": W, "H": H}, **PARAMETERS | {"init": "custom"})
    assert model.components_.shape == (3, 6)
    with pytest.raises(ValueError, match="wrong second dimension"):
        NMF(3, init="custom").fit(V, W=W, H=np.ones((3, 14), "f4"))


@pytest.mark.parametrize(("wrong", "message"), [(-3.0, "Negative values"), (np.nan, "contains NaN")])
@pytest.mark.parametrize("sparse", [False, True])
def test_what_spoils_a_total_is_refused_outside_of_the_chosen_columns_too(tmp_path, wrong, message, sparse):
    X = np.random.default_rng(0).poisson(1.0, (60, 9)).astype(np.float32)
    X[11, 7] = wrong
    V = da.from_array(X, chunks=(20, -1))
    V = V.map_blocks(scipy.sparse.csr_array) if sparse else V
    with pytest.raises(DataError, match=f"{message}.*1 entries of some rows, in columns that are not chosen"):
        fitted(Prepared(V, columns=np.arange(5), target_sum=100.0), run={"checkpoint": tmp_path / "run"})
    assert not (tmp_path / "run" / "run").exists()
    fitted(Prepared(V, columns=np.arange(5)), n_components=2)  # where no total counts it, nothing reads it
