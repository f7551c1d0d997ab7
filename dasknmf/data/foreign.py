"""Arrays of other libraries (xarray, pydata/sparse, polars) as arrays of NumPy, SciPy or Dask."""

from __future__ import annotations

import os
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse

from dasknmf.errors import SourceError


def as_known(X: Any) -> Any:
    """X as an array of NumPy, SciPy or Dask, if X is of another library that is known here; else X itself.

    Lazy arrays stay lazy.

    Raises
    ------
    SourceError
        If X is not a matrix, or is a lazy frame of polars, whose values are not known.
    """
    library = type(X).__module__.partition(".")[0]
    if library == "xarray":
        return _of_xarray(X)
    if library == "polars" and hasattr(X, "collect"):
        raise SourceError("X is a polars.LazyFrame, whose values are not known yet: give X.collect().")
    if hasattr(X, "to_scipy_sparse"):
        return X.to_scipy_sparse()
    if isinstance(X, da.Array) and hasattr(X._meta, "to_scipy_sparse"):
        meta = scipy.sparse.csr_array((0, 0), dtype=X.dtype)
        return X.map_blocks(lambda chunk: chunk.to_scipy_sparse().tocsr(), meta=meta)
    return X


def _of_xarray(X: Any) -> Any:
    name = f"xarray.{type(X).__name__}"
    dims = [str(dim) for dim in X.dims]
    if hasattr(X, "data_vars") or len(dims) != 2:
        raise SourceError(
            f"X is an {name} with the dims {dims}; V must be a matrix: give a stack of images to "
            "dasknmf.stacks.StackNMF, or as dasknmf.stacks.Stack(X), and of others one with two dims."
        )
    if X.chunks is not None:
        return as_known(X.data)
    if getattr(X, "variable", X)._in_memory:  # xarray's own test before a load; it has no public name
        return as_known(X.data)
    preferred = X.encoding.get("preferred_chunks", {})
    return X.chunk({dim: preferred.get(dim, "auto") for dim in X.dims}).data


def is_masked(X: Any) -> bool:
    """Whether X is a masked array, or a Dask array of such."""
    return isinstance(getattr(X, "_meta", X), np.ma.MaskedArray)


_OPENED_BY = {
    ".npy": "numpy.load({0!r}, mmap_mode='r')",
    ".csv": "pandas.read_csv({0!r}, index_col=0)",
    ".mtx": "scipy.io.mmread({0!r}).tocsr()",
    ".tif": "dasknmf.stacks.Stack(dasknmf.stacks.open_stack({0!r})), or the path to StackNMF",
    ".nc": "dasknmf.stacks.Stack(xarray.open_dataset({0!r}, chunks={{}})), or the dataset to StackNMF",
}
"""What to give in place of a path, by the ending of a file."""


def refuse_file(X: Any) -> None:
    """Raise an error for the path of a file that another library opens.

    Raises
    ------
    SourceError
    """
    if not isinstance(X, (str, os.PathLike)) or not os.path.isfile(X):
        return
    path = os.fspath(X)
    remedy = _OPENED_BY.get(os.path.splitext(path)[1].lower().replace(".tiff", ".tif"))
    if remedy is not None:
        raise SourceError(f"{path!r} is a file that another library opens: give {remedy.format(path)}.")
