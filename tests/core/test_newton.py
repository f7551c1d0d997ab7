"""Newton's steps for the Kullback-Leibler divergence: the bound that lets them do without a line search."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasknmf import NMF
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties, Penalty
from dasknmf.core.solvers import columns, mu, newton
from dasknmf.core.solvers.inner_steps import Inner
from dasknmf.core.solvers.packed_grams import packed_products
from dasknmf.core.state import FactorState
from dasknmf.errors import NumericalError
from tests.helpers import fitted

KAPPA = (np.log(3) - 2 / 3) / (2 / 3) ** 2


def divergence(V, P):
    ratio = np.divide(V, P, out=np.ones_like(V), where=V > 0)
    return (V * np.log(ratio) - V + P).sum(axis=0)


def drawn(seed, n, m, k, zeros):
    """V, W and H of a wide range, with zeros in V and in H."""
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.3, size=(n, k)) + 1e-3
    H = rng.gamma(0.3, size=(k, m)) + 1e-3
    V = rng.poisson(10 ** rng.uniform(-1, 2) * rng.gamma(0.3, size=(n, m))).astype(float)
    H[rng.random(H.shape) < zeros] = 0
    H[0] = np.maximum(H[0], 1e-3)
    return V, W, H


def tallies(V, W, H):
    P = W @ H
    return W.T @ (V / P), W.sum(axis=0), (V / P**2).T @ packed_products(W)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 5)),
    zeros=st.sampled_from([0.0, 0.4]),
    penalty=st.sampled_from([Penalty(), Penalty(0.3, 0.0), Penalty(0.1, 0.5)]),
)
@settings(max_examples=300, deadline=None)
def test_no_column_rises_and_falls_by_what_the_bound_says(seed, shape, zeros, penalty):
    n, m, k = shape
    V, W, H = drawn(seed, n, m, k, zeros)
    A, sums, T = tallies(V, W, H)
    there = newton.step(H.T.copy(), A.T.copy(), sums, T, penalty, slice(0, k), 1e-12).T

    def objective(F):
        return divergence(V, W @ F) + penalty.l1 * F.sum(axis=0) + penalty.l2 / 2 * (F**2).sum(axis=0)

    before, after = objective(H), objective(there)
    slack = 1e-9 * (1 + np.abs(before))
    assert (after <= before + slack).all()
    d = there - H
    curved = (V / (W @ H) ** 2 * (W @ d) ** 2).sum(axis=0)
    multiplied = mu.step(H.T, A.T, sums, mu.Objective(Loss(1.0), penalty), 1e-12).T
    second_order = (there != multiplied).any(axis=0)
    assert (after <= before - (1 - KAPPA) * curved + slack)[second_order].all()
    assert (d >= -2 / 3 * H - 1e-12)[:, second_order].all()


def test_the_whole_step_is_near_newtons_at_the_minimum():
    """Close to the minimum the error is squared."""
    rng = np.random.default_rng(0)
    W, H = rng.random((50, 3)) + 0.1, rng.random((3, 4)) + 0.1
    V = W @ H
    off = H * (1 + 1e-3 * rng.standard_normal(H.shape))
    A, sums, T = tallies(V, W, off)
    there = newton.step(off.T.copy(), A.T.copy(), sums, T, Penalty(), slice(0, 3), 1e-12).T
    assert np.abs(there - H).max() < 5e-3 * np.abs(off - H).max()


def test_an_entry_leaves_zero():
    rng = np.random.default_rng(1)
    W, H = rng.random((40, 2)) + 0.1, np.array([[1.0, 2.0], [3.0, 1.0]])
    start = H.copy()
    start[0, 0] = 0
    A, sums, T = tallies(W @ H, W, start)
    there = newton.step(start.T.copy(), A.T.copy(), sums, T, Penalty(), slice(0, 2), 1e-12).T
    assert there[0, 0] > 0.3


@pytest.mark.parametrize("sparse", [False, True])
def test_blocks_of_components_take_turns_where_memory_is_short(monkeypatch, sparse):
    """With a bound on T for two of five components, three passes make one turn, and nothing rises."""
    rng = np.random.default_rng(2)
    V = rng.poisson(3 * rng.gamma(0.5, size=(120, 5)) @ rng.gamma(0.5, size=(5, 20))).astype(float)
    monkeypatch.setattr(newton, "_MOST_BYTES", 20 * 3 * 8)
    phase = newton.NewtonPass(5, 20, V.dtype, Loss(1.0), Inner(1, 1), Penalties())
    assert phase.block_size == 2
    assert phase.tally()["T"].shape == (3, 20)
    blocks = [phase._block(FactorState(H=np.ones((5, 20)), iteration=i)) for i in range(4)]
    assert blocks == [slice(0, 2), slice(2, 4), slice(3, 5), slice(0, 2)]
    X = scipy.sparse.csr_array(V) if sparse else V
    found = NMF(5, beta_loss=1, solver="newton", init="random", random_state=0, tol=0, max_iter=60).fit(X)
    losses = [record.objective for record in found.history_.exact]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(losses))
    monkeypatch.undo()
    whole = NMF(5, beta_loss=1, solver="newton", init="random", random_state=0, tol=0, max_iter=60).fit(X)
    assert found.reconstruction_err_ == pytest.approx(whole.reconstruction_err_, rel=0.02)


def test_far_fewer_passes_than_multiplicative_updates():
    rng = np.random.default_rng(3)
    V = rng.poisson(3 * rng.gamma(0.5, size=(200, 6)) @ rng.gamma(0.5, size=(6, 40))).astype(float)
    shared = {"n_components": 6, "beta_loss": 1, "init": "random", "tol": 0}
    slow, _ = fitted(V, solver="mu", max_iter=200, **shared)
    fast, _ = fitted(V, solver="newton", max_iter=40, **shared)
    target = 1.001 * slow.reconstruction_err_**2 / 2
    assert next(r.iteration for r in fast.history_.exact if r.loss <= target) <= 30


def test_numbers_out_of_range_are_refused_in_threads_too(monkeypatch):
    monkeypatch.setattr(columns, "_COLUMNS", 4)
    phase = newton.NewtonPass(2, 12, np.dtype("float64"), Loss(1.0), Inner(1, 1), Penalties())
    tally = phase.tally()
    tally["A"][0, 5] = np.inf
    state = FactorState(H=np.ones((2, 12)), eps=1e-12, tiny=1e-16)
    with pytest.raises(NumericalError):
        phase.update(tally, state)
