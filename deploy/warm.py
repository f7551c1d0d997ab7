"""Compile what fits need into numba's cache, so that a container starts with it: `python warm.py`.

A kernel is compiled for the types that it is called with: so these are real fits, over each kind of
storage, loss and solver, from Zarr as always. What none of them calls is compiled where it is first used.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import zarr

from dasknmf import NMF, Prepared, consensus, moments

_ROWS, _COLUMNS, _RANK = 240, 30, 4

_STEPS: list[dict[str, Any]] = [
    {},
    {"solver": "bpp"},
    {"solver": "mu"},
    {"init": "random", "alpha_W": 0.01, "l1_ratio": 0.5},
    {"beta_loss": "kullback-leibler", "solver": "mu"},
    {"beta_loss": "kullback-leibler", "solver": "newton"},
    {"beta_loss": "itakura-saito", "solver": "mu"},
    {"beta_loss": 1.5, "solver": "mu"},
]
"""A new solver or loss is one more row."""


def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    W, H = rng.gamma(0.5, size=(_ROWS, _RANK)), rng.gamma(0.5, size=(_RANK, _COLUMNS))
    return rng.poisson(3 * W @ H) + 1


def dense(directory: Path) -> Iterator[zarr.Array]:
    for dtype in ("float32", "float64", "uint16"):
        array = zarr.create_array(
            directory / f"{dtype}.zarr", shape=(_ROWS, _COLUMNS), chunks=(60, _COLUMNS), dtype=dtype
        )
        array[...] = counts()
        yield array


def sparse(directory: Path) -> Iterator[zarr.Group]:
    """Groups as anndata writes them."""
    few = np.where(np.random.default_rng(1).random((_ROWS, _COLUMNS)) < 0.3, counts(), 0)
    for format in ("csc", "csr"):
        for dtype in ("float32", "float64", "int64"):
            matrix = scipy.sparse.csr_array(few.astype(dtype)).asformat(format)
            group = zarr.create_group(directory / f"{format}-{dtype}.zarr")
            group.attrs.update(
                {"encoding-type": f"{format}_matrix", "encoding-version": "0.1.0", "shape": matrix.shape}
            )
            for name in ("data", "indices", "indptr"):
                values = getattr(matrix, name)
                group.create_array(name, shape=values.shape, chunks=(1000,), dtype=values.dtype)[...] = values
            yield group


def warm(directory: Path) -> None:
    run = directory / "run.zarr"

    def fit(V: Any, given: dict[str, Any], *, by_rows: bool = True, **how: Any) -> None:
        model = NMF(_RANK, max_iter=3, random_state=0, **given)
        model.fit(V, checkpoint=run, overwrite=True, **how)
        if by_rows:
            model.transform(V)

    for V in dense(directory):
        moments(V)
        for step in _STEPS:
            fit(V, step)
            fit(V, step, holdout=0.05)
            fit(V, {**step, "missing_values": "nan" if V.dtype.kind == "f" else 1})
    for V in sparse(directory):
        moments(V)
        by_rows = V.attrs["encoding-type"] == "csr_matrix"
        for step in _STEPS:
            if step.get("beta_loss") == "itakura-saito":
                continue  # takes no zeros
            fit(V, step, by_rows=by_rows)
            fit(V, step, by_rows=by_rows, holdout=0.05)
            if by_rows:
                fit(Prepared(V, target_sum=1e4, log1p=True), step)
    consensus(V, _RANK, n_init=4, max_iter=3, random_state=0)  # of the last, by rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # three passes do not converge
    with tempfile.TemporaryDirectory() as made:
        warm(Path(made))
