"""Places of runs, and what a run that does not match says."""

from __future__ import annotations

import logging
import warnings

import anndata
import numpy as np
import pytest
import xarray as xr

from dasknmf import NMF, Prepared
from dasknmf.errors import RunError, RunMismatchError
from dasknmf.stacks import StackNMF
from tests.helpers import stored

X = np.random.default_rng(0).random((30, 6))


@pytest.fixture
def model():
    return NMF(2, random_state=0, tol=1e-2)


@pytest.mark.parametrize("place", ["V.zarr/run", "V.zarr/c/0/run"])
def test_a_run_inside_an_array_is_refused(tmp_path, model, place):
    V = stored(tmp_path / "V.zarr", X, (10, 6))
    with pytest.raises(RunMismatchError, match=r"lies inside .*V.zarr', which is a Zarr array"):
        model.fit(V, checkpoint=tmp_path / place, overwrite=True)
    np.testing.assert_array_equal(V[...], X)
    model.fit(V, checkpoint=tmp_path / "run")  # as the message says
    with pytest.raises(RunMismatchError, match="which is another run"):
        model.fit(V, checkpoint=tmp_path / "run" / "W" / "inner")


def test_a_run_inside_an_anndata_is_refused(tmp_path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of coming defaults of anndata
        anndata.AnnData(X.astype("float32")).write_zarr(tmp_path / "cells.zarr")
    with pytest.raises(RunMismatchError, match="which is an AnnData"):
        model.fit(tmp_path / "cells.zarr", checkpoint=tmp_path / "cells.zarr" / "run")


@pytest.mark.parametrize("place", [True, 3, ""])
def test_what_is_no_place_is_refused(tmp_path, monkeypatch, model, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=f"the place of a run is {place!r}; it must be a path"):
        model.fit(X, checkpoint=place)
    assert not list(tmp_path.iterdir())


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch, model):
    monkeypatch.setattr("dasknmf.store.place.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(RunError, match="no permission to write to"):
        model.fit(X, checkpoint=tmp_path / "run")


def test_a_mismatch_is_in_the_words_of_the_parameters(tmp_path, model):
    def message(fit):
        with pytest.raises(RunMismatchError) as caught:
            fit()
        assert "{" not in str(caught.value)
        return str(caught.value)

    model.fit(X, checkpoint=tmp_path / "run")
    V = Prepared(X, log1p=True, scale=np.ones(6))
    found = message(lambda: model.fit(V, sample_weight=np.ones(30), holdout=0.1, checkpoint=tmp_path / "run"))
    assert (
        "holdout: not set in the run, 0.1 now; log1p of Prepared: not set in the run, True now; scale of "
        "Prepared: not set in the run, given now; sample_weight: not set in the run, given now." in found
    )
    seen = NMF(**model.get_params() | {"missing_values": "nan"})
    assert "missing_values: not set in the run, 'nan' now" in message(
        lambda: seen.fit(X, checkpoint=tmp_path / "run")
    )
    scene = xr.DataArray(X.T.reshape(6, 5, 6), dims=("band", "y", "x"))
    stack = StackNMF(2, random_state=0, tol=1e-2)
    stack.fit(scene, checkpoint=tmp_path / "stack")
    turned = scene.rename(y="x", x="y")
    assert "sample dims: y=5 x=6 in the run, y=6 x=5 now" in message(
        lambda: stack.fit(turned, checkpoint=tmp_path / "stack")
    )


def test_a_run_that_had_ended_says_so(tmp_path, model, caplog):
    reads = model.fit(X, checkpoint=tmp_path / "run").n_reads_
    assert isinstance(reads, int)
    with caplog.at_level(logging.INFO, "dasknmf"):
        assert model.fit(X, checkpoint=tmp_path / "run").n_reads_ == reads
    assert "the run had ended before (converged); V is not read again" in caplog.text


def test_verbose_shows_lines_without_a_logger(monkeypatch, capsys, model):
    monkeypatch.setattr(logging.getLogger("dasknmf"), "propagate", False)
    model.set_params(verbose=1).fit(X)
    assert "exact pass 1: objective" in capsys.readouterr().out
