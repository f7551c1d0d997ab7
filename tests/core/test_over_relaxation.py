"""Over-relaxation: no row rises, the identity of quadratics, other cuts of rows, and fewer passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasknmf import NMF
from dasknmf.core.solvers import cd, over_relaxation
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.packed_grams import Packed, packed
from dasknmf.core.solvers.table import SOLVERS


def objective(W: np.ndarray, N: np.ndarray, S: np.ndarray, l1: float) -> np.ndarray:
    """½ w S wᵀ − n wᵀ + l1 Σw of every row."""
    S = np.broadcast_to(S, (len(W), *S.shape[-2:]))
    return 0.5 * np.einsum("nt,ntr,nr->n", W, S, W) - np.einsum("nt,nt->n", N, W) + l1 * W.sum(axis=1)


def drawn(k: int, n: int, seed: int, *, by_row: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, N and S, the Gram matrix of all rows or of each."""
    rng = np.random.default_rng(seed)
    H = rng.random((n if by_row else 1, k, k + 3)) * (rng.random((n if by_row else 1, k, k + 3)) < 0.7)
    S = H @ H.swapaxes(1, 2)
    W = rng.random((n, k)) * (rng.random((n, k)) < 0.6)
    return W, rng.standard_normal((n, k)) * S.mean() * k, S if by_row else S[0]


@given(
    k=st.integers(1, 9),
    n=st.integers(1, 150),
    seed=st.integers(0, 2**31),
    omega=st.floats(1, 2),
    l1=st.sampled_from([0.0, 0.3]),
    by_row=st.booleans(),
    count=st.integers(1, 5),
)
def test_no_row_rises(k: int, n: int, seed: int, omega: float, l1: float, by_row: bool, count: int) -> None:
    before, N, S = drawn(k, n, seed, by_row=by_row)
    gram = Packed(packed(S)) if by_row else S
    W = before.copy()
    cd.move(W, N, gram, Steps(l1, np.arange(k), count))
    updated = W.copy()
    over_relaxation.extend(W, before, N, gram, l1, omega)

    assert (W >= 0).all()
    q = objective(before, N, S, l1)
    assert (objective(W, N, S, l1) <= q + 1e-9 * (1 + abs(q))).all()
    further = np.maximum(updated + (omega - 1) * (updated - before), 0)
    rose = objective(further, N, S, l1) > q + 1e-9 * (1 + abs(q))
    fell = objective(further, N, S, l1) < q - 1e-9 * (1 + abs(q))
    np.testing.assert_array_equal(W[rose], updated[rose])
    np.testing.assert_allclose(W[fell], further[fell], rtol=1e-12, atol=1e-15)


def test_between_the_minimum_and_the_objective_before_as_the_theory_says() -> None:
    rng = np.random.default_rng(0)
    S = np.eye(4) + 0.3
    minimum = 5 + rng.random((100, 4))
    before = minimum + 0.1 * rng.standard_normal((100, 4))
    N = minimum @ S
    W = minimum.copy()
    over_relaxation.extend(W, before, N, S, 0.0, 1.6)

    lowest = objective(minimum, N, S, 0.0)
    expected = 0.6**2 * (objective(before, N, S, 0.0) - lowest)
    np.testing.assert_allclose(objective(W, N, S, 0.0) - lowest, expected, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others() -> None:
    before, N, S = drawn(6, 130, 1, by_row=False)
    W = before.copy()
    cd.move(W, N, S, Steps(0.0, np.arange(6), 3))
    parts = W.copy()
    over_relaxation.extend(W, before, N, S, 0.0, 1.6)
    for rows in (slice(0, 1), slice(1, 70), slice(70, 130)):
        over_relaxation.extend(parts[rows], before[rows], N[rows], S, 0.0, 1.6)
    np.testing.assert_array_equal(parts, W)


@pytest.mark.parametrize("missing", ["error", "nan"])
def test_fewer_passes(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fit to spectra that overlap, where plain passes gain little each."""
    rng = np.random.default_rng(0)
    H = np.exp(-0.5 * ((np.arange(60) - np.linspace(10, 50, 5)[:, None]) / 8) ** 2)
    V = rng.dirichlet(np.full(5, 0.5), 300) @ H + 0.01 * rng.random((300, 60))
    if missing == "nan":
        V[rng.random(V.shape) < 0.2] = np.nan

    def objectives(omega: float) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setitem(SOLVERS, "cd", replace(SOLVERS["cd"], omega=omega))
            model = NMF(5, init="random", random_state=0, tol=0, max_iter=60, missing_values=missing).fit(V)
        return np.array([record.objective for record in model.history_ if record.phase == "exact"])

    plain, relaxed = objectives(1.0), objectives(cd.OMEGA)
    assert (np.diff(relaxed) <= 1e-9 * relaxed[1:]).all()
    assert relaxed[29] < plain[-1]
