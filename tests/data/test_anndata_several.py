"""Several AnnData files as one matrix."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scipy.sparse as sp

from dasknmf.data import open_anndata, source_of
from dasknmf.data.concatenated import Concatenated
from dasknmf.errors import SourceError
from tests.data.anndata_stores import GENES, PARAMETERS, annotated, close, counts, rows_of, written
from tests.helpers import fitted

# Newest versions of pandas 3 warn about an option that anndata sets.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")


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
    assert isinstance(X, Concatenated)
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
    slabs = source.slabs(70, 140, [])  # of a panel in three files
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
    with pytest.raises(SourceError, match=r"SparseSource csc.* cannot be stacked.*store it as CSR"):
        open_anndata([paths[0], by_columns]).matrix()


def test_several_files_are_fitted_as_one(three, small_panels):
    paths, whole = three
    X = open_anndata(paths).matrix()
    close(fitted(X, **PARAMETERS), fitted(sp.csr_matrix(whole), **PARAMETERS))
