"""`NMF` as a scikit-learn estimator: parameters, W, H and attributes."""

from __future__ import annotations

import pickle
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.base import clone
from sklearn.decomposition import NMF as Theirs
from sklearn.decomposition._nmf import _beta_divergence, _initialize_nmf
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import dasknmf
from dasknmf import NMF, non_negative_factorization
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.losses import Loss
from dasknmf.core.starts.nndsvd import filled
from dasknmf.errors import DataError, MemoryLimitError, NumericalError, SourceError
from tests.helpers import BETAS, fitted, stored

OF_ONE_START = "a weight is a repetition from the same start; a start draws other numbers for other rows"
STARTS_DIFFER = {
    f"check_sample_weight_equivalence_on_{kind}_data": OF_ONE_START for kind in ("dense", "sparse")
}


@parametrize_with_checks([NMF(max_iter=500)], expected_failed_checks=lambda estimator: STARTS_DIFFER)
def test_scikit_learns_own_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_parameters_are_scikit_learns_and_ours():
    ours, theirs = NMF().get_params(), Theirs().get_params()
    assert set(ours) - set(theirs) == {
        "n_init",
        "halving",
        "inner_iter",
        "sample_bytes",
        "dtype",
        "missing_values",
        "fixed_components",
        "sum_to_one",
    }
    differing = {name for name in theirs if ours[name] != theirs[name]}
    assert differing == {"solver"}


def test_attributes(low_rank):
    model, W = fitted(low_rank, n_components=3, init="nndsvda", tol=0)
    assert W.shape == (90, 3)
    assert isinstance(model.components_, np.ndarray)
    assert model.components_.shape == (3, 14)
    assert model.n_components_ == 3
    assert model.n_features_in_ == 14
    assert model.init_ == "nndsvda"
    assert model.n_iter_ == 8
    assert model.n_reads_ == 3 + 8
    assert model.reconstruction_err_ == pytest.approx(np.linalg.norm(low_rank - W @ model.components_))
    assert model.get_feature_names_out().tolist() == ["nmf0", "nmf1", "nmf2"]
    np.testing.assert_allclose(model.inverse_transform(W), W @ model.components_)
    with pytest.raises(ValueError, match=r"X has shape \(4, 9\), but the model has \d components"):
        model.inverse_transform(np.ones((4, 9)))


def test_feature_names(low_rank):
    import pandas as pd

    frame = pd.DataFrame(low_rank, columns=[f"gene{i}" for i in range(14)])
    model, _ = fitted(frame, n_components=3)
    assert model.feature_names_in_.tolist() == list(frame.columns)


def test_it_clones_pickles_and_searches(low_rank):
    model = NMF(3, random_state=0, max_iter=20)
    assert clone(model).get_params() == model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        again = pickle.loads(pickle.dumps(model.fit(low_rank)))
        np.testing.assert_array_equal(again.transform(low_rank), model.transform(low_rank))
        make_pipeline(NMF(4, random_state=0), NMF(2, random_state=0)).fit_transform(low_rank)
        search = GridSearchCV(
            NMF(random_state=0),
            {"n_components": [2, 3]},
            scoring=lambda model, X, y=None: -model.score_samples(X).sum(),
        ).fit(low_rank)
    assert search.best_params_ == {"n_components": 3}


def test_history(low_rank):
    seen = []
    model, _ = fitted(
        low_rank, run={"callbacks": [seen.append]}, n_components=3, beta_loss=1, init="nndsvda", tol=0
    )
    assert seen == list(model.history_)
    frame = model.history_.to_dataframe()
    assert list(frame.columns) == [
        "iteration",
        "phase",
        "loss",
        "objective",
        "loss_at",
        "change",
        "seconds",
        "bytes_read",
        "bytes_written",
        "reads",
        "memory",
        "retries",
    ]
    assert frame.phase.iloc[-1] == "evaluation"
    assert frame.reads.iloc[-1] == model.n_reads_ == 3 + 8 + 1
    assert (frame.bytes_read[frame.phase == "exact"] >= low_rank.nbytes).all()
    # At the entry of pass t + 1 stands the pair of pass t.
    assert frame.loss.iloc[-1] < frame.loss.iloc[-2]


@pytest.mark.parametrize("beta", BETAS)
def test_the_reported_loss_is_the_loss(low_rank, beta):
    model, W = fitted(low_rank, n_components=3, beta_loss=beta)
    expected = _beta_divergence(low_rank, W, model.components_, beta)
    assert model.history_[-1].loss == pytest.approx(expected, rel=1e-9)


def test_an_exact_fit_has_no_nan():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        X = (rng.random((40, 2)) @ rng.random((2, 12))).astype(dtype)
        model, _ = fitted(X, n_components=2, max_iter=3000, tol=1e-12)
        losses = [r.loss for r in model.history_ if r.loss is not None]
        assert np.isfinite(losses).all()
        assert min(losses) >= 0
        assert model.reconstruction_err_ < 2e-3 * np.linalg.norm(X)
        assert "entry" in {r.loss_at for r in model.history_}


def test_a_start_that_is_exact_is_kept():
    rng = np.random.default_rng(0)
    W, H = rng.random((20, 2)), rng.random((2, 6))
    for beta in (1.0, 0.5):
        model, _ = fitted(W @ H, run={"W": W, "H": H}, n_components=2, init="custom", beta_loss=beta)
        assert model.reconstruction_err_ < 1e-6
        assert len(model.dead_components_) == 0


@pytest.mark.parametrize("beta", [0.0, -3.0, 3.0])
def test_numbers_that_leave_their_range_are_told(low_rank, beta):
    tiny = (low_rank * 1e-11).astype(np.float32)
    if beta == -3:  # 1 / p⁵ is beyond float32
        with pytest.raises(NumericalError, match="rescale V to a mean near 1"):
            fitted(tiny, n_components=3, beta_loss=beta)
        return
    model, W = fitted(tiny, n_components=3, beta_loss=beta)
    assert np.isfinite(W).all()
    assert np.isfinite(model.components_).all()


@pytest.mark.parametrize("scale", [1e-30, 1e20])
@pytest.mark.parametrize("init", ["random", "nndsvda"])
def test_scales_beyond_products_are_refused(low_rank, scale, init):
    told = r"the mean of X is .*rescale X|not finite after an update.*rescale V"
    with pytest.raises((DataError, NumericalError), match=told):
        NMF(3, init=init).fit((low_rank * scale).astype(np.float32))


@pytest.mark.parametrize("beta", [3.0, 2.0, 1.0])
def test_nothing_but_zeros(beta):
    model, W = fitted(np.zeros((9, 6)), n_components=2, beta_loss=beta, solver="mu")
    assert model.reconstruction_err_ == pytest.approx(0, abs=1e-6)
    assert np.isfinite(W).all()


def test_masks_are_refused(low_rank):
    for X in (np.ma.masked_greater(low_rank, 1), da.ma.masked_greater(da.from_array(low_rank), 1)):
        with pytest.raises(DataError, match="is a masked array"):
            NMF(3).fit(X)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_row_is_scored_on_its_own(low_rank, beta):
    model, _ = fitted(low_rank, n_components=3, beta_loss=beta)
    mixed = np.vstack([low_rank[:1] * 1e-9, low_rank * 1e6])
    alone = model.score_samples(mixed[:1])
    assert model.score_samples(mixed)[0] == pytest.approx(alone[0], rel=1e-9)


def test_convergence_is_told(low_rank):
    with pytest.warns(ConvergenceWarning, match="Maximum number of iterations 2 reached"):
        NMF(3, max_iter=2).fit(low_rank)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NMF(3, max_iter=2, tol=0).fit(low_rank)
        NMF(3, max_iter=1000, tol=1e-3).fit(low_rank)


def test_dead_components_are_told():
    X = np.outer(np.arange(1.0, 30.0), np.ones(5))
    H = np.vstack([np.ones(5), np.ones(5)])
    W = np.column_stack([np.ones(29), np.zeros(29)])
    with pytest.warns(UserWarning, match=r"components \[1\] of 2 are zero throughout"):
        model = NMF(2, init="custom", solver="mu", tol=0, max_iter=5).fit(X, W=W, H=H)
    assert model.dead_components_.tolist() == [1]


def test_multiplicative_starts_have_no_zeros(low_rank):
    low_rank[:, :4] *= np.arange(90)[:, None] % 3
    for init in ("nndsvd", "nndsvda", "nndsvdar"):
        model, W = fitted(low_rank, n_components=4, init=init, solver="mu", max_iter=1, inner_iter=1)
        assert (W > 0).all()
        assert (model.components_ > 0).all()


def test_nndsvd_starts_are_scikit_learns(low_rank):
    for init in ("nndsvd", "nndsvda"):
        W, H = _initialize_nmf(low_rank, 3, init=init, random_state=0)
        ours, W_one = fitted(low_rank, n_components=3, init=init, max_iter=1, inner_iter=1)
        theirs, W_two = fitted(
            low_rank,
            run={"W": W, "H": H},
            n_components=3,
            init="custom",
            max_iter=1,
            inner_iter=1,
        )
        np.testing.assert_allclose(W_one, W_two, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(ours.components_, theirs.components_, rtol=1e-6, atol=1e-8)
    assert filled(np.array([[1e-7, 1.0]]), "mean", 3.0, 0, 0, 0).tolist() == [[3.0, 1.0]]


def test_integers_stay_integers_until_the_tile(low_rank):
    counts = (low_rank * 100).astype(np.uint16)
    model, W = fitted(counts, n_components=3)
    assert W.dtype == model.components_.dtype == np.float32
    exact, _ = fitted(counts.astype(np.float32), n_components=3)
    np.testing.assert_array_equal(model.components_, exact.components_)
    assert fitted(counts.astype(np.int64), n_components=3)[1].dtype == np.float64
    assert fitted(counts, n_components=3, dtype=np.float64)[1].dtype == np.float64


def test_sparse_equals_dense(low_rank):
    low_rank[low_rank < np.median(low_rank)] = 0
    dense, W = fitted(low_rank, n_components=3)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array):
        sparse, W_sparse = fitted(kind(low_rank), n_components=3)
        np.testing.assert_allclose(W_sparse, W, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(sparse.components_, dense.components_, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 0.05, "l1_ratio": 0.5}])
def test_transform_is_exact_for_frobenius(low_rank, penalty):
    model, _ = fitted(low_rank, n_components=4, **penalty)
    W = model.transform(low_rank)
    H = model.components_
    l1 = 14 * penalty.get("alpha_W", 0) * penalty.get("l1_ratio", 0)
    l2 = 14 * penalty.get("alpha_W", 0) * (1 - penalty.get("l1_ratio", 0))
    gradient = W @ (H @ H.T + l2 * np.eye(4)) - low_rank @ H.T + l1
    assert (W >= 0).all()
    assert (gradient > -1e-9).all()
    assert np.abs(gradient * W).max() < 1e-9
    if not penalty:
        expected = np.array([scipy.optimize.nnls(H.T, x)[0] for x in low_rank])
        np.testing.assert_allclose(W, expected, atol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_transform_is_a_minimum(low_rank, beta):
    model, _ = fitted(low_rank, n_components=3, beta_loss=beta, tol=1e-8)
    errors = model.score_samples(low_rank)
    assert errors.shape == (90,)
    W = model.transform(low_rank)
    rng = np.random.default_rng(0)
    for _ in range(20):
        nearby = np.maximum(W * (1 + 0.02 * rng.standard_normal(W.shape)), 0)
        worse = Loss(beta).rows(low_rank, nearby @ model.components_, 1e-7)
        assert (worse >= errors - 1e-3 * errors.mean()).all()


@pytest.mark.parametrize("beta", [2.0, 1.0])
def test_transform_is_lazy_and_does_not_depend_on_chunks(low_rank, beta, tmp_path):
    model, _ = fitted(low_rank, n_components=3, beta_loss=beta)
    expected = model.transform(low_rank)
    V = stored(tmp_path / "v.zarr", low_rank, (20, 5))
    for X in (V, str(tmp_path / "v.zarr"), da.from_array(low_rank, chunks=(7, 4))):
        W = model.transform(X)
        assert isinstance(W, da.Array)
        assert W.dtype == np.float64
        np.testing.assert_allclose(W.compute(scheduler="threads"), expected, rtol=1e-9, atol=1e-12)
        errors = model.score_samples(X)
        np.testing.assert_allclose(errors.compute(), model.score_samples(low_rank), rtol=1e-9)
        back = model.inverse_transform(W)
        assert isinstance(back, da.Array)
        np.testing.assert_allclose(back.compute(), expected @ model.components_)


def test_the_function(low_rank):
    W, H, n_iter = non_negative_factorization(low_rank, n_components=3, random_state=0, max_iter=900)
    model = NMF(3, random_state=0, max_iter=900)
    np.testing.assert_array_equal(W, model.fit_transform(low_rank))
    assert n_iter == model.n_iter_
    kept, same, _ = non_negative_factorization(low_rank, H=H, update_H=False, n_components=3)
    np.testing.assert_array_equal(same, H)
    np.testing.assert_allclose(kept, model.transform(low_rank))


BAD_DATA = [
    (lambda X: X.__setitem__((5, 2), np.nan), ValueError, "Input X contains NaN"),
    (lambda X: X.__setitem__((5, 2), np.inf), ValueError, "Input X contains infinity"),
    (lambda X: X.__setitem__((5, 2), -1), ValueError, "Negative values in data passed to NMF init"),
]


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize(("spoil", "error", "message"), BAD_DATA)
@pytest.mark.parametrize("init", ["random", "nndsvda"])
def test_bad_values(low_rank, tmp_path, kind, spoil, error, message, init):
    spoil(low_rank)
    X = {
        "numpy": lambda: low_rank,
        "dask": lambda: da.from_array(low_rank, chunks=(20, 14)),
        "zarr": lambda: stored(tmp_path / "v.zarr", low_rank, (20, 14)),
    }[kind]()
    with pytest.raises(error, match=message):
        NMF(3, init=init).fit(X)


@pytest.mark.parametrize("kind", [np.asarray, da.asarray])
def test_bad_shapes(kind):
    for shape, message in [
        ((5,), "Expected 2D array"),
        ((0, 3), "0 sample"),
        ((3, 0), "0 feature"),
    ]:
        with pytest.raises(ValueError, match=message):
            NMF(1).fit(kind(np.ones(shape)))
    with pytest.raises(ValueError, match="Complex data not supported"):
        NMF(1).fit(kind(np.ones((3, 3), complex)))
    with pytest.raises(ValueError, match=r"dim 3|3D array"):
        NMF(1).fit(kind(np.ones((3, 3, 3))))


def test_bad_parameters(low_rank):
    for parameters, message in [
        ({"n_components": 0}, "The 'n_components' parameter of NMF must be"),
        ({"max_iter": 0}, "The 'max_iter' parameter of NMF must be"),
        ({"tol": -1}, "The 'tol' parameter of NMF must be"),
        ({"beta_loss": "poisson"}, "The 'beta_loss' parameter of NMF must be"),
        ({"inner_iter": 0}, "The 'inner_iter' parameter of NMF must be"),
        ({"solver": "cd", "beta_loss": 1.0}, "solver 'cd' does not handle beta_loss = 1.0"),
        ({"solver": "bpp", "beta_loss": 1.0}, "solver 'bpp' does not handle beta_loss = 1.0"),
        ({"n_components": 20, "init": "nndsvd"}, "init = 'nndsvd' can only be used when"),
        ({"dtype": np.int32}, "dtype is int32; it must be float32, float64 or None"),
        ({"init": "custom"}, "needs H, or both W and H; W is None and H is None"),
    ]:
        with pytest.raises(ValueError, match=message):
            NMF(**{"n_components": 3} | parameters).fit(low_rank)
    with pytest.raises(ValueError, match="above 512 that is rarely meant"):
        NMF().fit(np.ones((3, 600)))
    low_rank[0, 0] = 0
    for kind in (low_rank, da.from_array(low_rank)):
        with pytest.raises(ValueError, match="When beta_loss <= 0 and X contains zeros"):
            NMF(3, solver="mu", beta_loss=0).fit(kind)


def test_bad_starts(low_rank):
    W, H = np.ones((90, 3)), np.ones((3, 14))
    model = NMF(3, init="custom")
    for start, error, message in [
        (
            {"W": W[:4], "H": H},
            ValueError,
            "wrong first dimension passed to NMF .input W.*Expected 90",
        ),
        ({"W": W[:, :2], "H": H}, ValueError, "wrong second dimension passed to NMF .input W"),
        ({"W": W, "H": H[:, :4]}, ValueError, "wrong second dimension passed to NMF .input H"),
        ({"W": -W, "H": H}, ValueError, "Negative values in data passed to NMF .input W"),
        ({"W": W, "H": 0 * H}, ValueError, "NMF .input H. is full of zeros"),
        ({"W": W.astype("f4"), "H": H}, TypeError, "H and W should have the same dtype as X"),
        ({"W": W}, ValueError, "H is None"),
    ]:
        with pytest.raises(error, match=message):
            model.fit(low_rank, **start)
    with pytest.warns(RuntimeWarning, match="init!='custom', provided W or H are ignored"):
        NMF(3, tol=1e-2).fit(low_rank, W=W, H=H)


def test_bad_transforms(low_rank):
    with pytest.raises(NotFittedError):
        NMF(3).transform(low_rank)
    model, _ = fitted(low_rank, n_components=3)
    for X in (low_rank[:, :5], da.from_array(low_rank[:, :5])):
        with pytest.raises(ValueError, match="X has 5 features, but NMF is expecting 14 features"):
            model.transform(X)
    with pytest.raises(DataError, match="Negative values in data passed to X in NMF"):
        model.transform(-low_rank)
    lazy = model.transform(da.from_array(-low_rank))
    with pytest.raises(DataError, match="Negative values"):
        lazy.compute()


def test_bad_sources(tmp_path):
    (tmp_path / "text").write_text("not zarr")
    import zarr

    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("counts", shape=(4, 4), dtype="f4")
    for place, message in [
        (tmp_path / "nowhere.zarr", "cannot be opened as Zarr"),
        (tmp_path / "text", "cannot be opened as Zarr"),
        (tmp_path / "group.zarr", r"is a Zarr group.*\['counts'\]"),
    ]:
        with pytest.raises(SourceError, match=message):
            NMF(2).fit(place)
    X = da.from_array(np.ones((10, 3)), chunks=(5, 3))
    with pytest.raises(SourceError, match=r"unknown chunk sizes.*compute_chunk_sizes"):
        NMF(2).fit(X[X[:, 0] > 0])
    frame = type("DataFrame", (), {"to_dask_array": None})()  # dask.dataframe itself needs pyarrow
    with pytest.raises(SourceError, match=r"V must be an array: give X\.to_dask_array"):
        NMF(2).fit(frame)
    with dask.config.set(scheduler="processes"), pytest.raises(RuntimeError, match="is not one of"):
        NMF(2).fit(X)


def test_W_that_does_not_fit_is_refused_before_anything_is_read():
    X = da.zeros((2**28, 2), chunks=(2**24, 2), dtype="f4")
    with pytest.raises(MemoryLimitError, match=r"2\.00 GiB.*give fit\(\.\.\., checkpoint=\)"):
        NMF(2, init="random").fit_transform(X)


def test_a_pass_that_does_not_fit_is_refused(monkeypatch, tmp_path):
    import psutil

    V = stored(tmp_path / "v.zarr", np.ones((2000, 500), "f4"), (2000, 500))
    small = psutil.virtual_memory()._replace(available=2**21)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    with pytest.raises(MemoryLimitError, match=r"projected to peak at .* a process has .*: give it"):
        NMF(3, init="random").fit(V)


def test_the_public_surface():
    assert set(dasknmf.__all__) == {
        "Consensus",
        "NMF",
        "Moments",
        "Prepared",
        "RankSweep",
        "consensus",
        "highly_variable",
        "moments",
        "non_negative_factorization",
        "open_consensus",
        "open_run",
        "open_sweep",
        "rank_sweep",
    }
    assert working_dtype(np.dtype("uint16")) == np.float32
