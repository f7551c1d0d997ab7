"""Helpers of several test modules."""

from __future__ import annotations

import ast
import gc
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import scipy.sparse
import zarr
from distributed import Client
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from zarr.storage import LocalStore

from dasknmf import NMF
from dasknmf.core.losses import Loss
from dasknmf.core.solvers.table import SOLVERS

BETAS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)

ALGORITHMS = [(name, beta) for name, solver in SOLVERS.items() for beta in BETAS if solver.takes(Loss(beta))]
"""Solvers and losses: a new solver is one more row of the package's own table."""
QUADRATIC = [name for name, solver in SOLVERS.items() if solver.takes(Loss(2.0))]
"""Solvers of the Frobenius loss."""
SCIKIT_LEARNS = [(name, beta) for name, beta in ALGORITHMS if SOLVERS[name].stop_rule is not None]

PENALTIES = [
    {},
    {"alpha_W": 0.02, "alpha_H": 0.01, "l1_ratio": 1.0},
    {"alpha_W": 0.02, "alpha_H": 0.05, "l1_ratio": 0.0},
    {"alpha_W": 0.03, "alpha_H": "same", "l1_ratio": 0.4},
]


def fitted(X: Any, scheduler: Any = None, run: dict[str, Any] | None = None, **parameters: Any):
    """A model and its W as NumPy, without the warning that it has not converged."""
    model = NMF(**({"random_state": 0, "max_iter": 8} | parameters))
    with warnings.catch_warnings(), computing(scheduler or "threads"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="components .* are zero throughout")
        W = model.fit_transform(X, **(run or {}))
        return model, np.asarray(W)


@contextmanager
def computing(scheduler: Any) -> Iterator[None]:
    """Make a scheduler's name, or a Client, the one that Dask uses."""
    if not isinstance(scheduler, Client):
        with dask.config.set(scheduler=scheduler):
            yield
        return
    # Never the Client itself in the config: a nanny hands the config to the workers that it restarts.
    with scheduler.as_current(), dask.config.set(scheduler="dask.distributed"):
        yield


def stored(path: Any, X: np.ndarray, chunks: tuple[int, int], **options: Any) -> zarr.Array:
    array = zarr.create_array(path, shape=X.shape, chunks=chunks, dtype=X.dtype, **options)
    array[...] = X
    return array


def stored_sparse(path: Any, X: Any, format: str = "csr", chunk: int = 50) -> zarr.Group:
    """A group as anndata writes sparse matrices, in chunks of so many nonzeros."""
    matrix = scipy.sparse.csr_array(X).asformat(format)
    group = zarr.create_group(path)
    group.attrs.update({"encoding-type": f"{format}_matrix", "encoding-version": "0.1.0", "shape": X.shape})
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        group.create_array(name, shape=values.shape, chunks=(chunk,), dtype=values.dtype)[...] = values
    return group


def examples(share: float) -> settings:
    """A share of the examples that other laws take: for slow ones, whose space is small."""
    return settings(max_examples=round(share * settings.default.max_examples))


@st.composite
def cuts(draw: st.DrawFn, length: int, most: int = 6) -> tuple[int, ...]:
    """Chunk lengths that add up to `length`."""
    edges = draw(st.lists(st.integers(1, max(1, length - 1)), max_size=most, unique=True))
    edges = sorted({0, length, *edges})
    return tuple(b - a for a, b in itertools.pairwise(edges))


@st.composite
def matrices(draw: st.DrawFn, *, positive: bool = True) -> np.ndarray:
    """A noisy low-rank matrix; without zeros, or with some."""
    n = draw(st.integers(3, 40))
    m = draw(st.integers(3, 20))
    rank = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    X = rng.random((n, rank)) @ rng.random((rank, m)) + 0.2 * rng.random((n, m)) + 0.01
    if not positive:
        X[rng.random((n, m)) < 0.2] = 0
    return X


class Killed(BaseException):
    """The process that a test pretends to kill."""


class DyingStore(LocalStore):
    """A directory that dies at its n-th write: nothing is written from then on."""

    def __init__(self, root: Any, *, after: int | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.writes = 0
        self.after = after
        self.keys: list[str] = []

    async def set(self, key: str, value: Any) -> None:
        if self.after is not None and self.writes >= self.after:
            raise Killed(key)
        self.writes += 1
        self.keys.append(key)
        await super().set(key, value)


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file.

    Python 3.11 fails ("recursion depth mismatch") where its collector finalizes garbage in between.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()
