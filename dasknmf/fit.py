"""A fit: the phases of a model, run over V one pass after another, each of them committed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import format_bytes

from dasknmf import engine
from dasknmf.blocks import csr, dense, observed
from dasknmf.errors import DataError, NumericalError, RunDamagedError
from dasknmf.history import Callback, Ending, History, Record, Stop, rivals
from dasknmf.inputs.base import Source, nbytes_of, slab_bytes_of
from dasknmf.ledger import Ledger
from dasknmf.model import Lineup, Model
from dasknmf.panels import Grid, Projection
from dasknmf.passes import Outcome, Phase
from dasknmf.schedulers import Scheduler
from dasknmf.solvers import nnls
from dasknmf.starts import survey, trial
from dasknmf.store.factors import Generation
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.position import Position
from dasknmf.store.stored_run import StoredRun

log = logging.getLogger("dasknmf")
_LINES_AT_ONCE = 3
"""Copies of packed Gram matrices at the peak of their use: made, put together, scaled."""


@dataclass
class Fit:
    """One model fitted to one V.

    Parameters
    ----------
    model, source, grid, run, scheduler
        What, of what, cut where, kept where, computed where.
    max_iter : int
        Most exact passes, those of earlier sessions of the run included.
    tol : float
        Of the stop rule.
    given : tuple of arrays or None
        Rows of W, shape (n_samples, k), NumPy or Dask, and H, for ``init="custom"``.
    callbacks : sequence of callable
        Called with the new `Record` after each pass.
    """

    model: Model
    source: Source
    grid: Grid
    run: MemoryRun | StoredRun
    scheduler: Scheduler
    max_iter: int
    tol: float
    given: tuple[Any, np.ndarray] | None = None
    callbacks: Sequence[Callback] = ()

    def __call__(self) -> None:
        """Run to the end, from wherever the run stands."""
        starts = self.model.starts()
        limit = self.scheduler.memory_limit
        projections = self.projections()
        for projection in projections:  # before anything is read
            projection.check(limit)
        if self.run.position.outcome is None:
            self.run.plan(self._planned(projections, limit))
        if self._makes_tiles_dense:
            log.warning(
                "X is sparse, and beta_loss = %g needs every entry of WH: tiles of X are made dense, in %s "
                "of buffers for each thread; 'kullback-leibler' and 'frobenius' need only the nonzeros",
                self.model.loss.beta,
                format_bytes(self._scratch_bytes(self.model.k)),
            )
        with self.scheduler.tuned(), self.scheduler.mapping() as self._each:
            while self.run.position.start < len(starts):
                self._start(starts[self.run.position.start])
            if self.given is not None and "H" not in self._state():
                self._place(self.given)
            self._rule = self.model.stop_rule(self.tol, self._state())
            while self.run.position.outcome is None:
                ended = self._ended(self.run.history)
                if ended is None:
                    self._exact(self.model.lineup(self.run.position.iteration))
                elif self._loss_is_known():
                    self._commit(replace(self.run.position, outcome=ended.value), None, self.run.sums)
                else:
                    self._closing(self.model.closing(), ended)

    def _start(self, lineup: Lineup) -> None:
        at = self.run.position
        try:
            one, outcomes, ledger, seconds = self._passed(lineup)
            state = self.run.factors.read_state(one.name, 0)
            survey.check(
                state,
                self.model.loss,
                self.model.shape,
                self.model.dtype,
                sparse=self.source.sparse,
                advice=self.source.negatives_advice,
            )
        except (DataError, NumericalError):
            if not at.passes:
                self.run.discard()  # a V that was refused leaves no run behind
            raise
        record = self._record(lineup, 0, outcomes[0], ledger, seconds)
        after = replace(
            at,
            passes=at.passes + 1,
            start=at.start + 1,
            state=one.name,
            rows=one.leaves or at.rows,
            standing=tuple(range(len(lineup))),
        )
        self._commit(after, record, self._sums(ledger))

    def _place(self, given: tuple[Any, np.ndarray]) -> None:
        """Commit a custom start: rows of W panel by panel, and H."""
        at = self.run.position
        name = f"{at.passes}-{self.run.epoch}"
        began = time.perf_counter()
        W, H = given
        rows = Generation.of(name, [{"W": self.model.k}])
        self.run.factors.begin(rows)
        written = 0
        for panel in self.grid:
            block = W[panel.start : panel.stop]
            block = block.compute() if isinstance(block, da.Array) else block
            block = np.array(block, dtype=self.model.dtype, order="C")
            self.run.factors.write_rows(rows, panel.index, block)
            written += block.nbytes
        H = np.array(H, dtype=self.model.dtype, order="C")
        self.run.factors.write_state(name, 0, self._state() | {"H": H})
        seconds = time.perf_counter() - began
        reads = self.run.history.reads
        record = Record(0, "start", None, None, None, None, seconds, 0, written, reads)
        after = replace(at, passes=at.passes + 1, state=name, rows=rows)
        self._commit(after, record, self.run.sums)

    def _exact(self, lineup: Lineup) -> None:
        at = self.run.position
        one, outcomes, ledger, seconds = self._passed(lineup)
        leader = min(range(len(lineup)), key=lambda model: _objective(outcomes[model]))
        best = outcomes[leader]
        if len(lineup) > 1:
            best = replace(best, measures=best.measures | rivals(map(_objective, outcomes)))
        record = self._record(lineup, at.iteration + 1, best, ledger, seconds)
        rivalry = len(self.model.lineup(at.iteration + 1)) > 1
        stop = None if rivalry else self._rule.decide(self.run.history.plus(record))
        if stop is not None and stop.at == "entry":
            # The pair that entered is the answer, and this pass has evaluated it: undo its moves.
            self.run.forget(one.leaves)
            record = replace(record, phase="closing", iteration=at.iteration)
            after = replace(
                at, passes=at.passes + 1, leader=one.entering[leader], outcome=Ending.CONVERGED.value
            )
        else:
            after = replace(
                at,
                passes=at.passes + 1,
                iteration=at.iteration + 1,
                state=one.name,
                rows=one.leaves,
                standing=tuple(range(len(lineup))) if rivalry else (leader,),
                leader=leader,
            )
            ended = self._ended(self.run.history.plus(record), after.iteration)
            if ended is not None and self._tells(record):
                after = replace(after, outcome=ended.value)
        self._commit(after, record, self._sums(ledger))

    def _closing(self, phase: Phase, ended: Ending) -> None:
        at = self.run.position
        _, outcomes, ledger, seconds = self._passed((phase,), (at.leader,))
        record = self._record((phase,), at.iteration, outcomes[0], ledger, seconds)
        after = replace(at, passes=at.passes + 1, outcome=ended.value)  # it leaves what it found
        self._commit(after, record, self._sums(ledger))

    def _passed(
        self, lineup: Lineup, entering: tuple[int, ...] | None = None
    ) -> tuple[engine.Pass, list[Outcome], Ledger, float]:
        """Run one pass. What it leaves is not part of the run before it is committed."""
        at = self.run.position
        if entering is None:
            # One model may part into several, all of which begin where it stands.
            entering = at.standing if len(at.standing) == len(lineup) else at.standing * len(lineup)
        one = engine.Pass(
            name=f"{at.passes}-{self.run.epoch}",
            phases=lineup,
            source=self.source,
            grid=self.grid,
            dtype=self.model.dtype,
            factors=self.run.factors,
            state=at.state,
            rows=at.rows,
            entering=entering,
            # V in this process cannot change behind a run that ends with it.
            checked=not (self.source.in_process and isinstance(self.run, MemoryRun)),
            sums=self.run.sums,
        )
        began = time.perf_counter()
        try:
            if self.source.in_process:
                outcomes, ledger = engine.run_here(one, self._each)
            else:
                outcomes, ledger = engine.run(one, self.scheduler.get)
        except RunDamagedError:
            self.run.check_owner()  # rows that another writer has pruned are not damage
            raise
        return one, outcomes, ledger, time.perf_counter() - began

    def _record(
        self, lineup: Lineup, iteration: int, outcome: Outcome, ledger: Ledger, seconds: float
    ) -> Record:
        objective = outcome.objective
        before = next(
            (past.objective for past in reversed(self.run.history) if past.objective is not None),
            None,
        )
        change = None
        if objective is not None and before:
            change = (before - objective) / before
        return Record(
            iteration,
            lineup[0].name,
            outcome.loss,
            objective,
            outcome.loss_at,
            change,
            seconds,
            ledger.bytes_read,
            ledger.bytes_written,
            self.run.history.reads + any(phase.reads_data for phase in lineup),
            outcome.measures,
            ledger.memory,
        )

    def _commit(self, position: Position, record: Record | None, sums: tuple[float, ...] | None) -> None:
        self.run.commit(position, record, sums)
        if record is not None:
            for callback in self.callbacks:
                callback(record)

    def _ended(self, history: History, iteration: int | None = None) -> Ending | None:
        """Whether the fit is over after this history, as the history and the budget alone decide."""
        done = self.run.position.iteration if iteration is None else iteration
        if done == 0:
            return None
        stop = self._rule.decide(history)
        if stop == Stop("end"):
            return Ending.CONVERGED
        return Ending.MAX_ITER if done >= self.max_iter else None

    def _loss_is_known(self) -> bool:
        """Whether the last record tells the loss of the pair that would be returned."""
        return self._tells(self.run.history[-1])

    def _tells(self, record: Record) -> bool:
        """Whether it also tells the loss over what is hidden, which a pass knows of the pair that entered."""
        return _tells_loss(record) and (record.phase == "closing" or not self.model.terms.hidden)

    def _sums(self, ledger: Ledger) -> tuple[float, ...] | None:
        if self.run.sums is not None or not ledger.sums:
            return self.run.sums
        found = dict(ledger.sums)
        return tuple(found[panel.index] for panel in self.grid)

    def _state(self) -> dict[str, np.ndarray]:
        return self.run.factors.read_state(self.run.position.state, self.run.position.leader)

    def projections(self) -> list[Projection]:
        """What each kind of pass will hold in one process."""
        n_features = self.source.shape[1]
        baseline, threads = self.scheduler.baseline, self.scheduler.threads
        in_memory = isinstance(self.run, MemoryRun)
        lines = self.model.lines_bytes
        height = dense.tile_rows(n_features, self.model.dtype.itemsize)
        lines_of_rows = lines // n_features * height
        projections = []
        for lineup in (*self.model.starts(), self.model.lineup(0), (self.model.closing(),)):
            width = sum(max(sum(phase.widths.values()), self.model.k) for phase in lineup)
            tallies = [phase.tally() for phase in lineup]
            drawn = sum(tally.capacity for tally in tallies)
            copies = trial.LINES_AT_ONCE if drawn else _LINES_AT_ONCE * len(lineup)
            projection = Projection(
                baseline=baseline,
                threads=min(threads, len(self.grid)),
                slab=math.ceil(self.source.slab_copies * slab_bytes_of(self.source, self.grid)),
                tiles=self._scratch_bytes(width)
                + nnls.scratch_bytes(self.model.k, packed=self.model.terms.masked)
                + _LINES_AT_ONCE * lines_of_rows,
                rows=self.grid.rows_max * width * self.model.dtype.itemsize,
                tally=sum(tally.nbytes for tally in tallies),
                drawn=drawn,
                small=4 * width * n_features * 8 + copies * lines,
                held=self.grid.n_rows * width * self.model.dtype.itemsize * in_memory,
                fan_in=engine.FAN_IN,
                staged=-(-self.source.staged_bytes // self.scheduler.processes),
            )
            projections.append(projection)
        return projections

    def _planned(self, projections: Sequence[Projection], limit: int) -> dict[str, Any]:
        """What V is, and what its passes are given: for whoever looks at the run."""
        return {
            "stored_dtype": self.source.dtype.str,
            "stored_bytes": nbytes_of(self.source),
            "sparse": self.source.sparse,
            "panels": len(self.grid),
            "scheduler": self.scheduler.name,
            "processes": self.scheduler.processes,
            "threads": self.scheduler.threads,
            "memory_limit": limit,
            "memory_projected": max(projection.peak for projection in projections),
        }

    @property
    def _makes_tiles_dense(self) -> bool:
        return self.source.sparse and self.model.loss.beta not in (1, 2)

    def _scratch_bytes(self, width: int) -> int:
        """Of the tiles of one walk, for so many columns of all models together."""
        n_features, dtype = self.source.shape[1], self.model.dtype
        if not self.source.sparse:
            kind = dense if self.source.entries is None else observed
            return kind.scratch_bytes(n_features, dtype)
        return csr.scratch_bytes(n_features, dtype, width, dense=self._makes_tiles_dense)


def _objective(outcome: Outcome) -> float:
    known = outcome.objective is not None and math.isfinite(outcome.objective)
    return float(outcome.objective or 0.0) if known else math.inf


def _tells_loss(record: Record) -> bool:
    """Whether a record's loss is that of the pair which stands after it."""
    if record.phase == "closing":
        return True
    return record.loss_at == "end" and not record.measures.get("imprecise")


def logged(record: Record) -> None:
    """A callback: one line per pass."""
    log.info(
        "%s %d: objective %s, %.2f s, %s read, %g reads of V so far",
        record.phase,
        record.iteration,
        record.objective,
        record.seconds,
        format_bytes(record.bytes_read),
        record.reads,
    )
