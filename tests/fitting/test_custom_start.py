"""A custom start from H alone."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, open_run
from dasknmf.stacks import StackNMF
from tests.helpers import ALGORITHMS
from tests.stacks.draw import scene

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"
)
RNG = np.random.default_rng(0)
X = RNG.gamma(0.5, size=(60, 3)) @ RNG.gamma(0.5, size=(3, 14)) + 0.01
H = RNG.random((3, 14)) + 0.1


@pytest.mark.parametrize("kind", ["memory", "Dask", "wide"])
@pytest.mark.parametrize(("solver", "beta"), ALGORITHMS)
def test_W_is_that_of_a_transform(solver, beta, kind):
    V, start = (X.T, RNG.random((3, 60)) + 0.1) if kind == "wide" else (X, H)
    parameters = {"init": "custom", "solver": solver, "beta_loss": beta, "max_iter": 3, "tol": 0}
    coder = NMF(3, solver=solver, beta_loss=beta)
    coder.components_, coder.n_features_in_, coder.n_components_ = start, V.shape[1], 3
    W = coder.transform(V)
    given = da.from_array(V, chunks=(20, -1)) if kind == "Dask" else V
    ours = NMF(3, **parameters).fit(given, H=start)
    right = NMF(3, **parameters).fit(
        given, H=start, W=W if solver != "mu" else np.maximum(W, 1e-4 * W.max(1)[:, None])
    )
    np.testing.assert_allclose(ours.components_, right.components_, rtol=1e-6)
    assert ours.dead_components_.size == 0


def test_a_run_from_H_alone_goes_on(tmp_path):
    given = da.from_array(X, chunks=(20, -1))
    for passes in (2, 4):
        model = NMF(3, init="custom", max_iter=passes, tol=0).fit(given, H=H, checkpoint=tmp_path / "run")
    assert open_run(tmp_path / "run").n_iter == 4
    right = NMF(3, init="custom", max_iter=4, tol=0).fit(given, H=H)
    np.testing.assert_array_equal(model.components_, right.components_)


def test_missing_values_and_stacks():
    holes = X.copy()
    holes[RNG.random(X.shape) < 0.1] = np.nan
    model = NMF(3, init="custom", missing_values="nan", max_iter=3).fit(holes, H=H)
    assert np.isfinite(model.components_).all()
    stack = scene(dtype="float32").chunk(y=20, x=20)
    spectra = StackNMF(3, max_iter=2, random_state=0).fit(stack).endmember
    again = StackNMF(3, init="custom", max_iter=2).fit(stack, H=spectra)
    assert (
        again.model_.history_[-1].loss
        <= StackNMF(3, max_iter=2, random_state=0).fit(stack).model_.history_[-1].loss
    )
