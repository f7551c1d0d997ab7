"""Small examples that scikit-learn's users know by heart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition._nmf import _initialize_nmf

from dasknmf import NMF
from tests.helpers import fitted

LINE = np.array([[1, 1], [2, 1], [3, 1.2], [4, 1], [5, 0.8], [6, 1]])

RATINGS = np.array(
    [
        [5, 5, 3, 0, 5, 5, 4, 3, 2, 1, 4, 1, 3, 4, 5],
        [5, 0, 4, 0, 4, 4, 3, 2, 1, 2, 4, 4, 3, 4, 0],
        [0, 3, 0, 5, 4, 5, 0, 4, 4, 5, 3, 0, 0, 0, 0],
        [5, 4, 3, 3, 5, 5, 0, 1, 1, 3, 4, 5, 0, 2, 4],
        [5, 4, 3, 3, 5, 5, 3, 3, 3, 4, 5, 0, 5, 2, 4],
        [5, 4, 2, 2, 0, 5, 3, 3, 3, 4, 4, 4, 5, 2, 5],
        [5, 4, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0],
        [5, 4, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1],
        [5, 4, 3, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2],
        [5, 4, 3, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]
)
"""Rows are films, columns are users; zeros are unseen."""


def test_six_points_are_two_components():
    errors = []
    for seed in range(20):
        model = NMF(2, init="random", random_state=seed)
        W = model.fit_transform(LINE)
        assert np.abs(W @ model.components_ - LINE).max() < 0.01
        errors.append(model.reconstruction_err_)
    assert np.median(errors) <= 0.0012


def test_six_points_from_scikit_learns_own_start():
    W, H = _initialize_nmf(LINE, 2, init="random", random_state=0)
    model = NMF(2, init="custom", inner_iter=1).fit(LINE, W=W, H=H)
    assert model.n_iter_ == 30
    assert model.reconstruction_err_ == pytest.approx(0.00115993, abs=1e-8)


@pytest.mark.parametrize("parameters", [{"inner_iter": 1}, {"tol": 1e-8}], ids=str)
def test_films_that_a_user_has_not_seen(parameters):
    model, W = fitted(RATINGS, n_components=2, init="nndsvd", max_iter=200, **parameters)
    predicted = (W @ model.components_)[:, 10]
    unseen = np.flatnonzero((RATINGS[:, 10] == 0) & (predicted > 0))
    assert unseen.tolist() == [6, 7, 8, 9]
    np.testing.assert_allclose(predicted[unseen], [0.1015, 0.1006, 0.1029, 0.0988], rtol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_films_that_a_user_has_not_seen_with_nothing_said(seed):
    model = NMF(2, random_state=seed)
    predicted = (model.fit_transform(RATINGS) @ model.components_)[:, 10]
    np.testing.assert_allclose(predicted[6:10], [0.1015, 0.1006, 0.1029, 0.0988], rtol=0.02)


@pytest.mark.parametrize(("k", "error"), [(2, 13.84), (3, 10.49), (4, 8.24), (5, 6.14)])
def test_more_components_fit_better(k, error):
    assert NMF(k, random_state=0).fit(RATINGS).reconstruction_err_ <= error
