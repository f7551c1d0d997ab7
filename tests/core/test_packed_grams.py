"""A Gram matrix of its own for every row: against plain loops, SciPy, and the shared case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as theirs

from dasknmf.core.solvers import cd, mu, nnls
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.packed_grams import Packed, add_to_diagonals, packed, packed_products, unpacked
from dasknmf.core.solvers.table import SOLVERS
from tests.helpers import QUADRATIC

SHAPES = [(1, 1), (2, 200), (3, 63), (4, 64), (5, 65), (8, 130), (13, 70), (24, 40)]
"""(k, n): sums with and without a remainder, one row, and lanes that are full, nearly, and just not."""


@dataclass
class Masked:
    """Rows V with weights M (0: not observed), what they give with H, and a start."""

    V: np.ndarray
    M: np.ndarray
    H: np.ndarray
    W: np.ndarray

    @property
    def N(self) -> np.ndarray:
        return (self.M * self.V) @ self.H.T

    @property
    def lines(self) -> np.ndarray:
        return self.M @ packed_products(self.H.T)


def masked(k: int, n: int, m: int = 30, seed: int = 0) -> Masked:
    """With rows of which nothing, or less than k, was observed, and where k > 2 a component of zeros."""
    rng = np.random.default_rng((seed, k, n))
    H = rng.random((k, m)) * (rng.random((k, m)) < 0.7)
    V = rng.random((n, k)) * (rng.random((n, k)) < 0.5) @ H + 0.3 * rng.random((n, m))
    M = np.where(rng.random((n, m)) < 0.7, rng.choice([1.0, 1.0, 0.25], (n, m)), 0.0)
    M[1::7] = 0
    M[2::7, k // 2 :] = 0
    if k > 2:
        H[1] = 0
    W = rng.random((n, k)) * (rng.random((n, k)) < 0.7)
    W[3::5] = 0
    return Masked(V, M, H, W)


def descended(w, n, S, l1, order, count, delta):
    """One row by coordinate descent, and its violation."""
    w = w.copy()
    violation = first = 0.0
    for step in range(count):
        before = w.copy()
        for t in order:
            if S[t, t] == 0:
                continue
            slope = S[t] @ w - n[t] + l1
            if step == 0:
                violation += abs(min(slope, 0.0) if w[t] == 0 else slope)
            w[t] = max(0.0, w[t] - slope / S[t, t])
        moved = ((w - before) ** 2).sum()
        first = moved if step == 0 else first
        if moved == 0 or moved < delta**2 * first:
            break
    return w, violation


def multiplied(w, n, S, l1, count, eps):
    """One row by multiplicative updates."""
    for _ in range(count):
        b = S @ w + l1
        w = w * n / np.where(b == 0, eps, b)
    return w


def test_lines_and_matrices():
    F = np.random.default_rng(0).random((9, 5)).astype(np.float32)
    lines = packed_products(F)
    upper = np.triu_indices(5)
    assert lines.dtype == np.float32
    assert np.array_equal(lines, F[:, upper[0]] * F[:, upper[1]])
    assert np.array_equal(unpacked(lines), F[:, :, None] * F[:, None, :])
    assert np.array_equal(packed(unpacked(lines)), lines)
    assert np.array_equal(packed(unpacked(lines[3])), lines[3])
    assert Packed(lines).k == 5
    ridged = lines.copy()
    add_to_diagonals(ridged, 0.5)
    assert np.array_equal(unpacked(ridged), unpacked(lines) + np.float32(0.5) * np.eye(5, dtype=np.float32))


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-4), (np.float64, 1e-10)])
@pytest.mark.parametrize("l1", [0.0, 0.2])
def test_coordinate_descent_row_by_row(k, n, dtype, rtol, l1):
    case = masked(k, n)
    order = np.random.default_rng(k).permutation(k)
    W = case.W.astype(dtype)
    lines, N = case.lines.astype(dtype), case.N.astype(dtype)
    # Whether a last sweep happens may hang on rounding: the δ rule is compared in float64 alone.
    delta = 0.1 if dtype == np.float64 else 0.0
    violation = cd.move(W, N, Packed(lines), Steps(l1, order, 4, delta))
    rows = [
        descended(*row, l1, order, 4, delta)
        for row in zip(
            case.W.astype(dtype).astype(float), N.astype(float), unpacked(lines).astype(float), strict=True
        )
    ]
    np.testing.assert_allclose(W, [w for w, _ in rows], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(violation, sum(met for _, met in rows), rtol=rtol)
    assert np.array_equal(W[1::7], case.W[1::7].astype(dtype))  # nothing observed: as it was


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-4), (np.float64, 1e-10)])
def test_multiplicative_updates_row_by_row(k, n, dtype, rtol):
    case = masked(k, n)
    W = case.W.astype(dtype)
    lines, N = case.lines.astype(dtype), case.N.astype(dtype)
    mu.move(W, N, Packed(lines), Steps(0.1, np.arange(W.shape[1]), 3, 0.0, 1e-7))
    rows = [
        multiplied(*row, 0.1, 3, 1e-7)
        for row in zip(
            case.W.astype(dtype).astype(float), N.astype(float), unpacked(lines).astype(float), strict=True
        )
    ]
    np.testing.assert_allclose(W, rows, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize("start", ["cold", "warm"])
def test_no_row_is_worse_than_scipys(k, n, start):
    case = masked(k, n)
    W = np.zeros((n, k)) if start == "cold" else case.W.copy()
    nnls.solve(W, case.N, Packed(case.lines), 0.0)
    assert (W >= 0).all()
    roots = np.sqrt(case.M)
    for w, v, root in zip(W, case.V, roots, strict=True):
        ours = np.linalg.norm(root * (v - w @ case.H))
        assert ours <= theirs((root * case.H).T, root * v)[1] + 1e-9 * np.linalg.norm(v)


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.1), (0.2, 0.0), (0.1, 0.1)])
def test_solutions_meet_the_optimality_conditions(k, n, l1, l2):
    case = masked(k, n)
    lines = case.lines
    add_to_diagonals(lines, l2)
    W = case.W.copy()
    nnls.solve(W, case.N, Packed(lines), l1)
    y = np.einsum("itr,ir->it", unpacked(lines), W) - case.N + l1
    scale = 1 + np.abs(case.N).max()
    assert (W >= 0).all()
    assert y.min() >= -1e-10 * scale
    assert np.abs(y[W > 0]).max(initial=0.0) <= 1e-10 * scale


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [8, 24])
def test_singular_matrices_and_l1_have_minima_too(k, own):
    # No set of entries solves its equations for sure: the pivots alone went round, and off to 1e29.
    rng = np.random.default_rng(k)
    H = rng.random((k, k // 2)) * (rng.random((k, k // 2)) < 0.7)
    S, N = H @ H.T, rng.random((200, k // 2)) @ H.T
    W = rng.random((200, k)) * (rng.random((200, k)) < 0.7)
    nnls.solve(W, N, Packed(np.repeat(packed(S)[None], 200, axis=0)) if own else S, 0.05)
    y = W @ S - N + 0.05
    assert (W >= 0).all()
    assert y.min() >= -1e-10
    assert np.abs(W * y).max() <= 1e-10


@pytest.mark.parametrize("k", [3, 8])
def test_float32_solutions_are_near_the_exact_ones(k):
    case = masked(k, 100)
    exact = np.zeros((100, k))
    nnls.solve(exact, case.N, Packed(case.lines), 0.0)
    W = np.zeros((100, k), np.float32)
    nnls.solve(W, case.N.astype(np.float32), Packed(case.lines.astype(np.float32)), 0.0)
    roots = np.sqrt(case.M)
    ours, best = (np.linalg.norm(roots * (case.V - w @ case.H), axis=1) for w in (W, exact))
    assert (ours <= best + 1e-3 * np.linalg.norm(case.V, axis=1)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 4, 7, 24])
def test_one_matrix_for_all_rows_is_the_shared_case(k, dtype):
    case = masked(k, 100)
    S, N = case.H @ case.H.T, (case.V @ case.H.T).astype(dtype)
    lines = np.repeat(packed(S)[None], 100, axis=0)
    order = np.arange(k)

    def both(solve):
        shared, own = case.W.astype(dtype), case.W.astype(dtype)
        return shared, own, solve(shared, S), solve(own, Packed(lines))

    def narrow(gram):
        return Packed(gram.lines.astype(dtype)) if isinstance(gram, Packed) else gram.astype(dtype)

    shared, own, *met = both(lambda W, gram: cd.move(W, N, narrow(gram), Steps(0.1, order, 3, 0.01)))
    np.testing.assert_array_equal(own, shared)
    np.testing.assert_allclose(*met, rtol=1e-12)
    shared, own, *_ = both(lambda W, gram: mu.move(W, N, narrow(gram), Steps(0.1, order, 3, 0.01, 1e-7)))
    np.testing.assert_array_equal(own, shared)
    shared, own, *_ = both(lambda W, gram: nnls.solve(W, N, gram, 0.1))
    # The scaling to a unit diagonal is rounded elsewhere.
    np.testing.assert_allclose(own, shared, rtol=1e-6 if dtype == np.float32 else 1e-9, atol=1e-12)


def stepped(solver, W, N, S):
    """Update W in place, by a solver of the table."""
    SOLVERS[solver].step(W, N, S, Steps(0.1, np.arange(W.shape[1]), 3, 0.1, 1e-7))


@pytest.mark.parametrize("solver", QUADRATIC)
@given(k=st.integers(1, 9), n=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_neighbours_and_memory_order_change_no_bit_of_a_row(solver, k, n, seed):
    case = masked(k, n, seed=seed)
    some = np.random.default_rng(seed).permutation(n)[: n // 2 + 1]
    W, part, turned = case.W.copy(), case.W[some], case.W.copy()
    stepped(solver, W, case.N, Packed(case.lines))
    stepped(solver, part, case.N[some], Packed(np.ascontiguousarray(case.lines[some])))
    stepped(solver, turned, case.N, Packed(np.asfortranarray(case.lines)))
    np.testing.assert_array_equal(part, W[some])
    np.testing.assert_array_equal(turned, W)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_matrix_out_of_range_spoils_its_row_alone(value):
    case = masked(4, 70)
    lines = case.lines
    expected, W = case.W.copy(), case.W.copy()
    nnls.solve(expected, case.N, Packed(lines), 0.0)
    lines[[5, 69], 2] = value
    nnls.solve(W, case.N, Packed(lines), 0.0)
    assert np.isnan(W[[5, 69]]).all()
    rest = np.delete(np.arange(70), [5, 69])
    np.testing.assert_array_equal(W[rest], expected[rest])


def test_no_rows():
    for solver in QUADRATIC:
        W = np.zeros((0, 3))
        stepped(solver, W, W.copy(), Packed(np.zeros((0, 6))))
        assert W.shape == (0, 3)


def test_scratch_of_own_matrices_is_counted():
    assert nnls.scratch_bytes(8, packed=True) - nnls.scratch_bytes(8) >= 8 * 64 * 9 * 9
