"""Errors for AnnData that is damaged or lacks a requested part."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from dasknmf.data import open_anndata, opened, source_of
from dasknmf.data.stored_csr import SparseSource
from dasknmf.errors import DataChangedError, SourceError
from tests.data.anndata_stores import annotated, counts, grouped, parted, rows_of, written

# Newest versions of pandas 3 warn about an option that anndata sets.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")


def test_missing_parts_are_refused(tmp_path):
    path = written(tmp_path / "a.zarr", annotated(counts()))
    store = open_anndata(path)
    with pytest.raises(SourceError, match=r"has no layer 'raw'; its layers are \['twice'\]"):
        store.matrix("raw")
    with pytest.raises(SourceError, match="holds no AnnData; one has obs and var"):
        open_anndata(path / "X")
    with pytest.raises(SourceError, match=r"'.*layers' is a Zarr group; .*the arrays \['twice'\]: append"):
        opened(path / "layers")
    with pytest.raises(SourceError, match="group with encoding-type 'dataframe'; a sparse V has csr_matrix"):
        SparseSource.of_group(zarr.open_group(path, mode="r")["obs"])
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
        (
            "indices",
            lambda v: np.append(v[:-1], 30).astype(v.dtype),
            "contain column 30, and V has columns 0",
        ),
        ("indices", lambda v: np.append(-1, v[1:]).astype(v.dtype), "contain column -1"),
        ("indices", lambda v: np.append(v[:-1], 2**32).astype(np.int64), "contain column 4294967296"),
        ("data", None, "lacks data"),
    ],
)
def test_damage_is_refused(tmp_path, name, change, message):
    A = counts()
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    values = group[name][:]
    del group[name]
    if change:
        group.create_array(name, data=change(values))
    with pytest.raises(SourceError, match=message):
        rows_of(SparseSource.of_group(group))


def test_a_changed_indptr_is_refused(tmp_path):
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), counts(), 100)
    source = source_of(SparseSource.of_group(group))
    group["indptr"][:] = group["indptr"][:][::-1]
    with pytest.raises(DataChangedError, match="indptr of the sparse V does not rise"):
        list(source.slabs(0, 200, []))
