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

from dasknmf.cli.signals import unheard, unsaid
from dasknmf.errors import SchedulerError, UnavailableError

_LAUNCHES = ("PMIX_NAMESPACE", "PMI_JOBID", "I_MPI_HYDRA_UUID", "SLURM_JOB_ID")
"""What Open MPI, PMI, Intel MPI and, around MPICH, SLURM call one start of tasks; MPICH alone has no name."""
_LOOK = 0.2
"""Seconds from one look to the next."""


@dataclass(frozen=True)
class Task:
    """This task among those of one start."""

    number: int
    n_tasks: int
    launch: str | None
    """The same for all tasks of one start, and for no other that may run beside it; None if unknown."""
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
    launch = next((os.environ[name] for name in _LAUNCHES if name in os.environ), None)
    if launch is not None:
        launch = "".join(letter if letter.isalnum() else "-" for letter in launch)
    family = "OMPI_COMM_WORLD" if "OMPI_COMM_WORLD_RANK" in os.environ else "PMI"
    here = os.environ.get(f"{family}_LOCAL_SIZE", os.environ.get("MPI_LOCALNRANKS"))
    on_one_host = here == os.environ.get(f"{family}_SIZE")
    return _checked(f"{family}_RANK", f"{family}_SIZE", launch, on_one_host, "mpirun")


def _checked(number: str, n_tasks: str, launch: str | None, on_one_host: bool, starter: str) -> Task:
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


def scheduler_of(task: Task, file: Path | None, wait: float, security: Any) -> str:
    """The address of the scheduler, for the task that is the command.

    Raises
    ------
    UnavailableError
        If the scheduler did not come.
    """
    return asyncio.run(_answering(_meeting(task, file), wait, security))


def _meeting(task: Task, file: Path | None) -> Path:
    """Where the tasks of one start meet."""
    if file is None and task.launch is None:
        raise SchedulerError(
            "this mpirun does not tell its tasks what tells it from another one, so two in one directory "
            "would meet in one file: name a file of its own with --scheduler-file."
        )
    return Path(f"dasknmf-scheduler-{task.launch}.json") if file is None else file


def serve(task: Task, file: Path | None, wait: float, security: Any) -> None:
    """Be the scheduler or a worker, and end here; the task that is the command goes on.

    Raises
    ------
    SchedulerError
        If the tasks have no place to meet.
    UnavailableError
        If the others did not come.
    """
    file = _meeting(task, file)
    if task.number == 1:
        return
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


def told(file: Path, wait: float) -> str:
    """The address in a file that a scheduler writes, perhaps only soon.

    Raises
    ------
    UnavailableError
        If it was not there in time.
    SchedulerError
        If it is no such file.
    """
    end = time.monotonic() + wait
    while True:
        try:
            return address_in(file)
        except SchedulerError:
            if time.monotonic() > end:
                if not file.exists():
                    raise UnavailableError(
                        f"the scheduler file {str(file)!r} was not there within {wait:g} s; 'dask scheduler "
                        "--scheduler-file' writes it: start one, correct the path, or raise --wait, and "
                        "start the same again."
                    ) from None
                raise
        time.sleep(_LOOK)


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
