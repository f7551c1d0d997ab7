"""Faults of real processes: schedulers, workers and clients that are killed, stopped and cut off."""

from __future__ import annotations

from tests.faults.of_clients import OF_CLIENTS
from tests.faults.of_storage import OF_STORAGE
from tests.faults.of_workers import OF_WORKERS

PROCESSES = (*OF_WORKERS, *OF_CLIENTS, *OF_STORAGE)
