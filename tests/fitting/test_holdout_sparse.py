"""Sparse X with a hidden block and with weights, against dense X with the block missing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from dasknmf.core.blocks.entries import Holdout
from dasknmf.core.solvers.grams import ByGroup, ByRow
from dasknmf.core.solvers.packed_grams import packed
from tests.core.loops import divergence
from tests.helpers import fitted

N, M, K = 60, 16, 3
LOSSES = [("cd", 2.0), ("bpp", 2.0), ("mu", 2.0), ("mu", 1.5), ("mu", 1.0), ("mu", 0.5), ("mu", 3.0)]


@pytest.fixture
def counts():
    rng = np.random.default_rng(3)
    return rng.poisson(2 * rng.gamma(0.5, size=(N, K)) @ rng.gamma(0.5, size=(K, M))).astype(float)


def block_of(seed, share=0.2):
    """Which entries of the whole are hidden."""
    holdout = Holdout(share, seed, M)
    return np.outer(holdout.hidden_rows(0, N), holdout.hidden_columns(M))


def parts(weighted):
    rng = np.random.default_rng(4)
    return (rng.random(N) + 0.5, rng.random(M) + 0.5) if weighted else (np.ones(N), np.ones(M))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 0.01, "alpha_H": 0.02, "l1_ratio": 0.4}])
@pytest.mark.parametrize(("solver", "beta"), LOSSES)
def test_a_hidden_block_is_missing(counts, solver, beta, penalty, weighted):
    rng = np.random.default_rng(5)
    start = {"W": rng.random((N, K)) + 0.1, "H": rng.random((K, M)) + 0.1}
    a, b = parts(weighted)
    given = {"sample_weight": a, "feature_weight": b} if weighted else {}
    parameters = {"n_components": K, "init": "custom", "solver": solver, "beta_loss": beta, "max_iter": 4}
    parameters |= {"tol": 0, "random_state": 6, "inner_iter": 2} | penalty
    mask = block_of(6)
    assert 0 < mask.sum() < mask.size
    ours, W = fitted(scipy.sparse.csr_array(counts), run=start | given | {"holdout": 0.2}, **parameters)
    missing = np.where(mask, np.nan, counts)
    dense, W_dense = fitted(missing, run=start | given, missing_values="nan", **parameters)
    np.testing.assert_allclose(W, W_dense, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.components_, dense.components_, rtol=1e-6, atol=1e-9)
    # Floored as the losses floor it: a block may hold what nothing outside tells of.
    P = np.maximum(W @ ours.components_, np.finfo(np.float32).eps * counts[~mask].mean())
    told = ours.history_[-1]
    assert told.phase == "evaluation"
    for entries, found in ((mask, told.measures["holdout"]), (~mask, told.loss)):
        expected = sum(
            a[i] * b[j] * _divergence(counts[i, j], P[i, j], beta)
            for i, j in zip(*np.nonzero(entries), strict=True)
        )
        assert found == pytest.approx(expected, rel=1e-5)
    assert told.measures["hidden"] == mask.sum()


def _divergence(v, p, beta):
    return p if beta == 1 and v == 0 else divergence(v, p, beta)


@pytest.mark.parametrize("init", ["random", "sample", "nndsvda"])
@pytest.mark.parametrize(("solver", "beta"), LOSSES)
def test_every_start_takes_a_hidden_block(counts, solver, beta, init):
    parameters = {"n_components": K, "init": init, "solver": solver, "beta_loss": beta, "random_state": 6}
    run = {"holdout": 0.2}
    one, W_one = fitted(scipy.sparse.csr_array(counts), run=run, max_iter=8, **parameters)
    changed = np.where(block_of(6), counts + 5, counts)
    two, W_two = fitted(scipy.sparse.csr_array(changed), run=run, max_iter=8, **parameters)
    np.testing.assert_allclose(W_two, W_one, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(two.components_, one.components_, rtol=1e-7, atol=1e-10)
    assert two.history_[-1].measures["holdout"] > one.history_[-1].measures["holdout"]
    objective = np.array([r.objective for r in one.history_ if r.objective is not None])
    assert (np.diff(objective) <= 1e-9 * np.abs(objective[:-1]) + 1e-9).all()


def test_what_a_hidden_block_asks_of_every_tile_does_not_grow_with_the_features():
    rng = np.random.default_rng(1)
    H, b, hidden = rng.random((4, 500)), rng.random(500), rng.random(500) < 0.2
    grams = ByGroup(hidden)
    assert grams.of_H(H, b, 0.5, 2.0).shape == (2, 10)
    F = rng.random((2, 4, 30))
    G = packed(F @ F.transpose(0, 2, 1))
    lines = np.where(hidden[:, None], G[1], G[0])
    assert grams.product(G, H, b) == pytest.approx(ByRow().product(lines, H, b), rel=1e-12)
