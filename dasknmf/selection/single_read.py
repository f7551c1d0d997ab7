"""One read of V by one phase, with or without given usages."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TypeAlias

import dask.array as da
import numpy as np
import zarr

from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.phase import Outcome, Phase, Tally
from dasknmf.core.starts import survey
from dasknmf.core.state import State
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting import validation
from dasknmf.fitting.memory import Footprint
from dasknmf.fitting.passes import GIVEN, OpenMatrix
from dasknmf.store.factors import FactorVersion, MemoryFactors

Usages: TypeAlias = np.ndarray | da.Array | zarr.Array
"""W of shape (n_samples, n_components)."""
DTYPE = np.dtype(np.float64)
"""The dtype of products: no later pass corrects their rounding."""


class GivenRows(MemoryFactors):
    """Given rows of W, in memory or in a store that every worker can read.

    Parameters
    ----------
    rows : ndarray or zarr.Array of shape (n_samples, n_components)
    grid : Grid
        Panels of V.
    """

    def __init__(self, rows: np.ndarray | zarr.Array, grid: Grid) -> None:
        super().__init__()
        self._given = rows
        self._edges = grid.edges

    def read_rows(self, version: FactorVersion, panel: int, n_rows: int) -> np.ndarray:
        first = self._edges[panel]
        return np.asarray(self._given[first : first + n_rows], DTYPE)


def single_read(
    V: OpenMatrix,
    phase: Phase,
    *,
    k: int = 0,
    state: State | None = None,
    usages: Usages | None = None,
    dtype: np.dtype = DTYPE,
) -> tuple[State, Outcome, Tally]:
    """The results of a phase after one read of V. The same read checks the values of V.

    Nothing is stored.

    Parameters
    ----------
    V : OpenMatrix
        ``OpenMatrix.of(source)``, read by rows, or `Study.V`, which may be staged.
    phase : Phase
        A phase that writes no rows.
    k : int, default=0
        Number of columns of W in the phase; 0 for a phase without W.
    state : State, optional
        The state from which the phase starts; empty by default.
    usages : array of shape (n_samples, k), optional
        W for the phase, its rows "W": NumPy, Dask or Zarr.
    dtype : numpy.dtype, default=float64
        The dtype of tiles and their products; sums are float64.

    Returns
    -------
    state : State
        The state that `phase.update` returns, with the survey of V.
    outcome : Outcome
        The outcome that `phase.update` returns.
    tally : Tally
        The sum of the tallies of all panels.

    Raises
    ------
    DataError
        If V holds NaN, infinities or negative values.
    MemoryLimitError
        If a slab of V and its products, or usages in this process, do not fit in memory.
    SchedulerError
        If usages are no Zarr array, and workers cannot read a directory of this process.
    """
    source = V.source
    V_survey = survey.Survey(source.shape, Loss.named("frobenius"), V.masked)
    surveyed = survey.Surveyed(phase, V_survey)
    footprint = Footprint([surveyed], dtype, k, k, V.masked)
    footprint.projection(V).check(V.scheduler.memory_limit)
    with ExitStack() as stack:
        factors = MemoryFactors()
        rows: tuple[FactorVersion, ...] = ()
        if usages is not None:
            factors = GivenRows(_within_reach(usages, V.grid, V.scheduler, stack), V.grid)
            rows = (FactorVersion.of(GIVEN, [{"W": k}]),)
        factors.write_states(GIVEN, 0, [state or State()])
        (tally,) = V.tallies([surveyed], dtype, factors, rows)
    with np.errstate(all="ignore"):  # `finite` raises an error for overflows
        after, outcome = surveyed.update(tally, state or State())
    survey.check(after, V_survey, DTYPE, sparse=source.sparse, advice=source.negatives_advice)
    return after, outcome, tally


def _within_reach(
    usages: Usages, grid: Grid, scheduler: Scheduler, stack: ExitStack
) -> np.ndarray | zarr.Array:
    """Usages in a place that every task can read: this process, or a Zarr array."""
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


def checked_usages(usages: Usages, shape: tuple[int, int]) -> Usages:
    """Usages, after a check that they have a row for each row of an X of this shape.

    Raises
    ------
    ValueError
        If the number of rows differs, or a NumPy array holds values that are negative or not finite.
    """
    usages = usages if isinstance(usages, (da.Array, zarr.Array)) else np.asarray(usages)
    if usages.ndim != 2 or usages.shape[0] != shape[0]:
        raise ValueError(
            f"usages have shape {usages.shape} and X has {tuple(shape)}; usages have one row for each row of "
            f"X: give usages of shape ({shape[0]}, n_components)."
        )
    if not isinstance(usages, np.ndarray):
        return usages  # not read here: values that are not finite give a result that is not finite
    if not np.isfinite(usages).all() or (usages < 0).any():
        raise ValueError(
            f"usages are negative or not finite (the smallest is {usages.min():g}); usages are W of a "
            "factorization: give nonnegative, finite usages."
        )
    return usages
