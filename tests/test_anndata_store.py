"""AnnData in stores: slabs are what was written, each byte is fetched once, damage is told."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anndata as ad
import dask
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import write_elem
from zarr.storage import MemoryStore

from dasknmf import Prepared
from dasknmf.errors import DataChangedError, SourceError
from dasknmf.inputs import grid_of, is_chunked, open_anndata, opened, rather_transposed, source_of, vectors
from dasknmf.inputs.anndata_store import matrix_of
from dasknmf.inputs.hdf5 import StoredDense
from dasknmf.inputs.stacked import Stacked
from dasknmf.inputs.stored_sparse import StoredSparse
from dasknmf.inputs.zarr_array import NamedArray, metered
from dasknmf.panels import Grid
from tests.helpers import fitted

# What anndata asks pandas 3 for, whose newest versions warn about it.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")

GENES = np.array([f"gene{j}" for j in range(30)])


def counts(n_rows=200, n_columns=30, seed=0, **options):
    """A CSR matrix with rows of very different lengths."""
    rng = np.random.default_rng(seed)
    A = rng.poisson(rng.gamma(0.4, size=(n_rows, 1)) * rng.gamma(0.7, size=(1, n_columns)) * 3)
    return sp.csr_matrix(A.astype(options.get("dtype", np.float32)))


def annotated(A, genes=GENES, prefix="cell"):
    cells = [f"{prefix}{i}" for i in range(A.shape[0])]
    obs = pd.DataFrame({"depth": np.asarray(A.sum(axis=1)).ravel()}, index=cells)
    return ad.AnnData(A, obs=obs, var=pd.DataFrame(index=list(genes)), layers={"twice": A * 2})


def written(path, adata, **options):
    """AnnData's own files, in each of its formats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formats that Zarr calls unstable
        if path.suffix == ".h5ad":
            adata.write_h5ad(path, **options)
        else:
            group = zarr.open_group(path, mode="w", **options)
            write_elem(group, "/", adata)
            zarr.consolidate_metadata(group.store)
    return path


def parted(target, A, chunk, *, indices_chunk=None, index=np.int32, **options):
    """The parts of a sparse matrix in chunks of our choice, in a Zarr or an HDF5 group."""
    target.attrs["encoding-type"] = f"{A.format}_matrix"
    target.attrs["encoding-version"] = "0.1.0"
    target.attrs["shape"] = list(A.shape)
    create = target.create_dataset if isinstance(target, h5py.Group) else target.create_array
    chunks = {"data": chunk, "indices": indices_chunk or chunk, "indptr": 50}
    for name, values in (
        ("data", A.data),
        ("indices", A.indices.astype(index)),
        ("indptr", A.indptr.astype(index)),
    ):
        size = (max(1, min(chunks[name], len(values))),) if chunks[name] else None
        array = create(name, shape=values.shape, dtype=values.dtype, chunks=size, **options)
        if len(values):
            array[:] = values
    return target


def grouped(path, A, chunk, **options):
    return StoredSparse.of_group(parted(zarr.open_group(path, mode="w"), A, chunk, **options))


def rows_of(X, *, transposed=False):
    """All slabs of all panels, each checked to be canonical, and where panels begin."""
    source = source_of(X, transposed=transposed)
    grid = grid_of(source)
    slabs = []
    for panel in grid:
        found = list(source.reader.slabs(panel.start, panel.stop, []))
        assert sum(slab.shape[0] for slab in found) == panel.n_rows
        assert all(sp.issparse(slab) == X.sparse for slab in found)
        slabs += found
    if not X.sparse:
        return np.concatenate(slabs), grid
    for slab in slabs:
        assert isinstance(slab, sp.csr_array)
        assert slab.dtype == X.dtype
        again = sp.csr_array((slab.data, slab.indices, slab.indptr), shape=slab.shape)
        assert again.has_canonical_format
    return sp.vstack(slabs, format="csr"), grid


def same(found, A):
    assert found.shape == A.shape
    assert (found != A).sum() == 0


FILES = [
    ("a.zarr", {"zarr_format": 2}),
    ("a.zarr", {"zarr_format": 3}),
    ("a.h5ad", {}),
    ("a.h5ad", {"compression": "gzip"}),
]


@pytest.mark.parametrize(("name", "options"), FILES)
@pytest.mark.parametrize("format", ["csr", "csc"])
@pytest.mark.parametrize("layer", [None, "twice"])
def test_what_anndata_wrote_comes_back(tmp_path, small_panels, name, options, format, layer):
    A = counts().asformat(format)
    path = written(tmp_path / name, annotated(A), **options)
    store = open_anndata(path)
    X = store.matrix(layer)
    assert (X.format, X.shape, X.nnz, X.dtype) == (format, A.shape, A.nnz, A.dtype)
    assert is_chunked(X)
    for parity in (False, True):
        assert rather_transposed(X, parity=parity) == (format == "csc")
    expected = A * 2 if layer else A
    found, _ = rows_of(X, transposed=format == "csc")
    same(found.T if format == "csc" else found, expected)
    assert store.layers == ["twice"]
    assert store.shape == A.shape
    np.testing.assert_array_equal(store.var_names, GENES)
    np.testing.assert_array_equal(X.feature_names, GENES)
    assert store.obs_names[3] == "cell3"
    assert store.obs.index.tolist() == store.obs_names.tolist()
    assert store.var.index.tolist() == GENES.tolist()
    inside = path / (f"layers/{layer}" if layer else "X")
    same(
        rows_of(opened(str(inside)), transposed=format == "csc")[0],
        expected.T if format == "csc" else expected,
    )
    if layer is None:
        assert opened(path).nnz == A.nnz


def test_shards_that_anndata_makes(tmp_path, small_panels):
    A = counts(2000)
    with ad.settings.override(auto_shard_zarr_v3=True):
        path = written(tmp_path / "a.zarr", annotated(A), zarr_format=3)
    assert zarr.open_group(path, mode="r")["X/data"].shards
    found, _ = rows_of(opened(path / "X"))
    same(found, A)


@pytest.mark.parametrize("place", ["zarr", "shards", "zarr 2", "memory", "hdf5", "contiguous", "gzip"])
@pytest.mark.parametrize(
    ("chunk", "index"), [(3, np.int32), (7, np.uint16), (64, np.int64), (10**6, np.int32)]
)
def test_rows_of_any_chunks(tmp_path, small_panels, place, chunk, index):
    A = counts(120)
    if place in ("hdf5", "gzip", "contiguous"):
        options = {"compression": "gzip"} if place == "gzip" else {}
        with h5py.File(tmp_path / "a.h5", "w") as file:
            parted(file.create_group("X"), A, chunk, index=index, **options)
            if place == "contiguous":
                del file["X/data"]
                file["X/data"] = A.data
        X = opened(tmp_path / "a.h5" / "X")
    elif place == "shards":
        group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, chunk, index=index)
        del group["data"]
        inner = min(chunk, A.nnz)
        shards = -(-A.nnz // inner // 2) * inner
        group.create_array("data", data=A.data, chunks=(inner,), shards=(shards,))
        X = StoredSparse.of_group(group)
    else:
        store = MemoryStore() if place == "memory" else tmp_path / "a"
        group = zarr.open_group(store, mode="w", zarr_format=2 if place == "zarr 2" else 3)
        X = StoredSparse.of_group(parted(group, A, chunk, index=index))
    assert source_of(X).in_process == (place == "memory")
    found, grid = rows_of(X)
    same(found, A)
    # The indices are in chunks wherever the values are.
    edges = np.searchsorted(A.indptr, np.arange(chunk, A.nnz + 1, chunk))
    assert set(grid.edges) == {0, *edges.tolist(), 120}


@pytest.mark.parametrize("chunk", [5, 16, 10**4])
def test_empty_and_huge_rows(tmp_path, small_panels, chunk):
    lengths = [0, 0, 3, 16, 0, 0, 0, 13, 0, 500, 0, 1, 0, 0, 31, 1, 0, 0]
    rng = np.random.default_rng(0)
    indices = np.concatenate([np.sort(rng.choice(600, n, replace=False)) for n in lengths])
    A = sp.csr_matrix((np.arange(1.0, 566), indices, np.append(0, np.cumsum(lengths))), shape=(18, 600))
    found, grid = rows_of(grouped(tmp_path / "a", A, chunk))
    same(found, A)
    assert (grid.edges[0], grid.edges[-1]) == (0, 18)


def test_a_matrix_without_nonzeros(tmp_path):
    A = sp.csr_matrix((5, 4))
    found, grid = rows_of(grouped(tmp_path / "a", A, 10))
    assert found.shape == (5, 4)
    assert found.nnz == 0
    assert len(grid) == 1


@pytest.mark.parametrize("most", [1, 10, 50])
def test_slabs_are_bounded(tmp_path, monkeypatch, most):
    A = counts()
    monkeypatch.setattr("dasknmf.panels._SLAB_BYTES", most * 8)
    source = source_of(grouped(tmp_path / "a", A, 20))
    slabs = list(source.reader.slabs(0, 200, []))
    same(sp.vstack(slabs), A)
    assert all(slab.nnz <= most or slab.shape[0] == 1 for slab in slabs)
    assert max(slab.nnz for slab in slabs) * 8 <= source.slab_bytes


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_that_are_not_canonical_are_put_in_order(tmp_path, small_panels, index):
    A = counts()
    rng = np.random.default_rng(1)
    jumbled = sp.csr_matrix((A.data.copy(), A.indices.copy(), A.indptr), shape=A.shape)
    for start, stop in zip(A.indptr[:-1], A.indptr[1:], strict=True):
        order = rng.permutation(stop - start)
        jumbled.data[start:stop] = A.data[start:stop][order]
        jumbled.indices[start:stop] = A.indices[start:stop][order]
    same(rows_of(grouped(tmp_path / "a", jumbled, 30, index=index))[0], A)
    repeated = sp.csr_matrix(
        (np.array([1.0, 2.0, 4.0, 8.0]), np.array([1, 0, 1, 1]), np.array([0, 3, 4])), shape=(2, 2)
    )
    X = grouped(tmp_path / "b", repeated, 3, index=index)
    for _ in range(2):  # what is kept of the first walk is not put in order in place
        np.testing.assert_array_equal(rows_of(X)[0].toarray(), [[2, 5], [0, 8]])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("indices_chunk", [None, 400, 555])
def test_each_byte_is_fetched_once(tmp_path, monkeypatch, threads, indices_chunk):
    A = counts(4000)
    monkeypatch.setattr("dasknmf.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    X = grouped(tmp_path / "a", A, 200, indices_chunk=indices_chunk)
    source = source_of(X)
    grid = grid_of(source)
    assert len(grid) > 10

    def read(reader, panel):
        with metered() as meter:
            rows = sp.vstack(list(reader.slabs(panel.start, panel.stop, [])))
        same(rows, A[panel.start : panel.stop])
        return meter.total(0)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            fetched = sum(pool.map(partial(read, source.reader.anew()), grid))
            assert fetched == pytest.approx(stored_bytes(tmp_path / "a"), rel=0.02)


def test_ends_of_panels_stay_for_the_walks_of_a_fit(tmp_path, monkeypatch):
    """As between processes, here no panel takes what another has left: each is a walk of its own."""
    A = counts(4000)
    monkeypatch.setattr("dasknmf.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    source = source_of(grouped(tmp_path / "a", A, 200))

    def fetched(*, of_a_fit):
        with metered() as meter:
            for panel in grid_of(source):
                reader = source.reader.anew(of_a_fit=of_a_fit)
                rows = sp.vstack(list(reader.slabs(panel.start, panel.stop, [])))
                same(rows, A[panel.start : panel.stop])
        return meter.total(0)

    alone = fetched(of_a_fit=False)
    first, second = fetched(of_a_fit=True), fetched(of_a_fit=True)
    assert first == alone
    assert second < 0.9 * alone
    assert vectors._ends._nbytes <= vectors._ENDS_BYTES


def stored_bytes(group):
    """Bytes of all chunks of a Zarr group."""
    return sum(file.stat().st_size for file in group.rglob("c/*"))


def kept(walk=None):
    """How many parts of chunks this process keeps, of one walk or of all."""
    gc.collect()  # what earlier tests have left to the collector
    return len([key for key in list(vectors._left._arrays) if walk in (None, key[0])])


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("stage", [None, "memory"])
def test_what_panels_leave_for_each_other_goes_with_a_fit(tmp_path, small_panels, places, stage):
    before = kept()
    parts = [grouped(tmp_path / str(i), counts(60, seed=i), 100) for i in range(places)]
    X = parts[0] if places == 1 else Stacked(parts, [np.arange(30)] * places)
    fitted(X, **PARAMETERS, run={"stage": stage})
    fitted(Prepared(X, log1p=True), **PARAMETERS)
    assert kept() == before


def test_a_lazy_W_is_of_V_as_it_is_when_it_is_computed(tmp_path, small_panels):
    before = kept()
    A = counts(60)
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    parts = [StoredSparse.of_group(group)] * 2
    model, _ = fitted(A, **PARAMETERS)
    W = model.transform(Stacked(parts, [np.arange(30)] * 2))
    with dask.config.set(scheduler="threads"):
        W[20:30].compute()  # some panels leave parts for others that are not asked for
        group["data"][:] = A.data * 3
        found = W.compute()
        assert kept() == before
    del W
    np.testing.assert_allclose(found, model.transform(sp.vstack([A * 3, A * 3])), rtol=1e-3, atol=1e-5)


def test_what_panels_leave_for_each_other_goes_from_workers_too(tmp_path, small_panels, cluster):
    A = counts(60)
    path = written(tmp_path / "a.h5ad", annotated(A))
    with h5py.File(path, "r+") as file:
        del file["X"]
        parted(file.create_group("X"), A, 100)
    fitted(open_anndata([path, path]).matrix(), cluster, {"checkpoint": tmp_path / "run"}, **PARAMETERS)
    deadline = time.monotonic() + 10
    while any(left := cluster.run(_kept_there).values()) and time.monotonic() < deadline:
        time.sleep(0.05)  # the scheduler lets go of a pass a moment after its end
    assert not any(left)


def _kept_there():
    gc.collect()
    return len(vectors._left)


def test_another_walk_reads_what_was_left_and_not_taken(tmp_path, small_panels):
    A = counts(60)
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    source = source_of(StoredSparse.of_group(group))
    first, second = list(grid_of(source))[:2]
    walk = source.reader.anew()
    copy = pickle.loads(pickle.dumps(walk))
    list(walk.slabs(first.start, first.stop, []))
    group["data"][:] = A.data * 3
    later = sp.vstack(list(source.reader.anew().slabs(second.start, second.stop, [])))
    same(later, A[second.start : second.stop] * 3)
    earlier = sp.vstack(list(copy.slabs(second.start, second.stop, [])))
    assert (earlier != later).sum()  # a task of the same walk takes it
    assert kept(walk._walk) > 0
    del walk, copy


def test_panels_read_at_once_in_any_order(tmp_path, small_panels):
    A = counts(600)
    source = source_of(grouped(tmp_path / "a", A, 90))
    panels = list(grid_of(source))
    ready = threading.Barrier(8)
    found = {}

    def read(part):
        ready.wait()
        for panel in part:
            found[panel.start] = sp.vstack(list(source.reader.slabs(panel.start, panel.stop, [])))

    orders = np.random.default_rng(0).permutation(len(panels))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [[panels[i] for i in orders[j::8]] for j in range(8)]))
    same(sp.vstack([found[panel.start] for panel in panels]), A)


def test_what_travels_to_tasks_is_small(tmp_path):
    A = sp.csr_matrix(np.ones((20_000, 2)))
    for X in (grouped(tmp_path / "a", A, 500), _in_file(tmp_path / "a.h5", A)):
        assert len(pickle.dumps(source_of(X).reader)) < 10_000
        same(rows_of(pickle.loads(pickle.dumps(X)))[0], A)


def _in_file(path, A):
    with h5py.File(path, "w") as file:
        parted(file.create_group("X"), A, 100)
    return opened(path / "X")


def test_panels_hold_equal_nonzeros_and_dense_grids_are_as_they_were():
    lengths = np.append(np.full(1000, 100), np.full(1000, 10))
    before = np.append(0, np.cumsum(lengths)) * 2**10
    grid = Grid.of(np.arange(2001), 0, before)
    sizes = np.diff(before[list(grid.edges)])
    assert sizes.max() < 1.05 * sizes.min()
    assert Grid.of(np.arange(2001), 0, 5000 * np.arange(2001)) == Grid.of(np.arange(2001), 5000)


def test_dense_matrices_of_files(tmp_path, small_panels):
    A = counts(100).toarray()
    path = written(tmp_path / "a.h5ad", annotated(sp.csr_matrix(A)))
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", data=A, chunks=(13, 7), compression="gzip")
    X = open_anndata(path).matrix()
    assert isinstance(X, StoredDense)
    found, grid = rows_of(X)
    np.testing.assert_array_equal(found, A)
    assert grid.edges[:3] == (0, 13, 26)
    with metered() as meter:
        for panel in grid:
            list(source_of(X).reader.slabs(panel.start, panel.stop, []))
    with h5py.File(path) as file:
        assert meter.total(0) == file["X"].id.get_storage_size()
    dense = written(tmp_path / "a.zarr", annotated(A))
    for named in (open_anndata(dense).matrix(), opened(dense)):
        assert named.feature_names.tolist() == GENES.tolist()
        for turned in (False, True):
            assert grid_of(source_of(named, transposed=turned)) == grid_of(
                source_of(named.array, transposed=turned)
            )
        found, _ = rows_of(named)
        np.testing.assert_array_equal(found, A)
    assert fitted(dense, **PARAMETERS)[0].feature_names_in_.tolist() == GENES.tolist()
    wide = NamedArray(zarr.create_array(tmp_path / "wide", shape=(4, 9), chunks=(4, 3), dtype="f4"))
    assert rather_transposed(wide, parity=False)  # as the array itself would be


def test_objects_of_anndata(tmp_path):
    A = counts()
    path = written(tmp_path / "a.h5ad", annotated(A))
    backed = ad.read_h5ad(path, backed="r")
    X = matrix_of(backed)
    assert isinstance(X, StoredSparse)
    same(rows_of(X)[0], A)  # the file is open here, with a lock
    np.testing.assert_array_equal(X.feature_names, GENES)
    same(matrix_of(backed[10:20]), A[10:20])
    backed.file.close()
    adata = annotated(A)
    assert matrix_of(adata) is adata.X
    assert matrix_of(adata, "twice") is adata.layers["twice"]
    with pytest.raises(SourceError, match=r"no layer 'thrice'; its layers are \['twice'\]"):
        matrix_of(adata, "thrice")
    group = zarr.open_group(written(tmp_path / "a.zarr", adata), mode="r")
    same(rows_of(opened(group["X"]))[0], A)
    same(rows_of(opened(group))[0], A)
    with h5py.File(path) as file:
        same(rows_of(opened(file["X"]))[0], A)


def test_a_place_inside_a_file_is_what_is_opened(tmp_path):
    outer, inner = annotated(counts()), annotated(counts(40, seed=1), prefix="inner")
    path = written(tmp_path / "a.h5ad", outer)
    with h5py.File(path, "r+") as file:
        write_elem(file.create_group("mod"), "rna", inner)
        file["layers/v1."] = np.ones((200, 3))
    store = open_anndata(path / "mod" / "rna")
    assert store.shape == (40, 30)
    assert store.obs_names[0] == "inner0"
    assert store.obs.index[0] == "inner0"
    assert store.layers == ["twice"]
    same(rows_of(store.matrix())[0], inner.X)
    same(rows_of(opened(path / "mod" / "rna"))[0], inner.X)
    with pytest.raises(SourceError, match=r"layers/twice holds no AnnData; one has obs and var"):
        open_anndata(path / "layers" / "twice")
    with pytest.raises(SourceError, match=r"a\.h5ad has no 'mod/atac'; it holds \['X', 'layers'"):
        open_anndata(path / "mod" / "atac")
    assert opened(f"{path}/layers/v1.").shape == (200, 3)  # a dot is part of a name


@pytest.fixture
def three(tmp_path):
    """Two sparse files and a dense one, their genes in different orders, some only in one."""
    rng = np.random.default_rng(0)
    first, second, third = counts(80), counts(50, 25, seed=1), counts(40, seed=2)
    order = rng.permutation(25)
    paths = [
        written(tmp_path / "a.h5ad", annotated(first)),
        written(tmp_path / "b.zarr", annotated(second, GENES[order], "other")),
        written(tmp_path / "c.h5ad", annotated(third.toarray(), np.append("alone", GENES[1:]), "third")),
    ]
    kept = slice(1, 25)
    whole = np.concatenate(
        [first.toarray()[:, kept], second.toarray()[:, np.argsort(order)][:, kept], third.toarray()[:, kept]]
    )
    return paths, whole


def test_several_files_are_one_matrix(three, small_panels, caplog):
    paths, whole = three
    store = open_anndata(paths)
    with caplog.at_level(logging.WARNING, logger="dasknmf"):
        X = store.matrix()
    assert "7 genes are not in all of 3 files" in caplog.text
    assert isinstance(X, Stacked)
    assert store.var_names.tolist() == GENES[1:25].tolist() == X.feature_names.tolist()
    assert store.obs_names[[0, 80, 130]].tolist() == ["cell0", "other0", "third0"]
    assert store.obs.shape == (170, 1)
    assert store.var.index.tolist() == store.var_names.tolist()
    assert store.path == [str(path) for path in paths]
    found, grid = rows_of(X)
    np.testing.assert_array_equal(found.toarray(), whole)
    assert {80, 130} <= set(grid.edges)
    np.testing.assert_array_equal(rows_of(store.matrix("twice"))[0].toarray(), 2 * whole)
    source = source_of(X)
    slabs = source.reader.slabs(70, 140, [])  # of a panel in three files
    np.testing.assert_array_equal(sp.vstack(list(slabs)).toarray(), whole[70:140])


def test_dense_files_stay_dense(three):
    X = open_anndata([three[0][2], three[0][2]]).matrix()
    found, _ = rows_of(X)
    assert found.shape == (80, 30)
    np.testing.assert_array_equal(found[:40], found[40:])


def test_files_that_do_not_go_together(three, tmp_path):
    paths, _ = three
    stranger = written(tmp_path / "d.h5ad", annotated(counts(9), [f"ENSG{j}" for j in range(30)]))
    with pytest.raises(SourceError, match=r"a\.h5ad and .*d\.h5ad have no gene in common"):
        open_anndata([paths[0], stranger]).matrix()
    twice = annotated(counts(9))
    twice.var_names = ["gene3", *GENES[1:]]
    doubled = written(tmp_path / "e.h5ad", twice)
    with pytest.raises(SourceError, match=r"e\.h5ad has gene 'gene3' more than once"):
        open_anndata([paths[0], doubled]).matrix()
    by_columns = written(tmp_path / "f.h5ad", annotated(counts(9).tocsc()))
    with pytest.raises(SourceError, match=r"StoredSparse csc.* cannot be stacked.*store it as CSR"):
        open_anndata([paths[0], by_columns]).matrix()
    with pytest.raises(SourceError, match="columns 0 to 40 are asked"):
        Stacked([opened(paths[0])], [np.array([0, 40])])


def test_what_is_not_there_is_told(tmp_path):
    path = written(tmp_path / "a.zarr", annotated(counts()))
    store = open_anndata(path)
    with pytest.raises(SourceError, match=r"has no layer 'raw'; its layers are \['twice'\]"):
        store.matrix("raw")
    with pytest.raises(SourceError, match="holds no AnnData; one has obs and var"):
        open_anndata(path / "X")
    with pytest.raises(SourceError, match=r"'.*layers' is a Zarr group; .*the arrays \['twice'\]: append"):
        opened(path / "layers")
    with pytest.raises(SourceError, match="group with encoding-type 'dataframe'; a sparse V has csr_matrix"):
        StoredSparse.of_group(zarr.open_group(path, mode="r")["obs"])
    file = written(tmp_path / "a.h5ad", annotated(counts()))
    with pytest.raises(SourceError, match=r"has no 'Y'; it holds \['X', 'layers'"):
        opened(file / "Y")
    with pytest.raises(SourceError, match="encoding-type 'dataframe'"):
        opened(file / "obs")
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"cut\.h5ad cannot be opened as HDF5"):
        opened(cut)
    csc = grouped(tmp_path / "csc", counts().tocsc(), 100)
    with pytest.raises(
        SourceError, match=r"stored as CSC, which can be read by columns only.*store it as CSR"
    ):
        source_of(csc)
    with pytest.raises(SourceError, match=r"stored as CSR, which can be read by rows only.*store it as CSC"):
        source_of(grouped(tmp_path / "csr", counts(), 100), transposed=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("indptr", lambda v: v[:-3], "indptr of 198 entries, its shape .* needs 201"),
        ("indptr", lambda v: np.append(v[:-1], v[-1] + 5), "ends at .*and .* values"),
        ("indptr", lambda v: np.append(v[:-1], 0), "does not rise from 0 between entries 0 and 200"),
        ("indptr", lambda v: v + 1, "does not rise from 0"),
        ("indptr", lambda v: v.astype(float), "indptr of float64; they must be integers"),
        ("indices", lambda v: v[:-1], "values and .* indices"),
        ("indices", lambda v: np.append(v[:-1], 30).astype(v.dtype), "hold column 30, V has columns 0 to 29"),
        ("indices", lambda v: np.append(-1, v[1:]).astype(v.dtype), "hold column -1"),
        ("indices", lambda v: np.append(v[:-1], 2**32).astype(np.int64), "hold column 4294967296"),
        ("data", None, "lacks data"),
    ],
)
def test_damage_is_told(tmp_path, name, change, message):
    A = counts()
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    values = group[name][:]
    del group[name]
    if change:
        group.create_array(name, data=change(values))
    with pytest.raises(SourceError, match=message):
        rows_of(StoredSparse.of_group(group))


def test_an_indptr_that_changed_is_told(tmp_path):
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), counts(), 100)
    source = source_of(StoredSparse.of_group(group))
    group["indptr"][:] = group["indptr"][:][::-1]
    with pytest.raises(DataChangedError, match="indptr of the sparse V does not rise"):
        list(source.reader.slabs(0, 200, []))


LOSSES = ["frobenius", "kullback-leibler"]
PARAMETERS = {"n_components": 4, "init": "random", "max_iter": 5, "tol": 0}


def close(found, expected):
    for W, other in ((found[1], expected[1]), (found[0].components_, expected[0].components_)):
        np.testing.assert_allclose(W, other, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("beta_loss", LOSSES)
@pytest.mark.parametrize("name", ["a.zarr", "a.h5ad"])
def test_a_fit_is_that_of_the_matrix_in_memory(tmp_path, small_panels, beta_loss, name):
    A = counts()
    path = written(tmp_path / name, annotated(A))
    # With "auto", a ratio's steps between reads depend on whether V is read from a store.
    parameters = PARAMETERS | {"beta_loss": beta_loss, "inner_iter": 3}
    stored = fitted(path, **parameters)
    close(stored, fitted(A, **parameters))
    W = stored[0].transform(open_anndata(path).matrix()).compute(scheduler="threads")
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        expected = stored[0].transform(A)
    np.testing.assert_allclose(W, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beta_loss", LOSSES)
def test_columns_of_csc_are_fitted_as_rows(tmp_path, small_panels, beta_loss):
    A = counts()
    path = written(tmp_path / "a.h5ad", annotated(A.tocsc()))
    model, W = fitted(path, **PARAMETERS, beta_loss=beta_loss)
    turned, turned_W = fitted(grouped(tmp_path / "t", A.T.tocsr(), 100), **PARAMETERS, beta_loss=beta_loss)
    np.testing.assert_allclose(model.components_, turned_W.T, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(W, turned.components_.T, rtol=2e-3, atol=1e-5)
    with pytest.raises(SourceError, match="columns only"):
        model.transform(path)


@pytest.mark.parametrize("beta_loss", LOSSES)
@pytest.mark.parametrize("name", ["a.zarr", "a.h5ad"])
def test_workers_read_for_themselves(tmp_path, small_panels, cluster, beta_loss, name):
    path = written(tmp_path / name, annotated(counts()))
    parameters = PARAMETERS | {"beta_loss": beta_loss}
    run = {"checkpoint": tmp_path / "run"}
    here = fitted(path, "threads", **parameters)
    there = fitted(path, cluster, run, **parameters)
    np.testing.assert_array_equal(here[0].components_, there[0].components_)
    np.testing.assert_array_equal(here[1], there[1])


@pytest.mark.parametrize("beta_loss", LOSSES)
@pytest.mark.parametrize("stage", ["memory", "files"])
def test_a_stage_gives_the_same_bits(tmp_path, small_panels, beta_loss, stage):
    path = written(tmp_path / "a.h5ad", annotated(counts()))
    parameters = PARAMETERS | {"beta_loss": beta_loss}
    plain = fitted(path, **parameters)
    staged = fitted(path, run={"stage": stage if stage == "memory" else tmp_path / "stage"}, **parameters)
    np.testing.assert_array_equal(plain[1], staged[1])


def test_several_files_are_fitted_as_one(three, small_panels):
    paths, whole = three
    X = open_anndata(paths).matrix()
    close(fitted(X, **PARAMETERS), fitted(sp.csr_matrix(whole), **PARAMETERS))


def test_a_fit_reads_what_is_stored_once_a_pass(tmp_path, monkeypatch):
    A = counts(4000)
    monkeypatch.setattr("dasknmf.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    X = grouped(tmp_path / "a", A, 200)
    model, _ = fitted(X, **PARAMETERS, run={})
    for record in model.history_:
        W = 4000 * 4 * 4 * 2
        assert record.bytes_read <= 1.02 * stored_bytes(tmp_path / "a") + W


def test_a_V_that_changed_is_told_on_resume(tmp_path, small_panels):
    A = counts()
    path = written(tmp_path / "a.zarr", annotated(A), zarr_format=3)
    run = {"checkpoint": tmp_path / "run"}
    first = fitted(path, run=run, **PARAMETERS)
    more = PARAMETERS | {"max_iter": 8}
    again = fitted(path, run=run, **more)
    assert again[0].n_iter_ == 8 > first[0].n_iter_
    (path / "X" / "data" / "c" / "0").unlink()
    with pytest.raises(DataChangedError):
        fitted(path, run=run, **(more | {"max_iter": 10}))
