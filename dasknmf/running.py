"""A run at work: V opened and staged, the run that is written, the scheduler that computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from dasknmf import schedulers
from dasknmf.fit import Fit
from dasknmf.history import Callback
from dasknmf.inputs.base import Source
from dasknmf.model import Model
from dasknmf.schedulers import Scheduler
from dasknmf.settling import Settled
from dasknmf.stage import staged
from dasknmf.store.memory_run import MemoryRun
from dasknmf.store.stored_run import StoredRun


@dataclass(frozen=True)
class Work:
    """What models are fitted with.

    Parameters
    ----------
    settled : Settled
        With the seed of the run.
    source : Source
        V with what is told of its entries, from its stage where it has one.
    run, scheduler
    scratch : bool
        Whether the run's store goes when the work is done.
    """

    settled: Settled
    source: Source
    run: MemoryRun | StoredRun
    scheduler: Scheduler
    scratch: bool

    def fit(
        self,
        models: Sequence[Model],
        max_iter: int,
        tol: float,
        *,
        callbacks: Sequence[Callback] = (),
        halving: bool = False,
    ) -> None:
        """Fit models to V, from wherever the run stands."""
        one = self.settled
        Fit(
            models,
            self.source,
            one.grid,
            self.run,
            self.scheduler,
            max_iter,
            tol,
            one.given,
            callbacks,
            halving,
        )()


@contextmanager
def running(one: Settled, checkpoint: Any, stage: Any, *, overwrite: bool) -> Iterator[Work]:
    """A run in `checkpoint`; without one in this process or, on a cluster, in a directory that goes.

    Raises
    ------
    RunMismatchError, RunLockedError, RunDamagedError, StageError, SchedulerError
        As `NMF.fit` tells.
    """
    scheduler = schedulers.current(in_process=one.source.in_process)
    with ExitStack() as stack:
        source = stack.enter_context(staged(one.source, one.grid, stage, scheduler.client))
        where = checkpoint
        scratch = checkpoint is None and scheduler.client is not None
        if scratch:
            where = stack.enter_context(scheduler.scratch())
        run: MemoryRun | StoredRun = MemoryRun()
        if where is not None:
            run = StoredRun(
                where,
                *one.identity(),
                one.grid,
                one.model.dtype,
                overwrite=overwrite,
                features=one.features,
            )
            one = one.seeded(run.seed)
        stack.callback(run.close)
        yield Work(one, one.observed(source), run, scheduler, scratch)
