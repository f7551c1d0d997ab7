"""One writer at a time: a lock that a dead process cannot keep.

The lock is a key that is created only where it does not exist. It names its process and is renewed
while that lives; a lock of a dead process of this host, or one that was not renewed within its
lease, is taken over. Stores without an atomic create, and two clocks that disagree, can still let
two writers in: the epoch in the commit record then stops the one that lost (`RunStore.commit`).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from typing import Any

import psutil

from dasknmf.errors import RunLockedError
from dasknmf.store import records

_KEY = "lock"
_LEASE = 120.0
"""Seconds after which a lock that was not renewed is free."""


class Lock:
    """Holds the lock of a run from `__init__` to `release`, renewing it in the background.

    Raises
    ------
    RunLockedError
        If another live process holds it.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.token = uuid.uuid4().hex[:12]
        self._released = threading.Event()
        records.put_if_absent(store, _KEY, self._content())
        holder = self._holder()
        if holder["token"] != self.token:
            if _alive(holder):
                raise RunLockedError(
                    f"the run at {str(store)!r} is being written by process {holder['pid']} on "
                    f"{holder['host']} (seen {time.time() - holder['time']:.0f} s ago); a run has one "
                    f"writer: wait for it, stop it, or retry after its lease of {_LEASE:.0f} s."
                )
            records.put(store, _KEY, self._content())
        self._renewing = threading.Thread(target=self._renew, name="dasknmf-lock", daemon=True)
        self._renewing.start()

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._released.set()
        self._renewing.join()
        if self._holder()["token"] == self.token:
            records.delete_key(self._store, _KEY)

    def _renew(self) -> None:
        while not self._released.wait(_LEASE / 4):
            try:
                if self._holder()["token"] == self.token:
                    records.put(self._store, _KEY, self._content())
            except OSError:
                continue  # a store out of reach for a moment: the lease outlasts three of these

    def _content(self) -> bytes:
        process = psutil.Process()
        content = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": process.pid,
            "started": process.create_time(),
            "time": time.time(),
        }
        return json.dumps(content).encode()

    def _holder(self) -> dict[str, Any]:
        nobody = {"token": "", "host": "", "pid": 0, "started": 0.0, "time": 0.0}
        try:
            return nobody | json.loads(records.get(self._store, _KEY) or b"{}")
        except ValueError:
            return nobody  # half of a lock holds nothing


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        if holder["pid"] == os.getpid():
            return True
        try:
            # A new process may have been given the old one's number: compare when it began.
            return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0)
        except psutil.NoSuchProcess:
            return False
    return bool(time.time() - holder["time"] < _LEASE)
