"""Exact nonnegative least squares: against SciPy, the KKT conditions, and other cuts of the rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls as theirs

from dasknmf.core.solvers import cd, mu, nnls
from dasknmf.core.solvers.inner_steps import Steps
from tests.helpers import cuts


def problem(kind: str, k: int = 7, n: int = 90, m: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """V and H whose exact coefficients are asked for."""
    rng = np.random.default_rng(seed)
    H = rng.random((k, m)) * (rng.random((k, m)) < 0.7)
    V = rng.random((n, k)) * (rng.random((n, k)) < 0.5) @ H + 0.3 * rng.random((n, m))
    if kind == "collinear":
        H[k // 2] = H[0]
        H[-1] = 3 * H[1]
    elif kind == "nearly collinear":
        H[k // 2] = H[0] + 1e-9 * rng.random(m)
        H[-1] = H[1] + 1e-5 * rng.random(m)
    elif kind == "deficient":
        H = rng.random((k, 3)) @ rng.random((3, m))
    elif kind == "degenerate":
        # Optima with multipliers of exactly zero: integers, and columns apart.
        H = np.zeros((k, m))
        H[np.arange(k), np.arange(k)] = 1
        V = np.round(3 * rng.random((n, m))) * (rng.random((n, m)) < 0.5)
    elif kind == "dead":
        H[2] = 0
        V[::3] = 0
    elif kind == "unequal":
        H *= 10.0 ** rng.integers(-6, 7, (k, 1))
    elif kind == "unfeasible":
        V -= V.mean()
    return V, H


KINDS = [
    "random",
    "collinear",
    "nearly collinear",
    "deficient",
    "degenerate",
    "dead",
    "unequal",
    "unfeasible",
]


def objective(W, N, S, l1):
    return (0.5 * ((W @ S) * W) - N * W + l1 * W).sum(axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["cold", "warm", "full"])
def test_no_row_is_worse_than_scipys(kind, start):
    V, H = problem(kind)
    rng = np.random.default_rng(1)
    W = {
        "cold": np.zeros((len(V), len(H))),
        "warm": rng.random((len(V), len(H))) * (rng.random((len(V), len(H))) < 0.5),
        "full": np.ones((len(V), len(H))),
    }[start]
    nnls.solve(W, V @ H.T, H @ H.T, 0.0)
    assert (W >= 0).all()
    ours = np.linalg.norm(V - W @ H, axis=1)
    best = np.array([theirs(H.T, v)[1] for v in V])
    assert (ours <= best + 1e-9 * np.linalg.norm(V, axis=1)).all()


@pytest.mark.parametrize("kind", ["random", "degenerate", "dead", "unequal", "unfeasible"])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_solutions_meet_the_optimality_conditions(kind, l1, l2):
    V, H = problem(kind)
    S = H @ H.T + l2 * np.eye(len(H))
    N = V @ H.T
    W = np.zeros((len(V), len(H)))
    nnls.solve(W, N, S, l1)
    unit = np.sqrt(np.where(S.diagonal() > 0, S.diagonal(), 1))
    slope = (W @ S - N + l1) / unit
    slack = 1e-10 * np.abs((N - l1) / unit).max(axis=1, keepdims=True)
    assert (slope >= -slack).all()
    assert (np.abs(slope) <= slack)[W > 0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_objective_rises(kind):
    V, H = problem(kind)
    S, N = H @ H.T, V @ H.T
    W = np.random.default_rng(2).random((len(V), len(H)))
    before = objective(W, N, S, 0.0)
    nnls.solve(W, N, S, 0.0)
    after = objective(W, N, S, 0.0)
    assert (after <= before + 1e-12 * (V**2).sum(axis=1)).all()


@given(
    rows=cuts(150),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([np.float32, np.float64]),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
    warm=st.sampled_from([0.0, 0.1, 0.6]),
    l1=st.sampled_from([0.0, 0.01]),
)
def test_a_row_does_not_depend_on_the_rows_updated_with_it(rows, kind, dtype, k, seed, warm, l1):
    V, H = problem(kind, k=max(k, 3), n=150, seed=seed)
    N = (V @ H.T).astype(dtype)
    S = H @ H.T
    rng = np.random.default_rng(seed)
    start = (rng.random(N.shape) * (rng.random(N.shape) < 0.3)).astype(dtype)
    start[rng.random(150) >= warm] = 0
    edges = np.cumsum([0, *rows])

    def moved(step, W):
        step(W, N)
        parts = start.copy()
        for a, b in itertools.pairwise(edges):
            step(parts[a:b], N[a:b])
        return W, parts

    order = np.arange(len(S))
    narrow = S.astype(dtype)
    for step in (
        lambda W, N: nnls.solve(W, N, S, l1),
        lambda W, N: cd.move(W, N, narrow, Steps(l1, order, 4, 0.1)),
        lambda W, N: mu.move(W, N, narrow, Steps(l1, order, 4, 0.1, 1e-9)),
    ):
        np.testing.assert_array_equal(*moved(step, start.copy()))


@pytest.mark.parametrize("scale", [1e-120, 1e-12, 1e12, 1e120])
@pytest.mark.parametrize("whose", ["V", "H"])
def test_scales_do_not_matter(scale, whose):
    V, H = problem("random")
    W = np.zeros((len(V), len(H)))
    nnls.solve(W, V @ H.T, H @ H.T, 0.0)
    V, H = (scale * V, H) if whose == "V" else (V, scale * H)
    other = np.zeros_like(W)
    nnls.solve(other, V @ H.T, H @ H.T, 0.0)
    np.testing.assert_allclose(other, W * scale if whose == "V" else W / scale, rtol=1e-9)


def test_what_nothing_depends_on_stays():
    V, H = problem("dead")
    W = np.full((len(V), len(H)), 0.5)
    nnls.solve(W, V @ H.T, H @ H.T, 0.0)
    assert (W[:, 2] == 0.5).all()
    nnls.solve(W, V @ H.T, H @ H.T, 0.1)
    assert (W[:, 2] == 0).all()


@pytest.mark.parametrize("where", ["N", "S"])
def test_what_left_its_range_is_not_hidden(where):
    V, H = problem("random")
    given = {"N": V @ H.T, "S": H @ H.T}
    given[where][1, 1] = np.inf
    W = np.zeros((len(V), len(H)))
    with np.errstate(all="ignore"):
        nnls.solve(W, given["N"], given["S"], 0.0)
    assert not np.isfinite(W[1]).all()


def test_many_components_and_few_rows():
    V, H = problem("random", k=60, n=5, m=200)
    W = np.zeros((5, 60), np.float32)
    nnls.solve(W, V @ H.T, H @ H.T, 0.0)
    best = np.array([theirs(H.T, v)[0] for v in V])
    np.testing.assert_allclose(W, best, rtol=1e-5, atol=1e-6)
    nothing = np.zeros((0, 60))
    nnls.solve(nothing, nothing, H @ H.T, 0.0)
