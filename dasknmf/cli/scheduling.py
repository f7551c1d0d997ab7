"""The scheduler that the options name, and its workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask

from dasknmf.cli import mpi_tasks
from dasknmf.cli.output import JsonWorker, is_json, noted, silent_workers
from dasknmf.cli.signals import Stopped, asked, unheard
from dasknmf.engine.scheduler import connected
from dasknmf.errors import SchedulerError, UnavailableError, brief

_IN_PROCESS = {"threads": "threads", "sync": "synchronous"}
_TASKS = {"slurm": mpi_tasks.of_slurm, "mpi": mpi_tasks.of_mpi}


@dataclass(frozen=True)
class Where:
    """Where a command computes: the values of `scheduler_options`."""

    scheduler: str
    scheduler_file: Path | None
    workers: int | None
    wait: float
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None

    def __post_init__(self) -> None:
        if self.scheduler_file is not None and self.scheduler not in ("threads", *_TASKS):
            raise click.UsageError(
                f"--scheduler-file names a scheduler, and so does --scheduler {self.scheduler}: give one of "
                "them."
            )
        tls = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        missing = [name for name, path in tls.items() if path is None]
        if missing and len(missing) < len(tls):
            raise click.UsageError(
                f"{' and '.join(missing)} is missing; TLS needs --tls-ca, --tls-cert and --tls-key: give all "
                "three, or none."
            )
        if self._is_in_process and (self.workers is not None or not missing):
            raise click.UsageError(
                f"--workers and --tls-* are for clusters, and --scheduler is {self.scheduler}: choose local, "
                "slurm, mpi or an address, or leave them out."
            )

    @property
    def _is_in_process(self) -> bool:
        return self.scheduler in _IN_PROCESS and self.scheduler_file is None

    def serve(self) -> None:
        """Be what this task of an srun or mpirun is, and end here; the command's own goes on, as do others.

        Raises
        ------
        SchedulerError
            If this is no such task, and should be.
        """
        if self.scheduler in _TASKS:
            mpi_tasks.serve(_TASKS[self.scheduler](), self.scheduler_file, self.wait, self._security())

    @contextmanager
    def computing(self) -> Iterator[Any]:
        """Compute there meanwhile, gives the client of a cluster, None without one.

        Raises
        ------
        SchedulerError
            If there is no such scheduler.
        UnavailableError
            If it does not answer, no worker comes, or it goes away.
        """
        if self._is_in_process:
            with dask.config.set(scheduler=_IN_PROCESS[self.scheduler]):
                yield None
            return
        self.serve()
        with ExitStack() as stack:
            # A client that cannot be made leaves itself behind as the scheduler of all that follows.
            stack.enter_context(dask.config.set(scheduler=None))
            try:
                client = self._client(stack)
                with connected(client):
                    yield client
            except UnavailableError:
                # Whoever asked is told; what the client finds on its way out is the same again.
                logging.getLogger("distributed").setLevel(logging.CRITICAL)
                logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
                raise
            except Stopped:
                if (stop := asked()) is not None and stop.is_urgent:
                    stack.pop_all()  # workers hold nothing, and end with this process
                raise

    def _client(self, stack: ExitStack) -> Any:
        from distributed import Client, LocalCluster

        security = self._security()
        if self.scheduler == "local" and self.scheduler_file is None:
            with unheard(), silent_workers() if is_json() else nullcontext():
                cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    security=security,
                )
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster))
            if is_json():
                client.register_plugin(JsonWorker(), name="dasknmf-json")
            return client
        wanted = self.workers or 1
        if self.scheduler in _TASKS:
            here = _TASKS[self.scheduler]()
            wanted = self.workers or here.workers
            address = mpi_tasks.scheduler_of(here, self.scheduler_file, self.wait, security)
        elif self.scheduler_file is not None:
            address = mpi_tasks.told(self.scheduler_file, self.wait)
        elif "://" in self.scheduler:
            address = self.scheduler
        else:
            raise SchedulerError(
                f"the scheduler {self.scheduler!r} is unknown; it must be threads, sync, local, slurm, mpi "
                "or an address such as tcp://host:8786: correct it."
            )
        try:
            client = stack.enter_context(Client(address, security=security))
        except (TypeError, ValueError) as error:
            raise SchedulerError(
                f"the scheduler {address!r} cannot be connected to ({brief(error)}); an address is such as "
                "tcp://host:8786, or tls://host:8786 with --tls-ca, --tls-cert and --tls-key: correct it."
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"no scheduler answers at {address} ({brief(error)}); it must be running and reachable: "
                "start it with 'dask scheduler', or correct the address, and start the same again."
            ) from error
        with connected(client):
            self._await(client, wanted)
        return client

    def _security(self) -> Any:
        if self.tls_ca is None:
            return None
        from distributed.security import Security

        key, cert = str(self.tls_key), str(self.tls_cert)
        return Security(
            require_encryption=True,
            tls_ca_file=str(self.tls_ca),
            **{
                f"tls_{role}_{what}": path
                for role in ("client", "scheduler", "worker")
                for what, path in (("cert", cert), ("key", key))
            },
        )

    def _await(self, client: Any, wanted: int) -> None:
        try:
            client.wait_for_workers(wanted, timeout=max(self.wait, 0.01))
        except TimeoutError:
            came = len(client.nthreads())
            if not came:
                raise UnavailableError(
                    f"no worker came to the scheduler at {client.scheduler.address} within {self.wait:g} s; "
                    "one is needed: start workers, and then the same again, or raise --wait."
                ) from None
            if came < wanted:
                noted(f"{came} of {wanted} workers came within {self.wait:g} s: going on with these")
                return
        came = len(client.nthreads())
        noted(f"{came} workers came" if came > 1 else "1 worker came")
