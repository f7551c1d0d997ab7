"""Stored dtypes: every real one, on every way, gives what the same values give in the working dtype."""

from __future__ import annotations

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, Prepared, moments
from dasknmf.core.dtypes import native_dtype, working_dtype
from dasknmf.stacks import StackNMF

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"
)

DTYPES = ["f2", ">f2", ">f4", ">f8", "g", "?", "i1", ">i2", ">u2", ">i4", ">i8", ">u8"]
VALUES = np.round(np.random.default_rng(0).random((30, 6)) * 90) + 1
PARAMETERS = {"n_components": 2, "random_state": 0, "max_iter": 3}


def _zarr(path, A):
    array = zarr.create_array(path / "v", shape=A.shape, chunks=(10, 6), dtype=A.dtype, zarr_format=2)
    array[...] = A
    return array


def _hdf5(path, A):
    with h5py.File(path / "v.h5", "w") as file:
        file["X"] = A
    return str(path / "v.h5" / "X")


STORAGE = {
    "memory": lambda path, A: A,
    "Dask": lambda path, A: da.from_array(A, chunks=(10, 6)),
    "Zarr": _zarr,
    "HDF5": _hdf5,
}


def fitted(V, run=None, **parameters):
    return NMF(**PARAMETERS | parameters).fit(V, **run or {}).components_


def coded(V, method):
    model = NMF(missing_values="nan", **PARAMETERS).fit(VALUES)
    return np.asarray(getattr(model, method)(V))


WAYS = {
    "fit": fitted,
    "missing": lambda V: fitted(V, missing_values=7.0),
    "sample_weight": lambda V: fitted(V, {"sample_weight": np.linspace(1, 2, 30)}),
    "weights": lambda V: fitted(VALUES, {"weights": V}),
    "holdout": lambda V: fitted(V, {"holdout": 0.1}),
    "columns": lambda V: fitted(Prepared(V, columns=[0, 2, 5])),
    "log1p": lambda V: fitted(Prepared(V, log1p=True)),
    "moments": lambda V: moments(V).std(),
    "transform": lambda V: coded(V, "transform"),
    "score_samples": lambda V: coded(V, "score_samples"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGE)
def test_every_dtype_is_read_on_every_way(tmp_path, storage, dtype):
    if storage == "Zarr" and dtype == "g":
        pytest.skip("Zarr has no long doubles")
    A = (VALUES > 45 if dtype == "?" else VALUES).astype(dtype)
    V = STORAGE[storage](tmp_path, A)
    same = A.astype(working_dtype(dtype))
    for way, values in WAYS.items():
        np.testing.assert_allclose(values(V), values(same), rtol=1e-4, atol=1e-5, err_msg=way)


@pytest.mark.filterwarnings("ignore:X has 1 row without any observed entry")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_a_stack(dtype):
    cube = (VALUES > 45 if dtype == "?" else VALUES).astype(dtype).T.reshape(6, 5, 6)
    seen = xr.DataArray(np.arange(30).reshape(5, 6) != 3, dims=("y", "x"))
    for masked in (None, seen):
        H, right = (
            StackNMF(**PARAMETERS).fit(xr.DataArray(each, dims=("band", "y", "x")), mask=masked).endmember
            for each in (cube, cube.astype(native_dtype(dtype)))
        )
        np.testing.assert_allclose(H, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nodata", [0.1, 7.0, np.inf])
def test_missing_values_in_half_precision(nodata):
    """A marker is compared as it is stored: 0.1 is another number in 16 bits."""
    A = VALUES.astype("f2")
    A[3, 2] = A[8, 5] = nodata
    holes = A.astype("f4")
    holes[np.asarray(np.float16(nodata) == A)] = np.nan
    ours = NMF(missing_values=nodata, **PARAMETERS).fit(da.from_array(A, chunks=(10, 6)))
    right = NMF(missing_values="nan", **PARAMETERS).fit(da.from_array(holes, chunks=(10, 6)))
    np.testing.assert_allclose(ours.components_, right.components_, rtol=1e-5)


def test_half_precision_is_exact_in_single():
    W = NMF(**PARAMETERS).fit_transform(VALUES.astype("f2"))
    assert W.dtype == np.float32
