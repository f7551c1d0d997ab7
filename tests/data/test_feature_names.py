"""Names of features: set by a fit, kept by a run, compared when it goes on."""

from __future__ import annotations

import shutil

import dask.array as da
import numpy as np
import pytest

from dasknmf import NMF, open_run
from dasknmf.errors import RunDamagedError, RunMismatchError
from dasknmf.store import features
from tests.helpers import fitted

NAMES = np.array([f"gene {j}" for j in range(14)])


class Named(da.Array):
    """A chunked V with names of its columns."""

    def __new__(cls, X, names):
        array = da.from_array(X, chunks=(30, -1))
        self = super().__new__(cls, array.dask, array.name, array.chunks, meta=array._meta)
        self.feature_names = names
        return self


def test_a_run_keeps_the_names_of_its_features(tmp_path, low_rank):
    model, _ = fitted(Named(low_rank, NAMES), n_components=3, run={"checkpoint": tmp_path / "run"})
    assert model.feature_names_in_.tolist() == NAMES.tolist()
    assert open_run(tmp_path / "run").feature_names.tolist() == NAMES.tolist()
    again = NMF.from_run(tmp_path / "run")
    assert again.feature_names_in_.tolist() == NAMES.tolist()
    assert again.sum_of_squares_ == pytest.approx((low_rank**2).sum())
    with pytest.raises(ValueError, match=r"the same names in another order \(14 of 14 moved\)"):
        again.transform(Named(low_rank, NAMES[::-1]))
    unnamed, _ = fitted(da.from_array(low_rank), n_components=3, run={"checkpoint": tmp_path / "other"})
    assert not hasattr(unnamed, "feature_names_in_")
    assert open_run(tmp_path / "other").feature_names is None


def test_a_run_goes_on_with_the_same_names_only(tmp_path, low_rank):
    how = {"n_components": 3, "init": "random", "tol": 0, "run": {"checkpoint": tmp_path / "run"}}
    fitted(Named(low_rank, NAMES), max_iter=3, **how)
    fitted(Named(low_rank, NAMES), max_iter=4, **how)
    assert open_run(tmp_path / "run").n_iter == 4
    other = NAMES.copy()
    other[5] = "another"
    with pytest.raises(RunMismatchError, match="1 of 14 names differs: 'gene 5' became 'another'"):
        fitted(Named(low_rank, other), **how)
    with pytest.raises(RunMismatchError, match="feature_names: "):
        fitted(da.from_array(low_rank, chunks=(30, -1)), **how)
    with pytest.raises(ValueError, match="3 feature names for 14 columns"):
        fitted(Named(low_rank, NAMES[:3]), **how)


def test_names_that_are_not_the_runs_are_damage(tmp_path, low_rank):
    for name, order in (("a", 1), ("b", -1)):
        fitted(Named(low_rank, NAMES[::order]), n_components=3, run={"checkpoint": tmp_path / name})
    shutil.rmtree(tmp_path / "a" / "features")
    shutil.copytree(tmp_path / "b" / "features", tmp_path / "a" / "features")
    with pytest.raises(RunDamagedError, match=r"'features'.*its names have the digest"):
        open_run(tmp_path / "a").feature_names  # noqa: B018


def test_names_too_many_to_keep_are_still_compared(tmp_path, low_rank, monkeypatch, caplog):
    monkeypatch.setattr(features, "_MOST_BYTES", 100)
    how = {"n_components": 3, "init": "random", "tol": 0, "run": {"checkpoint": tmp_path / "run"}}
    fitted(Named(low_rank, NAMES), **how)
    assert "are not stored" in caplog.text
    assert open_run(tmp_path / "run").feature_names is None
    with pytest.raises(RunMismatchError, match="feature_names: "):
        fitted(Named(low_rank, NAMES[::-1]), **how)


def test_a_lost_record_of_names_is_damage(tmp_path, low_rank):
    fitted(Named(low_rank, NAMES), n_components=3, run={"checkpoint": tmp_path / "run"})
    shutil.rmtree(tmp_path / "run" / "features")
    with pytest.raises(RunDamagedError, match=r"'features'.*it is missing"):
        open_run(tmp_path / "run").feature_names  # noqa: B018
