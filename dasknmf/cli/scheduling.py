"""The scheduler that computes a command: threads of this process, or a Dask cluster."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from dasknmf.cli.options import EXISTING_FILE, FILE, option
from dasknmf.cli.output import JsonWorker, is_json, note, silent_workers
from dasknmf.cli.signals import blocked
from dasknmf.core.text import counted
from dasknmf.engine.scheduler import connected
from dasknmf.errors import SchedulerError, UnavailableError, brief

_IN_PROCESS = {"threads": "threads", "sync": "synchronous"}
_LOOK = 0.2
"""Seconds between two checks for a scheduler file."""


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """Options of the scheduler.

    Raises
    ------
    click.UsageError
        If options contradict each other.
    """

    scheduler: str = option(
        "Compute in threads of this process, in one thread, in one process for each core of this machine, "
        "or on the Dask cluster at ADDRESS (tcp://HOST:PORT or tls://HOST:PORT).",
        default="threads",
        metavar="threads|sync|local|ADDRESS",
    )
    scheduler_file: Path | None = option(
        "Compute on the cluster whose 'dask scheduler --scheduler-file' writes FILE.", type=FILE
    )
    workers: int | None = option(
        "Start N processes (local), or wait for N workers (cluster).", type=click.IntRange(min=1), metavar="N"
    )
    wait: float = option(
        "Longest wait for a scheduler file and for workers; the command then starts with the workers that "
        "have connected.",
        type=click.FloatRange(min=0),
        default=300.0,
        metavar="SECONDS",
    )
    tls_ca: Path | None = option(
        "Certificate of the authority that signed the cluster's certificates.", type=EXISTING_FILE
    )
    tls_cert: Path | None = option(
        "Certificate of this process, for an encrypted cluster.", type=EXISTING_FILE
    )
    tls_key: Path | None = option("Private key of --tls-cert.", type=EXISTING_FILE)

    def __post_init__(self) -> None:
        if self.scheduler_file is not None and self.scheduler != "threads":
            raise click.UsageError(
                f"--scheduler-file names a scheduler, and so does --scheduler {self.scheduler}: give one of "
                "them."
            )
        tls = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        missing = [name for name, path in tls.items() if path is None]
        if missing and len(missing) < len(tls):
            verb = "is" if len(missing) == 1 else "are"
            raise click.UsageError(
                f"TLS needs --tls-ca, --tls-cert and --tls-key; {' and '.join(missing)} {verb} missing: give "
                "all three, or none."
            )
        if self._is_in_process and (self.workers is not None or not missing):
            raise click.UsageError(
                f"--workers and --tls-* need a cluster, and --scheduler is {self.scheduler}: give "
                "--scheduler local or an address, or leave them out."
            )

    @property
    def _is_in_process(self) -> bool:
        return self.scheduler in _IN_PROCESS and self.scheduler_file is None

    @contextmanager
    def computing(self) -> Iterator[Client | None]:
        """Context in which Dask uses this scheduler; gives the client of a cluster, None without a cluster.

        Raises
        ------
        SchedulerError
            If there is no such scheduler.
        UnavailableError
            If the scheduler does not answer, no worker comes, or the scheduler is lost.
        """
        if self._is_in_process:
            with dask.config.set(scheduler=_IN_PROCESS[self.scheduler]):
                yield None
            return
        with ExitStack() as stack:
            # A client that fails to connect would remain the scheduler of all later computations.
            stack.enter_context(dask.config.set(scheduler=None))
            try:
                client = self._local(stack) if self.scheduler == "local" else self._remote(stack)
                with connected(client):
                    yield client
            except UnavailableError:
                # The client would report the same loss again while it closes.
                for name in ("distributed", "distributed.client"):
                    logging.getLogger(name).setLevel(logging.CRITICAL)
                raise

    def _local(self, stack: ExitStack) -> Client:
        with blocked(), silent_workers() if is_json() else nullcontext():
            cluster = LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                security=self._security(),
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        if is_json():
            client.register_plugin(JsonWorker(), name="dasknmf-json")
        return client

    def _remote(self, stack: ExitStack) -> Client:
        if self.scheduler_file is not None:
            address = address_in(self.scheduler_file, self.wait)
        elif "://" in self.scheduler:
            address = self.scheduler
        else:
            raise SchedulerError(
                f"the scheduler {self.scheduler!r} is unknown; it must be threads, sync, local or an address "
                "such as tcp://host:8786: correct it."
            )
        try:
            client = stack.enter_context(Client(address, security=self._security()))
        except (TypeError, ValueError) as error:
            raise SchedulerError(
                f"cannot connect to the scheduler {address!r} ({brief(error)}); an address looks like "
                "tcp://host:8786, or tls://host:8786 with --tls-ca, --tls-cert and --tls-key: correct it."
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"no scheduler answers at {address} ({brief(error)}); it must be running and reachable: "
                "start it with 'dask scheduler', or correct the address, and start the same command again."
            ) from error
        with connected(client):
            self._await_workers(client)
        return client

    def _security(self) -> Security | None:
        if self.tls_ca is None:
            return None
        files = {
            f"tls_{role}_{name}": str(path)
            for role in ("client", "scheduler", "worker")
            for name, path in (("cert", self.tls_cert), ("key", self.tls_key))
        }
        return Security(require_encryption=True, tls_ca_file=str(self.tls_ca), **files)

    def _await_workers(self, client: Client) -> None:
        wanted = self.workers or 1
        with suppress(TimeoutError):
            client.wait_for_workers(wanted, timeout=max(self.wait, 0.01))
        came = len(client.nthreads())
        if not came:
            raise UnavailableError(
                f"no worker has connected to the scheduler at {client.scheduler.address} within "
                f"{self.wait:g} s; at least one is needed: start workers and then the same command again, or "
                "raise --wait."
            )
        if came < wanted:
            note(f"{came} of {wanted} workers connected within {self.wait:g} s: starting with these")
        else:
            note(f"{counted(came, 'worker')} connected")


def address_in(file: Path, wait: float) -> str:
    """The address in a scheduler file, for which the command waits up to `wait` seconds.

    Raises
    ------
    UnavailableError
        If there is no such file in time.
    SchedulerError
        If the file is not a scheduler file.
    """
    end = time.monotonic() + wait
    problem: UnavailableError | SchedulerError
    while True:
        try:
            return str(json.loads(file.read_text())["address"])
        except FileNotFoundError:
            problem = UnavailableError(
                f"the scheduler file {str(file)!r} did not appear within {wait:g} s; 'dask scheduler "
                "--scheduler-file' writes it: start a scheduler, correct the path, or raise --wait, and "
                "start the same command again."
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = SchedulerError(
                f"the scheduler file {str(file)!r} cannot be read ({error}); 'dask scheduler "
                "--scheduler-file' writes such a file: correct the path."
            )
        if time.monotonic() > end:
            raise problem
        time.sleep(_LOOK)
