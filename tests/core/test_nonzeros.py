"""Loops over nonzeros: vector code against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from numba.core.errors import TypingError

from dasknmf.core.blocks import nonzeros
from dasknmf.core.blocks.simd import padded

LOOPS = {
    "products": (nonzeros.fast_products, nonzeros.scipy_products),
    "gather": (nonzeros.fast_gather, nonzeros.scipy_gather),
    "scatter": (nonzeros.fast_scatter, nonzeros.scipy_scatter),
}


def arguments(k, dtype):
    """A sparse matrix with an empty row, and factors in whole vectors."""
    rng = np.random.default_rng(k)
    V = rng.random((40, 30)) * (rng.random((40, 30)) < 0.3)
    V[7] = 0
    V = scipy.sparse.csr_array(V)
    F, G = rng.random((40, padded(k))).astype(dtype), rng.random((30, padded(k))).astype(dtype)
    return V.indptr.astype(np.int64), V.indices.astype(np.int32), V.data.astype(dtype), F, G


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("k", [1, 8, 9, 17, 25, 33, 70])
@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_vector_code_and_scipy_agree(loop, k, dtype, precision):
    fast, scipys = arguments(k, dtype), arguments(k, dtype)
    LOOPS[loop][0](*fast)
    LOOPS[loop][1](*scipys)
    for ours, theirs in zip(fast, scipys, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=precision)


def test_scipy_runs_where_vector_code_does_not_compile(caplog):
    def broken(*arrays):
        raise TypingError("no such instruction")

    loop = nonzeros.or_scipy(broken, nonzeros.scipy_gather)
    found, expected = arguments(5, np.float64), arguments(5, np.float64)
    loop(*found)
    loop(*found)
    for _ in range(2):
        nonzeros.scipy_gather(*expected)
    np.testing.assert_array_equal(found[3], expected[3])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
