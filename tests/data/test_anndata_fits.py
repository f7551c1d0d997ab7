"""Fits of AnnData in stores: the same numbers as fits of the matrix in memory."""

from __future__ import annotations

import numpy as np
import pytest

from dasknmf.data import open_anndata
from dasknmf.errors import DataChangedError, SourceError
from tests.data.anndata_stores import PARAMETERS, annotated, close, counts, grouped, stored_bytes, written
from tests.helpers import fitted

# Newest versions of pandas 3 warn about an option that anndata sets.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")

LOSSES = ["frobenius", "kullback-leibler"]


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
    parameters = PARAMETERS | {"beta_loss": beta_loss, "dtype": np.float64}
    model, W = fitted(path, **parameters)
    turned, turned_W = fitted(grouped(tmp_path / "t", A.T.tocsr(), 100), **parameters)
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


def test_a_fit_reads_what_is_stored_once_a_pass(tmp_path, monkeypatch):
    A = counts(4000)
    monkeypatch.setattr("dasknmf.core.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    X = grouped(tmp_path / "a", A, 200)
    model, _ = fitted(X, **PARAMETERS, run={})
    for record in model.history_:
        W = 4000 * 4 * 4 * 2
        assert record.bytes_read <= 1.02 * stored_bytes(tmp_path / "a") + W


def test_a_changed_V_is_refused_on_resume(tmp_path, small_panels):
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
