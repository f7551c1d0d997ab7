"""W of new rows for a given H, in one read of X.

Every row is solved by itself, so W does not depend on the chunks of X.
"""

from __future__ import annotations

import uuid
import warnings
from operator import methodcaller
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import List, Task, TaskRef

from dasknmf import data
from dasknmf.core.blocks.matrix import Matrix as Rows
from dasknmf.core.solvers.coder import Coder, check_values
from dasknmf.data.source import Chunks
from dasknmf.fitting.problem import Factor

_OFF = 0.1
"""The largest difference from one, of the mean sum of a row of W, that gives no warning."""


def by_rows(coder: Coder, X: data.Matrix, method: str) -> Factor:
    """The result of a method of the coder for the rows of X; lazy where X is chunked."""
    steps: list[data.Preparation] = []
    base = X
    while isinstance(base, data.Prepared):
        steps.insert(0, base.preparation)
        base = base.X
    if not data.is_chunked(X):
        return _result(coder, _prepared(base, steps), method)
    if not isinstance(base, da.Array):
        return _by_panels(coder, X, method)
    columns = {} if method == "score_samples" else {"k": len(coder.H)}
    dtype = coder.H.dtype if columns else np.dtype(np.float64)
    return da.blockwise(
        _code,
        "ik" if columns else "i",
        base,
        "ij",
        dask.delayed(coder, traverse=False),  # one task of the graph, not an argument of every task
        None,
        steps=steps,
        method=method,
        new_axes=columns,
        concatenate=False,  # Dask cannot concatenate some sparse chunks
        dtype=dtype,
        meta=np.empty((0,) * (1 + bool(columns)), dtype),
    )


def _by_panels(coder: Coder, X: data.Matrix, method: str) -> da.Array:
    """The lazy result, with a task for each panel, which reads the slabs of the panel."""
    source = data.source_of(X)
    grid = data.grid_of(source)
    token = uuid.uuid4().hex
    name, load = f"transform-{token}", f"reader-{token}"
    shared = dask.delayed(coder, traverse=False)
    graph: dict[Any, Any] = dict(source.upstream())
    # Every computation of the graph reads X anew.
    graph[load] = Task(load, methodcaller("renewed"), source.for_tasks())
    columns = method != "score_samples"
    for panel in grid:
        key = (name, panel.index, 0) if columns else (name, panel.index)
        chunks = List(*(List(*map(TaskRef, row)) for row in source.chunk_keys(panel)))
        inputs = (TaskRef(load), panel.start, panel.stop, chunks, TaskRef(shared.key))
        graph[key] = Task(key, _code_panel, *inputs, method=method)
    rows = tuple(panel.n_rows for panel in grid)
    dtype = coder.H.dtype if columns else np.dtype(np.float64)
    return da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[shared]),
        name,
        chunks=(rows, (len(coder.H),)) if columns else (rows,),
        dtype=dtype,
        meta=np.empty((0,) * (1 + columns), dtype),
    )


def _prepared(X: Rows, steps: list[data.Preparation]) -> Rows:
    for prepare in steps:
        X = prepare(X)
    return X


def _code_panel(
    reader: data.Source, start: int, stop: int, chunks: Chunks, coder: Coder, *, method: str
) -> np.ndarray:
    return np.concatenate([_coded(slab, coder, method) for slab in reader.slabs(start, stop, chunks)])


def _code(chunks: list[Any], coder: Coder, *, steps: list[data.Preparation], method: str) -> np.ndarray:
    """The result of a chunk, or of several chunks side by side."""
    return _coded(_prepared(data.side_by_side(chunks), steps), coder, method)


def _coded(X: Rows, coder: Coder, method: str) -> np.ndarray:
    """The result of some rows, after a check of their values."""
    if coder.entries is None:  # otherwise tiles mask values, and `Coder` checks the others
        check_values(X if isinstance(X, np.ndarray) else X.data)
    return _result(coder, X, method)


def _result(coder: Coder, X: Rows, method: str) -> np.ndarray:
    """The result of a method of the coder, with a warning if sums of rows of W are far from one."""
    found = np.asarray(getattr(coder, method)(X))
    if coder.sum_to_one_weight and method != "score_samples":
        total = float(found.sum(dtype=np.float64, where=found > 0))
        message = sums_warning(total, int((found > 0).any(axis=1).sum()))
        if message:
            warnings.warn(message, UserWarning, stacklevel=2)
    return found


def sums_warning(total: float, n_rows: float) -> str | None:
    """The warning if the mean sum of a row of W, total / n_rows, is far from one; None otherwise."""
    if not n_rows or abs(total / n_rows - 1) <= _OFF:
        return None
    return (
        f"rows of W sum to {total / n_rows:.3g} on average, and sum_to_one makes them 1 where X and H have "
        "the same units: check the scale and the offset of X and of fixed components (counts of a sensor or "
        "reflectances?)."
    )
