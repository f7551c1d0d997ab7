"""One read of X by one phase, with rows of W given beside it or none."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import dask.array as da
import numpy as np
import zarr

from dasknmf import data
from dasknmf.core.blocks import csr, dense
from dasknmf.core.blocks import masked as masked_block
from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.phase import Outcome, Phase, State
from dasknmf.core.solvers import nnls
from dasknmf.core.starts import survey
from dasknmf.data.source import Source, slab_bytes_of
from dasknmf.data.weighted import WeightedSource
from dasknmf.engine import graph
from dasknmf.engine.memory import Projection
from dasknmf.engine.scheduler import Scheduler, current_scheduler
from dasknmf.fitting import validation
from dasknmf.store.factors import FactorVersion, MemoryFactors

DTYPE = np.dtype(np.float64)
"""Of the products: they are made once, and nothing later mends them."""


class GivenRows(MemoryFactors):
    """Rows of W that are given: in memory, or in a store that every worker reaches.

    Parameters
    ----------
    rows : ndarray or zarr.Array of shape (n_samples, n_components)
    grid : Grid
        Of the X beside which they stand.
    """

    def __init__(self, rows: np.ndarray | zarr.Array, grid: Grid) -> None:
        super().__init__()
        self._beside = rows
        self._edges = grid.edges

    def read_rows(self, generation: FactorVersion, panel: int, n_rows: int) -> np.ndarray:
        first = self._edges[panel]
        return np.asarray(self._beside[first : first + n_rows], DTYPE)


def read(
    X: Any,
    phase: Phase,
    *,
    k: int,
    state: State | None = None,
    usages: Any = None,
    at_work: tuple[Source, Grid] | None = None,
    entries: EntryWeights | None = None,
    masked: bool = False,
) -> tuple[State, Outcome]:
    """What a phase that leaves no rows makes of one read of X.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        As `validation.validated` gives it, or `Prepared`. Read by rows.
    phase : Phase
    k : int
        n_components.
    state : State, optional
        What it begins with.
    usages : array of shape (n_samples, n_components), optional
        The rows "W" that it is given: NumPy, Dask or Zarr.
    at_work : (Source, Grid), optional
        Where X is open already, from its stage where it has one, with what is told of its entries.
    entries : EntryWeights, optional
        What is told of X's entries.
    masked : bool
        Whether entries may be missing.

    Raises
    ------
    DataError
        If X holds NaN, infinities or negative values.
    MemoryLimitError
        If what is read at a time, or usages in this process, will not fit in memory.
    SourceError
        If X is stored by columns.
    """
    if at_work is not None:
        source, grid = at_work
    else:
        source = data.source_of(X)
        grid = data.grid_of(source)
        if entries is not None:
            source = WeightedSource(source, entries, rows=None, weights=None)
    loss = Loss.named("frobenius")
    surveyed = survey.Surveyed(phase, survey.Survey(source.shape, loss, masked))
    scheduler = current_scheduler(in_process=source.in_process)
    n_features = source.shape[1]
    if source.sparse:
        tiles = csr.scratch_bytes(n_features, DTYPE, k, dense=False)
    else:
        tiles = (dense if source.entries is None else masked_block).scratch_bytes(n_features, DTYPE)
    Projection(
        baseline=scheduler.baseline,
        threads=min(scheduler.threads, len(grid)),
        slab=int(source.slab_copies * slab_bytes_of(source, grid)),
        tiles=tiles + nnls.scratch_bytes(k, packed=masked),
        rows=grid.rows_max * k * DTYPE.itemsize,
        tally=surveyed.tally().nbytes,
        small=4 * k * n_features * DTYPE.itemsize,
        drawn=0,
        held=0,
        fan_in=graph.FAN_IN,
        staged=-(-source.staged_bytes // scheduler.processes),
    ).check(scheduler.memory_limit)
    with ExitStack() as stack:
        factors = MemoryFactors()
        rows: tuple[FactorVersion, ...] = ()
        if usages is not None:
            factors = GivenRows(_placed(usages, grid, scheduler, stack), grid)
            rows = (FactorVersion.of("usages", [{"W": k}]),)
        factors.write_states("given", 0, [state or {}])
        one = graph.Pass(phase.name, (surveyed,), source, grid, DTYPE, factors, "given", rows, checked=False)
        stack.enter_context(scheduler.tuned())
        (tally,) = graph.tallied(one, scheduler.get, stack.enter_context(scheduler.mapping()))
    with np.errstate(all="ignore"):  # `finite` tells what left its range
        after, outcome = surveyed.update(tally, state or {})
    survey.check(after, loss, source.shape, DTYPE, sparse=source.sparse, advice=source.negatives_advice)
    return after, outcome


def _placed(usages: Any, grid: Grid, scheduler: Scheduler, stack: ExitStack) -> np.ndarray | zarr.Array:
    """Rows of W where every task reaches them."""
    n_rows, k = (int(length) for length in usages.shape)
    if scheduler.client is None:
        if isinstance(usages, da.Array):
            validation.check_W_fits(n_rows, k, np.dtype(usages.dtype))
            usages = usages.compute()
        return usages
    if isinstance(usages, zarr.Array):
        return usages
    chunks = (grid.rows_max, k)
    path = stack.enter_context(scheduler.scratch())
    array = zarr.create_array(path, shape=(n_rows, k), chunks=chunks, dtype=usages.dtype)
    if isinstance(usages, da.Array):
        da.store(usages.rechunk(chunks), array, lock=False)
    else:
        array[...] = usages
    return array


def checked_usages(usages: Any, X: Any) -> Any:
    """Usages with a row for each of X's.

    Raises
    ------
    ValueError
    """
    usages = usages if isinstance(usages, (da.Array, zarr.Array)) else np.asarray(usages)
    if usages.ndim != 2 or usages.shape[0] != X.shape[0]:
        raise ValueError(
            f"usages have shape {usages.shape} and X has {tuple(X.shape)}; each row of X has one: give "
            f"usages of the same rows, shape ({X.shape[0]}, n_components)."
        )
    if not isinstance(usages, np.ndarray):
        return usages  # values that are not finite are told by what follows from them
    if not np.isfinite(usages).all() or (usages < 0).any():
        raise ValueError(
            f"usages hold {usages.min():g} or values that are not finite; they are nonnegative: give those "
            "of a factorization."
        )
    return usages
