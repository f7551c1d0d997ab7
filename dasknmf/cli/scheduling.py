"""The scheduler that the options name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask

from dasknmf.cli.stopping import unheard
from dasknmf.errors import SchedulerError


@contextmanager
def scheduled(scheduler: str, scheduler_file: Path | None) -> Iterator[None]:
    """Compute with the scheduler that the options name."""
    local = {"threads": "threads", "sync": "synchronous"}
    if scheduler_file is None and scheduler in local:
        with dask.config.set(scheduler=local[scheduler]):
            yield
        return
    from distributed import Client, LocalCluster

    if scheduler_file is None and scheduler == "local":
        with unheard():
            cluster = LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0")
        with cluster, Client(cluster):
            yield
        return
    if scheduler_file is None and "://" not in scheduler:
        raise SchedulerError(
            f"the scheduler {scheduler!r} is unknown; it must be threads, sync, local or an address such "
            "as tcp://host:8786: correct it."
        )
    try:
        client = Client(scheduler_file=str(scheduler_file)) if scheduler_file else Client(scheduler)
    except (OSError, ValueError) as error:
        where = scheduler_file or scheduler
        raise SchedulerError(
            f"no scheduler answers at {where} ({error}); it must be running and reachable: start it with "
            "'dask scheduler', or correct the address."
        ) from error
    with client:
        yield
