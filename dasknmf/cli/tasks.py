"""The tasks of one srun or mpirun as a cluster: the first is its scheduler, the second the command, the
others are workers.

They meet in a file that all of them see; nothing of MPI itself is used. The scheduler ends when the command
has left, however that ended, and workers end with the scheduler: so the exit code is that of the command.
dask-jobqueue's and dask-mpi's own ways were tried: a file of that name, left by a job before its requeue,
misleads them, and a command that is killed leaves their tasks behind until the wall.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dasknmf.cli.stopping import unheard, unsaid
from dasknmf.errors import SchedulerError, UnavailableError

_LOOK = 0.2
"""Seconds from one look to the next."""


@dataclass(frozen=True)
class Task:
    """This task among those of one start."""

    number: int
    n_tasks: int
    launch: str
    """The same for all tasks of one start, and for no other that may run beside it."""
    on_one_host: bool
    """Whether all tasks run on one machine."""

    @property
    def workers(self) -> int:
        return self.n_tasks - 2

    @property
    def host(self) -> str | None:
        """Where this task listens: on one machine, nobody else can connect."""
        return "127.0.0.1" if self.on_one_host else None


def of_slurm() -> Task:
    """This task of an srun.

    Raises
    ------
    SchedulerError
        If it is none, or there are too few.
    """
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    launch = "-".join(os.environ.get(name, "0") for name in names)
    on_one_host = os.environ.get("SLURM_STEP_NUM_NODES") == "1"
    return _checked("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", launch, on_one_host, "srun")


def of_mpi() -> Task:
    """This task of an mpirun, as Open MPI or a launcher of the PMI (MPICH, Intel MPI) tells it.

    Raises
    ------
    SchedulerError
        If it is none, or there are too few.
    """
    launch = os.environ.get("PMIX_NAMESPACE", os.environ.get("PMI_JOBID", "mpi"))
    launch = "".join(letter if letter.isalnum() else "-" for letter in launch)
    family = "OMPI_COMM_WORLD" if "OMPI_COMM_WORLD_RANK" in os.environ else "PMI"
    here, all_tasks = (os.environ.get(f"{family}_{name}SIZE") for name in ("LOCAL_", ""))
    return _checked(f"{family}_RANK", f"{family}_SIZE", launch, here == all_tasks, "mpirun")


def _checked(number: str, n_tasks: str, launch: str, on_one_host: bool, starter: str) -> Task:
    try:
        task = Task(int(os.environ[number]), int(os.environ[n_tasks]), launch, on_one_host)
    except (KeyError, ValueError):
        raise SchedulerError(
            f"{number} and {n_tasks} are not set; {starter} sets them for each of the tasks that it starts: "
            f"start this command with '{starter} -n 4', or choose another --scheduler."
        ) from None
    if task.n_tasks < 3:
        raise SchedulerError(
            f"{starter} has started {task.n_tasks} tasks; 3 or more are needed, for the scheduler, the "
            f"command and workers: raise -n of {starter}, or choose --scheduler local."
        )
    return task


def met(task: Task, file: Path | None, wait: float, security: Any) -> str:
    """The address of the scheduler, for the task that is the command; the others work, and end here.

    Raises
    ------
    UnavailableError
        If the scheduler did not come.
    """
    file = Path(f"dasknmf-scheduler-{task.launch}.json") if file is None else file
    if task.number == 1:
        return asyncio.run(_answering(file, wait, security))
    unsaid()  # the command says what there is to say
    logging.disable(logging.INFO)  # who joins, who leaves, and what was on its way meanwhile
    work = _schedule if task.number == 0 else _work
    with unheard():
        asyncio.run(work(task, file, wait, security))
    sys.exit(0)


async def _schedule(task: Task, file: Path, wait: float, security: Any) -> None:
    from distributed import Scheduler

    file.unlink(missing_ok=True)  # of a start that was killed
    options = _listening(task, security)
    async with Scheduler(scheduler_file=str(file), port=0, dashboard=False, **options) as scheduler:
        try:
            end = time.monotonic() + wait
            while not _clients(scheduler):
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"the second task, which is the command, did not come within {wait:g} s; it was "
                        "lost, or --wait is too short: start the same again."
                    )
                await asyncio.sleep(_LOOK)
            while _clients(scheduler):
                await asyncio.sleep(_LOOK)
        finally:
            file.unlink(missing_ok=True)


def _clients(scheduler: Any) -> set[str]:
    return set(scheduler.clients) - {"fire-and-forget"}


async def _work(task: Task, file: Path, wait: float, security: Any) -> None:
    from distributed import Worker

    address = await _answering(file, wait, security)
    threads = int(os.environ.get("SLURM_CPUS_PER_TASK", 1))
    options = _listening(task, security)
    async with Worker(address, name=task.number, nthreads=threads, **options) as worker:
        await worker.finished()


def _listening(task: Task, security: Any) -> dict[str, Any]:
    """Where a server listens, as its own."""
    return {
        "host": task.host,
        "dashboard_address": "127.0.0.1:0",
        "protocol": "tcp" if security is None else "tls",
        "security": security,
    }


async def _answering(file: Path, wait: float, security: Any) -> str:
    """The address in a file, once a scheduler answers there: it may be one that a killed start has left."""
    from distributed.comm import connect

    options = {} if security is None else security.get_connection_args("client")
    end = time.monotonic() + wait
    while True:
        with suppress(OSError, SchedulerError):
            address = address_in(file)
            comm = await connect(address, timeout=5, **options)
            await comm.close()
            return address
        if time.monotonic() > end:
            raise UnavailableError(
                f"no scheduler was told of in {str(file)!r} within {wait:g} s; the first task writes it, "
                "where all tasks must see it: start in a directory that they share, or name the file with "
                "--scheduler-file."
            )
        await asyncio.sleep(_LOOK)


def address_in(file: Path) -> str:
    """What a scheduler has written to its file.

    Raises
    ------
    SchedulerError
        If it is no such file.
    """
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchedulerError(
            f"the scheduler file {str(file)!r} cannot be read ({error}); 'dask scheduler --scheduler-file' "
            "writes one: give its path."
        ) from error
