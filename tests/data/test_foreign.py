"""Arrays of other libraries: what is lazy stays lazy, and nothing is loaded whole."""

from __future__ import annotations

import tracemalloc
import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr

from dasknmf import NMF, Prepared, rank_sweep
from dasknmf.errors import DataError, SourceError
from dasknmf.stacks import Stack, StackNMF

PARAMETERS = {"n_components": 2, "init": "random", "random_state": 0, "max_iter": 2, "tol": 0}
SHAPE = (60_000, 100)
NBYTES = 8 * SHAPE[0] * SHAPE[1]


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).random(SHAPE)


def _lazily_opened(path, values):
    xr.DataArray(values, dims=("cell", "gene"), name="v").chunk(cell=1000).to_zarr(path / "v.zarr")
    return xr.open_zarr(path / "v.zarr", chunks=None)["v"]


LAZY = {
    "DataArray of Dask": lambda path, values: xr.DataArray(
        da.from_array(values, chunks=(1000, 100), inline_array=True), dims=("cell", "gene")
    ),
    "DataArray opened lazily": _lazily_opened,
}


def peak_of(call):
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("kind", LAZY)
def test_a_lazy_data_array_is_streamed(tmp_path, values, kind):
    X = LAZY[kind](tmp_path, values)
    right = NMF(**PARAMETERS).fit(da.from_array(values, chunks=(1000, 100)))
    (model, W), peak = peak_of(lambda: (model := NMF(**PARAMETERS), model.fit_transform(X)))
    assert isinstance(W, da.Array)
    assert peak < NBYTES
    np.testing.assert_array_equal(model.components_, right.components_)
    assert Prepared(X, log1p=True).is_chunked
    weights = X * 0 + 1
    np.testing.assert_allclose(
        NMF(**PARAMETERS).fit(da.from_array(values, chunks=(1000, 100)), weights=weights).components_,
        right.components_,
        rtol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["f2", "i4", "i8", ">f4", ">f8"])
def test_a_memory_map_is_not_copied(tmp_path, values, dtype):
    (values * 90).astype(dtype).tofile(tmp_path / "v")
    X = np.memmap(tmp_path / "v", dtype, "r", shape=SHAPE)
    for given in (X, pd.DataFrame(X, copy=False)) if dtype[0] != ">" else (X,):
        _, peak = peak_of(lambda given=given: NMF(**PARAMETERS).fit(given))
        assert peak < NBYTES * 0.8  # W, and a few tiles


def test_a_data_frame_of_sparse_columns():
    X = scipy.sparse.random_array((30, 8), density=0.4, random_state=0, format="csr")
    table = pd.DataFrame.sparse.from_spmatrix(X, columns=list("abcdefgh"))
    model = NMF(2, random_state=0).fit(table)
    np.testing.assert_allclose(model.components_, NMF(2, random_state=0).fit(X).components_, rtol=1e-6)
    assert model.feature_names_in_.tolist() == list("abcdefgh")
    assert model.transform(table).shape == (30, 2)


class Coordinates:
    """As arrays of pydata/sparse are: no ndarray, with their own conversion."""

    def __init__(self, X):
        self._X, self.shape, self.dtype, self.ndim = X, X.shape, X.dtype, 2

    def to_scipy_sparse(self):
        return self._X

    def __array__(self, *_, **__):
        raise RuntimeError("cannot convert a sparse array to dense automatically")


def test_sparse_arrays_of_another_library():
    X = scipy.sparse.random_array((30, 8), density=0.4, random_state=0, format="coo")
    H = NMF(2, random_state=0).fit(Coordinates(X)).components_
    np.testing.assert_array_equal(H, NMF(2, random_state=0).fit(X.tocsr()).components_)


def test_sparse_chunks_of_another_library():
    sparse = pytest.importorskip("sparse")
    X = sparse.random((30, 8), density=0.4, random_state=0)
    H = NMF(2, random_state=0, init="random").fit(da.from_array(X, chunks=(10, 4))).components_
    right = NMF(2, random_state=0, init="random").fit(X.to_scipy_sparse().tocsr()).components_
    np.testing.assert_allclose(H, right, rtol=1e-5)


def test_what_is_no_matrix_says_what_to_give():
    scene = xr.DataArray(np.random.default_rng(0).random((3, 4, 5)), dims=("band", "y", "x"))
    for call in (NMF(2).fit, lambda X: rank_sweep(X, [2, 3]), Prepared):
        for X in (scene, scene.to_dataset("band")):
            with pytest.raises(SourceError, match=r"with the dims .*dasknmf.stacks.StackNMF, or as"):
                call(X)
    StackNMF(2, tol=1e-2, random_state=0).fit(scene)  # as the message says
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no rank has a smallest silhouette")
        rank_sweep(Stack(scene), [2, 3], n_init=2, max_iter=2, random_state=0)
    lazy = type("LazyFrame", (), {"__module__": "polars.lazyframe", "collect": lambda self: None})()
    with pytest.raises(SourceError, match=r"give X.collect\(\)"):
        NMF(2).fit(lazy)
    holes = np.ma.masked_less(np.random.default_rng(0).random((30, 4)), 0.1)
    with pytest.raises(DataError, match=r"give X.filled\(numpy.nan\) with missing_values='nan'"):
        NMF(2).fit(holes)
    assert NMF(2, missing_values="nan", random_state=0).fit(holes.filled(np.nan)).n_unobserved_samples_ == 0
