"""Recomputed rows of W: the reported loss is that of H with these rows."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import nnls

from dasknmf import rank_sweep
from tests.selection.studies import many


def test_losses_of_nearly_exact_fits_are_those_of_their_pairs():
    """Near an exact fit in float32 the loss of the pair at the start of the pass is summed entry by entry."""
    rng = np.random.default_rng(0)
    X = rng.gamma(0.3, size=(80, 3)) @ rng.gamma(0.3, size=(3, 12)) + 1e-3 * rng.random((80, 12))
    X = X.astype("f4")
    found = many(X, [3], 4, random_state=0, max_iter=60)
    told = [advance for record in found.history for advance in record.models if advance.loss_at == "entry"]
    assert any(advance.phase == "exact" for advance in told)
    for index, each in enumerate(found.factorizations):
        H = each.components.astype(np.float64)
        least = 0.5 * sum(nnls(H.T, row)[1] ** 2 for row in X.astype(np.float64))
        np.testing.assert_allclose(each.loss, least, rtol=1e-3, atol=1e-6)
        objectives = [record.objective for record in found.history.of_model(index)]
        assert max(np.diff(objectives) / objectives[:-1]) < 1e-3


def test_ranks_tell_of_nearly_exact_fits_what_they_are():
    """In float32 the loss of such a fit is below the rounding of ‖V‖²."""
    rng = np.random.default_rng(0)
    X = (rng.gamma(0.3, size=(80, 3)) @ rng.gamma(0.3, size=(3, 12))).astype("f4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweep = rank_sweep(X, [2, 3], n_init=2, max_iter=100, tol=0, random_state=0)
    H = sweep.of_rank(3)[0].components.astype(np.float64)
    least = 0.5 * sum(nnls(H.T, row)[1] ** 2 for row in X.astype(np.float64))
    assert least < 1e-6 * (X.astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(sweep.columns["loss"][1], least, rtol=0.02)
