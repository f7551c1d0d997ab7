"""Slabs of AnnData in stores: the values that were written."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import write_elem
from zarr.storage import MemoryStore

from dasknmf import NMF
from dasknmf.data import grid_of, is_chunked, open_anndata, opened, rather_transposed, source_of
from dasknmf.data.anndata_file import matrix_of
from dasknmf.data.hdf5_array import Hdf5Array
from dasknmf.data.stored_csr import SparseSource
from dasknmf.data.stored_dense import DenseSource
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import SourceError
from dasknmf.io.counts import counting
from tests.data.anndata_stores import (
    GENES,
    PARAMETERS,
    annotated,
    counts,
    grouped,
    parted,
    rows_of,
    same,
    written,
)
from tests.helpers import fitted

# Newest versions of pandas 3 warn about an option that anndata sets.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")

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


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_h5ad_is_read_without_h5py(tmp_path, small_panels, monkeypatch, compression):
    A = counts()
    adata = annotated(A)
    adata.raw = adata
    adata.layers["dense"] = A.toarray()
    path = written(tmp_path / "a.h5ad", adata, compression=compression)

    def refused(*read):
        raise AssertionError(f"h5py reads {read}")

    monkeypatch.setattr(Hdf5Array, "_by_h5py", refused)
    for name, times in {"X": 1, "raw/X": 1, "layers/twice": 2, "layers/dense": 1}.items():
        found, _ = rows_of(opened(path / name))
        same(sp.csr_array(found), A * times)


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
        X = SparseSource.of_group(group)
    else:
        store = MemoryStore() if place == "memory" else tmp_path / "a"
        group = zarr.open_group(store, mode="w", zarr_format=2 if place == "zarr 2" else 3)
        X = SparseSource.of_group(parted(group, A, chunk, index=index))
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
    monkeypatch.setattr("dasknmf.core.panels._SLAB_BYTES", most * 8)
    source = source_of(grouped(tmp_path / "a", A, 20))
    slabs = list(source.slabs(0, 200, []))
    same(sp.vstack(slabs), A)
    assert all(slab.nnz <= most or slab.shape[0] == 1 for slab in slabs)
    assert max(slab.nnz for slab in slabs) * 8 <= source.facts.slab_bytes


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


def test_dense_matrices_of_files(tmp_path, small_panels):
    A = counts(100).toarray()
    path = written(tmp_path / "a.h5ad", annotated(sp.csr_matrix(A)))
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", data=A, chunks=(13, 7), compression="gzip")
    X = open_anndata(path).matrix()
    assert isinstance(X, DenseSource)
    found, grid = rows_of(X)
    np.testing.assert_array_equal(found, A)
    assert grid.edges[:3] == (0, 13, 26)
    with counting() as found:
        for panel in grid:
            list(source_of(X).slabs(panel.start, panel.stop, []))
    with h5py.File(path) as file:
        assert found.nbytes == file["X"].id.get_storage_size()
    dense = written(tmp_path / "a.zarr", annotated(A))
    for named in (open_anndata(dense).matrix(), opened(dense)):
        assert named.feature_names.tolist() == GENES.tolist()
        for turned in (False, True):
            unnamed = source_of(dense / "X", transposed=turned)
            assert grid_of(source_of(named, transposed=turned)) == grid_of(unnamed)
        found, _ = rows_of(named)
        np.testing.assert_array_equal(found, A)
    assert fitted(dense, **PARAMETERS)[0].feature_names_in_.tolist() == GENES.tolist()
    wide = DenseSource(
        ZarrArray(zarr.create_array(tmp_path / "wide", shape=(4, 9), chunks=(4, 3), dtype="f4"))
    )
    assert rather_transposed(wide, parity=False)  # as the array itself would be


def test_objects_of_anndata(tmp_path):
    A = counts()
    path = written(tmp_path / "a.h5ad", annotated(A))
    backed = ad.read_h5ad(path, backed="r")
    X = matrix_of(backed)
    assert isinstance(X, SparseSource)
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


@pytest.mark.filterwarnings("ignore:.*was written without encoding metadata")
def test_a_file_of_anndata_before_0_7(tmp_path):
    """Tables are structured arrays, and a sparse X has attributes of its own."""
    counts = sp.csr_array(np.random.default_rng(0).poisson(1.0, (30, 8)).astype("f4"))
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        group = file.create_group("X")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(counts, part)
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", counts.shape
        for table, length in (("obs", 30), ("var", 8)):
            file[table] = np.array([(f"{table}{i}",) for i in range(length)], [("index", "S6")])
    store = open_anndata(tmp_path / "old.h5ad")
    assert store.var_names[:2].tolist() == ["var0", "var1"]
    ours, right = (NMF(2, random_state=0).fit(X) for X in (store.matrix(), counts))
    np.testing.assert_allclose(ours.components_, right.components_, rtol=1e-5)
    assert ours.feature_names_in_[0] == "var0"
