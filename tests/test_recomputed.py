"""Rows of W that are kept nowhere: the loss that is told is that of H with the rows that it makes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from dasknmf.selection.many import many


def test_losses_of_nearly_exact_fits_are_those_of_their_pairs():
    """Near an exact fit in float32 the loss is summed entry by entry, of the pair that entered the pass."""
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
