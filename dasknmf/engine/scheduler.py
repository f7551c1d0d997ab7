"""Schedulers of passes (this process, its threads, or a cluster) and the memory of their processes."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import psutil
import threadpoolctl
from dask.base import get_scheduler
from dask.system import CPU_COUNT
from distributed import Client
from distributed.comm import CommClosedError
from distributed.system import MEMORY_LIMIT

from dasknmf.core.phase import Map
from dasknmf.engine.accounting import resident_bytes
from dasknmf.engine.graph import Get
from dasknmf.engine.worker import TunedWorker
from dasknmf.errors import DaskNMFError, SchedulerError, UnavailableError, brief

_PAUSED_AT = 0.8
"""Fraction of its memory limit at which Dask pauses a worker."""


@dataclass(frozen=True)
class Scheduler:
    """A Dask scheduler, with the threads and memory of its processes."""

    name: str
    get: Get
    client: Client | None = None

    @property
    def threads(self) -> int:
        """Number of tasks that run at once in one process."""
        if self.client is not None:
            return max((worker["nthreads"] for worker in self._workers()), default=1)
        return 1 if self.name == "synchronous" else int(dask.config.get("num_workers", CPU_COUNT))

    @property
    def memory_limit(self) -> int:
        """Memory that one process may use, in bytes."""
        if self.client is None:
            return int(min(MEMORY_LIMIT, self.baseline + psutil.virtual_memory().available))
        limits = [worker["memory_limit"] for worker in self._workers()]
        return int(_PAUSED_AT * min((limit for limit in limits if limit), default=MEMORY_LIMIT))

    @property
    def baseline(self) -> int:
        """Resident memory of a process before a pass, in bytes: the largest of all workers."""
        return resident_bytes() if self.client is None else self._largest_worker

    @cached_property
    def _largest_worker(self) -> int:
        assert self.client is not None
        return max(self.client.run(_resident_at_work, on_error="ignore").values(), default=0)

    @property
    def processes(self) -> int:
        """Number of processes."""
        return 1 if self.client is None else max(1, len(self._workers()))

    def _workers(self) -> list[dict[str, Any]]:
        assert self.client is not None
        return list(self.client.scheduler_info(n_workers=-1)["workers"].values())

    @contextmanager
    def tuned(self) -> Iterator[None]:
        """A context in which every process of the fit has one BLAS thread per task.

        Tasks do not set the limit themselves: threads that set and restore it at different times would race.
        """
        # The client's updates of H and trials have threads of their own, too.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            if self.client is None:
                yield
                return
            name = f"dasknmf-{uuid.uuid4().hex}"
            self.client.register_plugin(TunedWorker(), name=name)
            try:
                yield
            finally:
                # On a cluster that shuts down this fails, and must not hide the error of the fit.
                with suppress(Exception):
                    if self.client.status == "running":
                        self.client.unregister_worker_plugin(name)

    @contextmanager
    def mapping(self) -> Iterator[Map]:
        """A context with a `map` over this process's threads, which all passes of a fit share."""
        if self.client is not None or self.threads == 1:
            yield map
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield pool.map

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A context with a temporary directory that this process and all workers can read.

        Raises
        ------
        SchedulerError
            If the workers do not see this process's files.
        """
        assert self.client is not None
        with tempfile.TemporaryDirectory(prefix="dasknmf-") as directory:
            token = uuid.uuid4().hex
            probe = Path(directory) / "probe"
            probe.write_text(token)
            # Workers that leave during the call are not counted.
            answers = self.client.run(_read_probe, os.fspath(probe), on_error="ignore")
            unable = sorted(worker for worker, answer in answers.items() if answer != token)
            if unable or not answers:
                example = f" (such as {unable[0]})" if unable else ""
                raise SchedulerError(
                    f"{len(unable)} of {len(answers)} workers{example} do not see this process's directory "
                    f"{directory!r}; between passes, W and H are in a store that every worker must reach: "
                    "give fit(..., checkpoint=) a path or URL on shared storage."
                )
            probe.unlink()
            yield Path(directory) / "run"


@contextmanager
def connected(client: Client | None) -> Iterator[None]:
    """A context that turns all errors of a client with a lost scheduler into `UnavailableError`.

    A client whose scheduler died cancels its futures; later calls fail after at most
    ``distributed.comm.timeouts.connect``. A scheduler that does not answer counts as dead after
    ``distributed.comm.timeouts.tcp``.

    Raises
    ------
    UnavailableError
    """
    where = None if client is None else client.scheduler.address
    try:
        yield
    except DaskNMFError:
        raise
    except Exception as error:
        if client is None or not _is_lost(client, error):
            raise
        reason = getattr(error, "reason", None) or brief(error)
        raise UnavailableError(
            f"the scheduler at {where} is gone ({reason}); completed passes are kept: repeat the same call, "
            "with this scheduler or another."
        ) from error


def _is_lost(client: Client, error: Exception) -> bool:
    # A client that lost its scheduler may by now be connected to a new scheduler at the same address.
    reason = str(getattr(error, "reason", ""))
    return client.status != "running" or isinstance(error, CommClosedError) or "scheduler" in reason


def _client_get(client: Client) -> Get:
    def get(graph: Any, keys: Any) -> Any:
        with connected(client):
            return client.get(graph, keys)

    return get


def _resident_at_work() -> int:
    """Resident bytes of this process after the imports of a fit, which a new worker has not done yet."""
    for name in ("numba", "scipy.special", "sklearn.utils.validation", "zarr"):
        import_module(name)
    return resident_bytes()


def _read_probe(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def current_scheduler(*, in_process: bool) -> Scheduler:
    """The scheduler that Dask would use now.

    Parameters
    ----------
    in_process : bool
        Whether V is in this process's memory; a cluster, which would need copies of V, is then not used.

    Raises
    ------
    SchedulerError
        If the scheduler is none of threads, synchronous and distributed.
    """
    get = get_scheduler()
    owner = getattr(get, "__self__", None)
    if isinstance(owner, Client):
        if not in_process:
            return Scheduler("distributed", _client_get(owner), owner)
        get = None
    if get is None or get is dask.threaded.get:
        return Scheduler("threads", dask.threaded.get)
    if get is dask.get:
        return Scheduler("synchronous", dask.get)
    name = f"{getattr(get, '__module__', '')}.{getattr(get, '__name__', get)}"
    raise SchedulerError(
        f"the scheduler {name} is not one of 'threads', 'synchronous' or a distributed Client; passes "
        "share factors in memory or through a store: choose one of these."
    )
