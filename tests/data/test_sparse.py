"""Sparse V: the same numbers as dense V, at the cost of its nonzeros."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tracemalloc

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasknmf import NMF, data
from dasknmf.core.blocks import PanelSpec, block_of, matrix
from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.phase import Phase, Tally, Visitor, visit
from dasknmf.data.in_memory import MemorySource
from dasknmf.data.staging.packed import Packed
from dasknmf.errors import DataError, SourceError
from tests.helpers import ALGORITHMS, PENALTIES, cuts, fitted

TAKEN = [(solver, beta) for solver, beta in ALGORITHMS if beta > 0]
KINDS = [
    scipy.sparse.csr_matrix,
    scipy.sparse.csr_array,
    scipy.sparse.csc_matrix,
    scipy.sparse.csc_array,
    scipy.sparse.coo_array,
]


def counts(n=120, m=30, density=0.3, seed=0, dtype="f8"):
    """Poisson counts of a low rank, with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, size=(n, 4)) @ rng.gamma(0.5, size=(4, m))
    X = rng.poisson(rate) * (rng.random((n, m)) < 2 * density)
    X[n // 3] = 0
    X[:, m // 2] = 0
    return X.astype(dtype)


def disordered(X, index="i4"):
    """X as CSR with explicit zeros, every entry in two parts, and columns in no order."""
    X = scipy.sparse.coo_array(X)
    rng = np.random.default_rng(1)
    zeros = rng.integers(0, X.shape[0], 20), rng.integers(0, X.shape[1], 20)
    rows = np.concatenate([X.row, X.row, zeros[0]])
    columns = np.concatenate([X.col, X.col, zeros[1]])
    part = X.data // 3 if X.data.dtype.kind in "iu" else X.data / 4
    values = np.concatenate([part, X.data - part, np.zeros(20, X.data.dtype)])
    order = np.lexsort((rng.random(len(rows)), rows))
    pointers = np.append(0, np.cumsum(np.bincount(rows, minlength=X.shape[0])))
    parts = values[order], columns[order].astype(index), pointers.astype(index)
    return scipy.sparse.csr_array(parts, shape=X.shape)


def in_chunks(X, rows, columns=-1, kind=scipy.sparse.csr_matrix):
    """X as a Dask array of sparse chunks."""
    return da.from_array(X, chunks=(rows, columns)).map_blocks(
        kind, dtype=X.dtype, meta=kind((0, 0), dtype=X.dtype)
    )


def same(left, right, precision=1e-6):
    (model, W), (other, W_other) = left, right
    np.testing.assert_allclose(W, W_other, rtol=precision, atol=precision)
    np.testing.assert_allclose(model.components_, other.components_, rtol=precision, atol=precision)
    # √ of what is left after sums as large as V's own: 0 may come out as √eps.
    assert model.reconstruction_err_ == pytest.approx(other.reconstruction_err_, rel=precision, abs=1e-6)
    assert model.n_iter_ == other.n_iter_


@pytest.mark.parametrize(("solver", "beta"), TAKEN)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_sparse_equals_dense(solver, beta, penalty):
    X = counts()
    parameters = penalty | {"n_components": 3, "solver": solver, "beta_loss": beta, "init": "random"}
    same(fitted(scipy.sparse.csr_array(X), **parameters), fitted(X, **parameters))


@pytest.mark.parametrize("init", ["sample", "sketch", "nndsvd", "nndsvda", "nndsvdar", None])
@pytest.mark.parametrize("beta", [1, 2])
def test_every_start(init, beta):
    if init == "sketch" and beta == 1:
        init = "sample"
    X = counts(400)
    # All of X in both: of a part, a sparse sample has more rows.
    parameters = {"n_components": 3, "beta_loss": beta, "init": init, "sample_bytes": 10**6, "inner_iter": 2}
    same(fitted(scipy.sparse.csr_array(X), **parameters), fitted(X, **parameters))


@given(
    st.integers(2, 60),
    st.integers(2, 40),
    st.integers(1, 9),
    st.floats(0, 1),
    st.integers(0, 99),
    st.sampled_from(TAKEN),
)
def test_any_matrix(n, m, k, density, seed, algorithm):
    solver, beta = algorithm
    X = counts(n, m, density, seed)
    X[0, 0] += 1
    parameters = {"n_components": k, "solver": solver, "beta_loss": beta, "init": "random", "max_iter": 3}
    dense = fitted(X, **parameters)
    same(fitted(disordered(X), **parameters), dense)
    history = [record.objective for record in dense[0].history_.exact]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(history))


@pytest.mark.parametrize("beta", [1, 2, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_scipy(kind, beta):
    X = counts()
    parameters = {"n_components": 3, "beta_loss": beta, "init": "random"}
    same(fitted(kind(X), **parameters), fitted(X, **parameters), 1e-10)


@pytest.mark.parametrize("shape", [(30, 200), (200, 30)])
def test_wide_and_tall(shape):
    X = counts(*shape)
    same(fitted(scipy.sparse.csr_array(X), n_components=3), fitted(X, n_components=3), 1e-8)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("index", ["i4", "i8"])
@pytest.mark.parametrize("beta", [1, 2])
def test_dtypes_and_indices(dtype, index, beta):
    X = counts().astype(dtype)
    sparse = scipy.sparse.csr_array(X)
    sparse.indices, sparse.indptr = sparse.indices.astype(index), sparse.indptr.astype(index)
    parameters = {"n_components": 3, "beta_loss": beta, "init": "random", "inner_iter": 1}
    model, W = fitted(sparse, **parameters)
    assert W.dtype == (np.float32 if np.dtype(dtype).itemsize <= 2 or dtype == "f4" else np.float64)
    same((model, W), fitted(X, **parameters), 1e-9 if W.dtype == np.float64 else 2e-3)


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_the_users_matrix_stays_as_it_is(dtype):
    X = disordered(counts(dtype=dtype) * (20 if dtype == "u1" else 1))
    before = X.data.copy(), X.indices.copy(), X.indptr.copy()
    same(
        fitted(X, n_components=3, init="random"),
        fitted(X.toarray().astype("f8"), n_components=3, init="random"),
        1e-3,
    )
    for array, copy in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    clean = scipy.sparse.csr_array(counts())
    assert np.shares_memory(canonical(clean).data, clean.data)


def test_small_integers_do_not_overflow_in_duplicates():
    X = scipy.sparse.csr_array((np.array([200, 100], "u1"), [1, 1], [0, 2]), shape=(1, 3))
    assert canonical(X).toarray().tolist() == [[0, 300, 0]]


@settings(max_examples=10)
@given(cuts(120), st.sampled_from([1, 2]))
def test_chunks_do_not_matter(rows, beta):
    X = counts()
    parameters = {"n_components": 3, "beta_loss": beta, "init": "random", "inner_iter": 1}
    whole = fitted(scipy.sparse.csr_array(X), **parameters)
    same(fitted(in_chunks(X, rows), **parameters), whole, 1e-9)


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("chunks", [(50, -1), (50, 7), (-1, 7)])
@pytest.mark.parametrize("init", ["sample", "random"])
def test_dask_chunks(kind, chunks, init):
    X = counts()
    parameters = {"n_components": 3, "beta_loss": 1, "init": init, "inner_iter": 1}
    same(fitted(in_chunks(X, *chunks, kind), **parameters), fitted(X, **parameters))


def test_sparse_chunks_of_a_graph_that_says_dense():
    X = counts()
    D = da.from_array(X, chunks=(50, -1)).map_blocks(
        scipy.sparse.csr_matrix, dtype="f8", meta=np.empty((0, 0))
    )
    same(fitted(D, n_components=3), fitted(X, n_components=3))


def test_a_cluster(cluster, tmp_path):
    X = in_chunks(counts(), 50)
    parameters = {"n_components": 3, "beta_loss": 1}
    here = fitted(X, **parameters)
    same(fitted(X, cluster, {"stage": "memory"}, **parameters), here, 1e-12)
    same(fitted(X, cluster, {"stage": str(tmp_path / "stage")}, **parameters), here, 1e-12)
    model, W = fitted(X, cluster, {"checkpoint": str(tmp_path / "run.zarr")}, **parameters)
    same((model, W), here, 1e-12)


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize("beta", [1, 1.5, 2])
def test_the_same_bits_from_a_stage(tmp_path, kind, beta, small_panels):
    X = in_chunks(counts(dtype="u1"), 50, kind=scipy.sparse.csr_array)
    stage = "memory" if kind == "memory" else str(tmp_path / "stage")
    parameters = {"n_components": 3, "beta_loss": beta}
    (model, W), (other, W_other) = fitted(X, run={"stage": stage}, **parameters), fitted(X, **parameters)
    np.testing.assert_array_equal(W, W_other)
    np.testing.assert_array_equal(model.components_, other.components_)


@pytest.mark.parametrize("index", ["i4", "i8"])
@pytest.mark.parametrize("dtype", ["?", "u1", "f4", "f8"])
def test_packed_slabs_are_compact(dtype, index):
    X = canonical(scipy.sparse.csr_array(counts(dtype=dtype)))
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    (slab,) = MemorySource(X).slabs(30, 60, [])
    kept = Packed.of(slab)
    assert kept.kind == "S30"
    assert kept.pieces[0].base is None
    again = kept.slab()
    assert again.data.dtype == X.data.dtype
    assert again.indices.dtype == X.indices.dtype
    np.testing.assert_array_equal(again.toarray(), counts(dtype=dtype)[30:60])


@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_new_rows(beta):
    X = counts()
    model, _ = fitted(X, n_components=3, beta_loss=beta)
    W, scores = model.transform(X), model.score_samples(X)
    for new in (scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(X), disordered(X)):
        np.testing.assert_allclose(model.transform(new), W, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(model.score_samples(new), scores, rtol=1e-6, atol=1e-9)
    for chunks in ((50, -1), (50, 7)):
        lazy = model.transform(in_chunks(X, *chunks))
        assert isinstance(lazy, da.Array)
        np.testing.assert_allclose(lazy.compute(), W, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            model.score_samples(in_chunks(X, *chunks)).compute(), scores, rtol=1e-6, atol=1e-9
        )
    with pytest.raises(DataError, match="Negative values"):
        model.transform(in_chunks(-X, 50)).compute()


@pytest.mark.parametrize("where", ["memory", "dask"])
def test_what_is_refused(where):
    make = scipy.sparse.csr_array if where == "memory" else lambda X: in_chunks(X, 50)
    X = counts()
    for bad, error, words in (
        (np.nan, (DataError, ValueError), "NaN"),
        (np.inf, (DataError, ValueError), "infinity"),
        (
            -1.0,
            DataError,
            r"log-ratio, scaled or centred values are the wrong input: give the counts.*`\.raw`",
        ),
    ):
        broken = X.copy()
        broken[7, 3] = bad
        with pytest.raises(error, match=words):
            NMF(2).fit(make(broken))
    for beta in (0, -0.5):
        with pytest.raises(
            DataError, match=rf"beta_loss is {beta:g}, X has \d+ zeros \(entries that a sparse X"
        ):
            NMF(2, beta_loss=beta, solver="mu").fit(make(X))


@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_dense_tiles_are_logged_once(beta, caplog):
    fitted(scipy.sparse.csr_array(counts()), n_components=2, beta_loss=beta, init="random")
    logged = [record for record in caplog.records if "made dense" in record.getMessage()]
    assert len(logged) == (beta == 0.5)


def test_without_zeros_every_loss_is_taken():
    X = counts() + 1
    for beta in (0, -0.5):
        parameters = {"n_components": 2, "beta_loss": beta, "init": "random"}
        same(fitted(scipy.sparse.csr_array(X), **parameters), fitted(X, **parameters))


def test_damaged_indices_are_refused():
    X = scipy.sparse.csr_array(counts())
    X.indices[5] = 4000
    block = block_of([X], PanelSpec(120, 0, 30, np.dtype("f8")))
    with pytest.raises(SourceError, match="indices outside of its 30 columns"):
        list(block.tiles())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 5, 8, 20])
def test_tiles(dtype, k):
    """Everything that a tile answers, against a dense one."""
    rng = np.random.default_rng(0)
    X = counts(90, 37)
    V = scipy.sparse.csr_array(X)
    spec = PanelSpec(90, 5, 37, np.dtype(dtype), checked=True)
    precision = 1e-5 if dtype == np.float32 else 1e-12
    W, H = rng.random((90, k)).astype(dtype), rng.random((k, 37)).astype(dtype)
    (sparse,) = block_of([V[:20], V[20:61], V[61:]], spec).tiles()
    (dense,) = block_of([X], spec).tiles()
    assert sparse.sums() == dense.sums()
    assert sparse.first == dense.first
    assert sparse.power_sum(1.5) == pytest.approx(dense.power_sum(1.5), rel=precision)
    np.testing.assert_array_equal(sparse.column_sums(), X.sum(axis=0))
    np.testing.assert_array_equal(sparse.take(np.array([3, 30, 40])).toarray(), X[[3, 30, 40]])
    np.testing.assert_allclose(sparse.cross(H.T), dense.cross(H.T), rtol=precision)
    assert sparse.residual(W, H) == pytest.approx(dense.residual(W, H), rel=precision)
    for beta in (0.5, 1, 2.5):
        ours, theirs = sparse.ratio(W, H, beta, 1e-7), dense.ratio(W, H, beta, 1e-7)
        A, B = np.ones((k, 37)), np.ones((k, 37))
        ours.add_numerator(W, A)
        theirs.add_numerator(W, B)
        np.testing.assert_allclose(A, B, rtol=precision)
        np.testing.assert_allclose(ours.numerator_rows(H.T), theirs.numerator_rows(H.T), rtol=precision)
        assert ours.loss() == pytest.approx(theirs.loss(), rel=10 * precision)
    A, B = np.ones((k, 37)), np.ones((k, 37))
    sparse.add_cross(W, A)
    dense.add_cross(W, B)
    np.testing.assert_allclose(A, B, rtol=precision)


def test_slabs_do_not_change_a_bit():
    """Tiles begin where they begin, however V comes, and sums go on from tile to tile."""
    V = scipy.sparse.random_array((5000, 40), density=0.2, format="csr", rng=0)
    H = np.random.default_rng(0).random((3, 40))
    W = np.random.default_rng(1).random((5000, 3))
    found = []

    class Both(Phase):
        name = "both"

        def tally(self):
            return Tally.zeros({"A": (3, 40)})

        def tile(self, tile, rows, small, tally):
            tile.add_cross(rows["W"], tally["A"])
            tile.ratio(rows["W"], H, 1, 1e-9).add_numerator(rows["W"], tally["A"])

        def update(self, tally, state):
            raise NotImplementedError

    for edges in ([0, 5000], [0, 1, 2, 700, 1023, 1024, 4999, 5000], list(range(0, 5001, 50))):
        slabs = [V[a:b] for a, b in itertools.pairwise(edges)]
        block = block_of(slabs, PanelSpec(5000, 0, 40, np.dtype("f4"), checked=True))
        (tally,) = visit(block, [Visitor(Both(), None, {"W": W.astype("f4")})])
        found.append((tally["A"].tobytes(), block.total))
    assert found[0] == found[1] == found[2]


def test_panels_hold_equal_nonzeros(monkeypatch):
    monkeypatch.setattr("dasknmf.core.panels._PANEL_BYTES", (2**14, 2**27))
    heavy = scipy.sparse.random_array((1000, 50), density=0.5, format="csr", rng=0)
    light = scipy.sparse.random_array((9000, 50), density=0.01, format="csr", rng=0)
    X = canonical(scipy.sparse.vstack([light, heavy]))
    grid = data.grid_of(data.source_of(X))
    sizes = [X.indptr[panel.stop] - X.indptr[panel.start] for panel in grid]
    assert len(grid) > 10
    assert max(sizes) < 4 * X.nnz / len(grid)


def test_changed_values_are_seen(tmp_path):
    X = counts()
    run = {"checkpoint": str(tmp_path / "run.zarr")}
    fitted(in_chunks(X, 50), run=run, n_components=3, init="random", max_iter=2)
    X[5, 5] += 1
    from dasknmf.errors import DataChangedError

    with pytest.raises(DataChangedError, match="panel 0"):
        fitted(in_chunks(X, 50), run=run, n_components=3, init="random", max_iter=4)


CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, scipy.sparse
from dasknmf import NMF

def peak():
    return int(dict(line.split(":", 1) for line in open("/proc/self/status"))["VmHWM"].split()[0])

beta = float(sys.argv[1])
small = scipy.sparse.random_array((100, 4000), density=0.1, format="csr", dtype="f4", rng=0)
model = NMF(5, beta_loss=beta, solver="mu", init="random", max_iter=2)
model.fit(small).score_samples(small)  # what has to be compiled
X = scipy.sparse.random_array((40_000, 4000), density=0.005, format="csr", dtype="f4", rng=0)
before = peak()
model.fit(X)
model.score_samples(X)
print(json.dumps([before, peak()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1, 2])
def test_memory_is_that_of_the_nonzeros(beta):
    """610 MiB if it were dense."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(beta)], check=True, capture_output=True, text=True
    )
    before, after = json.loads(child.stdout)
    assert after - before < 100 * 1024


def test_a_matrix_in_memory_is_the_same_dense_and_sparse():
    X = np.random.default_rng(0).poisson(0.3, (40, 12)).astype(np.float32)
    V = scipy.sparse.csr_array(X)
    by_rows, by_columns = np.linspace(0.5, 2, 40), np.linspace(1, 3, 12)
    for measured in (matrix.mean, matrix.column_means, matrix.row_means, matrix.squares):
        np.testing.assert_allclose(measured(V), measured(X), rtol=1e-12)
    assert matrix.nbytes(V) == V.data.nbytes + V.indices.nbytes + V.indptr.nbytes
    expected = matrix.scaled(X, by_rows, by_columns)
    np.testing.assert_array_equal(matrix.dense(matrix.scaled(V, by_rows, by_columns)), expected)
    np.testing.assert_array_equal(matrix.dense(matrix.every(V, 3)), X[::3])
    np.testing.assert_array_equal(matrix.dense(matrix.stacked([V[:7], V[7:]])), X)


@pytest.mark.parametrize(("solver", "beta"), [("cd", 2.0), ("mu", 1.0), ("mu", 1.5)])
def test_a_sample_is_as_many_rows_as_their_nonzeros_leave_room_for(solver, beta):
    """An eighth of the nonzeros: dense rows of as many bytes would be a tenth of these."""
    rng = np.random.default_rng(1)
    planted = rng.gamma(0.1, size=(4000, 5)) @ rng.gamma(0.2, size=(5, 300))
    X = rng.poisson(planted).astype(np.float32)
    V = scipy.sparse.csr_array(X)
    sample_bytes = (V.data.nbytes + V.indices.nbytes) // 8
    common = {"solver": solver, "beta_loss": beta, "n_components": 5, "sample_bytes": sample_bytes}
    sampled, _ = fitted(V, init="sample", max_iter=4, **common)
    dense, _ = fitted(X, init="sample", max_iter=4, **common | {"sample_bytes": X.nbytes // 8})
    plain, _ = fitted(X, init="random", max_iter=4, solver=solver, beta_loss=beta, n_components=5)
    losses = [model.history_[-1].loss for model in (sampled, dense, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] < losses[2]
    with pytest.raises(ValueError, match=r"enough for \d+ rows of \d{2,3} bytes"):
        fitted(V, init="sample", **common | {"sample_bytes": 1_000})


def test_none_takes_a_sample_where_nonzeros_of_enough_rows_fit():
    X = np.random.default_rng(1).poisson(0.02, (3000, 500)).astype(np.float32)
    dense_rows = 120 * 500 * 4  # 40 for each component
    sparse, _ = fitted(scipy.sparse.csr_array(X), n_components=3, sample_bytes=dense_rows)
    dense, _ = fitted(X, n_components=3, sample_bytes=dense_rows)
    assert (sparse.init_, dense.init_) == ("sample", "sketch")


def test_dense_and_sparse_chunks_of_one_array():
    """What a graph gives is known when it gives it, panel by panel."""
    X = counts(400)
    parts = [da.from_array(X[:200], chunks=(200, -1)), da.from_array(X[200:], chunks=(200, -1))]
    mixed = da.concatenate([parts[0], parts[1].map_blocks(scipy.sparse.csr_array)])
    parameters = {"n_components": 3, "init": "sample", "sample_bytes": 10**6}
    same(fitted(mixed, **parameters), fitted(X, **parameters))


def test_more_rows_than_promised_are_refused():
    def longer(chunk):
        return scipy.sparse.csr_array(np.tile(chunk, (20, 1)))

    V = da.from_array(counts(400), chunks=(200, -1))
    wrong = V.map_blocks(longer, dtype=V.dtype, meta=scipy.sparse.csr_array((0, 0), dtype=V.dtype))
    with pytest.raises(ValueError, match=r"a panel has .* rows instead of 400; the shape of V changed"):
        fitted(wrong, n_components=3)


@pytest.mark.parametrize("method", ["transform", "score_samples"])
def test_new_rows_take_the_memory_of_their_tiles(method):
    """However many there are: a walk keeps nothing of the tiles behind it."""
    rng = np.random.default_rng(0)
    m = 20_000
    model, _ = fitted(rng.random((6, m)), n_components=2, beta_loss=1, max_iter=2)
    X = scipy.sparse.random_array((1500, m), density=1e-4, format="csr", rng=rng)
    getattr(model, method)(X[:10])
    tracemalloc.start()
    getattr(model, method)(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * m * 8
