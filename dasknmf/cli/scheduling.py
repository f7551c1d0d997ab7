"""The scheduler that the options name."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import dask

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
        with _uninterrupted():
            cluster = LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0")
        with cluster, Client(cluster), _quiet_once_interrupted():
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
    with client, _quiet_once_interrupted():
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is begun in here does not hear Ctrl-C, which a terminal sends to every process: this one tells."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_once_interrupted() -> Iterator[None]:
    """What a client has to say of a pass that it leaves in the middle is no news to who asked for it."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        for name in ("distributed", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
