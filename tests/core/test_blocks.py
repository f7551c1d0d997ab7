"""Products of tiles, against plain NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from dasknmf.core.blocks import PanelSpec, block_of, ratios
from dasknmf.core.losses import Loss
from tests.helpers import BETAS

LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "part of wider rows": lambda V: np.hstack([V, V])[:, : V.shape[1]],
    "every second column": lambda V: np.repeat(V, 2, axis=1)[:, ::2],
}


def tile_of(V, dtype):
    (tile,) = block_of([V], PanelSpec(len(V), 0, V.shape[1], np.dtype(dtype), checked=True)).tiles()
    return tile


@pytest.mark.parametrize("beta", [beta for beta in BETAS if beta != 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_ratios_and_their_loss(beta, layout, dtype, precision):
    rng = np.random.default_rng(0)
    V = rng.gamma(0.3, size=(37, 53)).astype(dtype) + dtype(1e-3)
    if beta > 0:
        V[rng.random(V.shape) < 0.3] = 0
    V = LAYOUTS[layout](V)
    W, H = rng.random((37, 4)).astype(dtype), rng.random((4, 53)).astype(dtype)
    eps = 0.5 if beta < 1 else 1e-7  # a floor that is met
    ratio = tile_of(V, dtype).ratio(W, H, beta, eps)

    V64, P = V.astype(np.float64), W.astype(np.float64) @ H
    floored = np.maximum(P, eps) if beta < 2 else P
    Q, R = V64 * floored ** (beta - 2), floored ** (beta - 1)
    A, B = np.zeros(H.shape), np.zeros(H.shape)
    ratio.add_numerator(W, A)
    np.testing.assert_allclose(A, W.T @ Q, rtol=10 * precision)
    np.testing.assert_allclose(ratio.numerator_rows(H.T), Q @ H.T, rtol=10 * precision)
    if beta != 1:
        ratio.add_denominator(W, B)
        np.testing.assert_allclose(B, W.T @ R, rtol=10 * precision)
        np.testing.assert_allclose(ratio.denominator_rows(H.T), R @ H.T, rtol=10 * precision)
    constant = (V64**beta).sum() / (beta * (beta - 1)) if beta not in (0, 1) else 0.0
    expected = Loss(beta).rows(V64, P, eps).sum()
    assert ratio.loss() + constant == pytest.approx(expected, rel=10 * precision)


@pytest.mark.parametrize("beta", [beta for beta in BETAS if beta != 2])
@pytest.mark.parametrize("where", [np.nan, np.inf])
def test_what_left_its_range_is_not_hidden(beta, where):
    W, H = np.ones((5, 2)), np.ones((2, 7))
    W[3, 1] = where
    with np.errstate(invalid="ignore"):
        ratio = tile_of(np.ones((5, 7)), np.float64).ratio(W, H, beta, 1e-9)
        A = np.zeros((2, 7))
        ratio.add_numerator(W, A)
    assert not np.isfinite(ratio.loss()) or (np.isinf(where) and beta < 0)  # P^β of infinity is 0
    assert not np.isfinite(A).all() or (np.isinf(where) and beta < 1)


@pytest.mark.parametrize("lost", [np.inf, np.nan])
def test_a_quotient_out_of_range_is_not_hidden(lost):
    one = np.ones(40)
    q = one.copy()
    q[17] = lost
    assert not np.isfinite(ratios.kullback_leibler_loss(one, one, q))
    assert not np.isfinite(ratios.itakura_saito_loss(one, q))


def test_logarithm():
    x = np.concatenate(
        [2.0 ** np.arange(-1020, 1020), np.random.default_rng(0).gamma(0.5, size=20000), [1.0]]
    )
    ours = np.array([ratios.log(value) for value in x])
    np.testing.assert_allclose(ours, np.log(x), rtol=5e-16)
    # A term v log(v / p) with v = 0 multiplies it by zero.
    assert np.isfinite(ratios.log(0.0))


def test_squares_of_small_entries_do_not_overflow():
    V = np.full((3, 4), 1e-30, np.float32)
    W, H = np.full((3, 1), 1e-15, np.float32), np.full((1, 4), 1e-15, np.float32)
    ratio = tile_of(V, np.float32).ratio(W, H, 0.0, 1e-37)
    np.testing.assert_allclose(ratio.numerator_rows(np.ones((4, 1), np.float32)), 4e30, rtol=1e-5)
