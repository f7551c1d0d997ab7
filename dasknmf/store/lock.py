"""One writer at a time: a lock that a dead process cannot keep.

The lock is a key that is created only where it does not exist. It names its process and is renewed
while that lives; a lock of a dead process of this host, or one that was not renewed within its
lease, is taken over. Stores without an atomic create, and two clocks that disagree, can still let
two writers in: whoever opens a run commits its own epoch first, and `StoredRun.check_owner` stops
the other before its next commit.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from dasknmf.errors import RunLockedError
from dasknmf.store import records

_KEY = "lock"
_LEASE = 120.0
"""Seconds after which a lock that was not renewed is free."""
_SETTLE = 0.2
"""Seconds in which another who takes over the same lock has written its own token."""


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
        holder = _holder(store)
        if holder["token"] != self.token:
            if _alive(holder):
                raise RunLockedError(
                    f"the run at {str(store)!r} is being written by process {holder['pid']} on "
                    f"{holder['host']} (seen {time.time() - holder['time']:.0f} s ago); a run has one "
                    f"writer: wait for it, stop it, or retry after its lease of {_LEASE:.0f} s."
                )
            records.put(store, _KEY, self._content())
            time.sleep(_SETTLE)
            if not self.is_held():
                raise RunLockedError(
                    f"the run at {str(store)!r} was taken over by another process at the same moment; a "
                    "run has one writer: leave it to the other."
                )
        self._renewing = threading.Thread(target=self._renew, name="dasknmf-lock", daemon=True)
        self._renewing.start()

    def is_held(self) -> bool:
        """Whether the lock is still ours."""
        return bool(_holder(self._store)["token"] == self.token)

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._released.set()
        self._renewing.join()
        if self.is_held():
            records.delete_key(self._store, _KEY)

    def _renew(self) -> None:
        while not self._released.wait(_LEASE / 4):
            try:
                if not self.is_held():
                    return
                records.put(self._store, _KEY, self._content())
            except OSError:
                continue  # a store out of reach for a moment: the lease outlasts three of these

    def _content(self) -> bytes:
        process = psutil.Process()
        content = {
            "token": self.token,
            "host": _host(),
            "pid": process.pid,
            "started": process.create_time(),
            "time": time.time(),
        }
        return json.dumps(content).encode()


def writer(store: Any) -> str | None:
    """Who writes the run in a store now; None where nobody alive does."""
    holder = _holder(store)
    return f"process {holder['pid']} on {holder['host'].split()[0]}" if _alive(holder) else None


def _holder(store: Any) -> dict[str, Any]:
    nobody = {"token": "", "host": "", "pid": 0, "started": 0.0, "time": 0.0}
    try:
        return nobody | json.loads(records.get(store, _KEY) or b"{}")
    except ValueError:
        return nobody  # half of a lock holds nothing


def _host() -> str:
    """This machine since it was started, and the space in which its process numbers count.

    Containers may share a host's name, and hosts a name in their images.
    """
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux
    return " ".join(parts)


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == _host():
        if holder["pid"] == os.getpid():
            return True
        try:
            # A new process may have been given the old one's number: compare when it began.
            return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0)
        except psutil.NoSuchProcess:
            return False
    return bool(time.time() - holder["time"] < _LEASE)
