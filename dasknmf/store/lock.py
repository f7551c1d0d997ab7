"""The lock of a run, which admits one writer and expires when that process dies.

The lock is a key that is created only if it does not exist. It names its process, which renews it. The lock
of a dead process of this host is taken over at once. The lock of another host is watched for the length of a
lease: if it is not renewed, its process is taken for dead; clocks of hosts are not compared. Two writers are
still possible in stores without an atomic create, or if a writer sleeps longer than its lease: each process
commits its writer_id first, and `StoredRun.check_owner` stops the other before its next commit.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
import weakref
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from dasknmf.errors import RunAccessError, RunLockedError, UnavailableError
from dasknmf.io.process_owner import Owner
from dasknmf.io.retry import without_retries
from dasknmf.store import keys
from dasknmf.store.convert import converted, parsed
from dasknmf.store.schema import Holder

log = logging.getLogger("dasknmf")

_KEY = "lock"
_RENEWED = 10.0
"""Seconds from one renewal to the next."""
_LEASE = 45.0
"""Seconds after which a lock that was not renewed is free."""
_LOOK = 1.0
"""Seconds between two reads of the lock of another machine."""
_MOST = 2**16
"""Largest size of a lock in bytes."""
_SETTLE = 0.2
"""Seconds within which a process that takes the lock at the same time has written its token."""

_NOBODY = Holder("", "", 0, 0.0, 0.0)

_held: weakref.WeakSet[Any] = weakref.WeakSet()
"""The locks of this process."""


class Lock:
    """The lock of a run, held from `__init__` to `release` and renewed in the background.

    Raises
    ------
    RunLockedError
        If another live process holds it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.token = uuid.uuid4().hex[:12]
        self._released = threading.Event()
        _held.add(self)
        try:
            self._acquire()
        except BaseException:
            _held.discard(self)
            raise
        self._renewing = threading.Thread(target=self._renew, name="dasknmf-lock", daemon=True)
        self._renewing.start()

    def _acquire(self) -> None:
        store = self._store
        keys.put_if_absent(store, _KEY, self._content())
        holder = _holder(store)
        if holder.token != self.token:
            if _is_alive(store, holder):
                raise RunLockedError(
                    f"the run at {str(store)!r} is being written by {_label(holder)}; a run has one writer: "
                    "wait for that process or stop it; if it is not a fit, remove the lock with 'dasknmf "
                    "unlock'."
                )
            keys.put(store, _KEY, self._content())
        if holder.token != self.token or not isinstance(store, LocalStore):
            # If creation is not atomic, two processes may both have created the lock.
            time.sleep(_SETTLE)
            if not self.is_held():
                raise RunLockedError(
                    f"the run at {str(store)!r} was taken over by another process at the same moment; a "
                    "run has one writer: let the other process continue."
                )

    def is_held(self) -> bool:
        """Whether this process still has the lock."""
        return _holder(self._store).token == self.token

    def is_held_once(self) -> bool:
        """As `is_held`, in one attempt and with the errors of the store."""
        return _holder_once(self._store).token == self.token

    def release(self) -> None:
        """Delete the lock, if this process still has it."""
        self._released.set()
        _held.discard(self)
        self._renewing.join()
        # Without retries: the process may be ending because the store is out of reach.
        try:
            with without_retries():
                if self.is_held():
                    keys.delete_key(self._store, _KEY)
        except (RunAccessError, UnavailableError) as error:
            log.warning("%s; the lock becomes free when this process ends or resumes the run", error)

    def _renew(self) -> None:
        while not self._released.wait(_RENEWED):
            # Without retries: a late write would take the lock from its next holder. The lease outlasts four
            # renewals.
            with suppress(RunAccessError, UnavailableError), without_retries():
                if not self.is_held():
                    return
                keys.put(self._store, _KEY, self._content())

    def _content(self) -> bytes:
        content = {"token": self.token, **asdict(Owner.this()), "time": time.time()}
        return json.dumps(content).encode()


def release_all() -> None:
    """Release every lock of this process, before it ends."""
    for lock in list(_held):
        with suppress(Exception):  # nothing is lost: the lock is then free after its lease
            lock.release()


def break_lock(store: Store) -> str | None:
    """Delete the lock of a run, and return its holder; None if there was no lock.

    A living writer stops before its next commit.
    """
    holder = _holder(store)
    if not holder.token:
        return None
    keys.delete_key(store, _KEY)
    return _label(holder)


def writer(store: Store) -> str | None:
    """The living process that writes the run in a store; None if no process does.

    For another host this compares the clocks of both hosts, so the answer is only for display.
    """
    holder = _holder(store)
    alive = _is_running_here(holder)
    if alive is None:
        alive = time.time() - holder.time < _LEASE
    return _label(holder) if alive else None


def _label(holder: Holder) -> str:
    return f"process {holder.pid} on {holder.host.split(' ', 1)[0]}"


def _holder(store: Store) -> Holder:
    return keys.with_retries(store, _KEY, "read", lambda: _holder_once(store))


def _holder_once(store: Store) -> Holder:
    try:
        return converted(parsed(keys.get_once(store, _KEY, _MOST) or b"{}"), Holder)
    except ValueError:
        return _NOBODY  # a partly written lock, or other content, is not a lock


def _is_running_here(holder: Holder) -> bool | None:
    """Whether the process of a lock is alive; None if it belongs to another machine."""
    if not holder.token:
        return False
    owner = Owner(holder.host, holder.pid, holder.started)
    if owner == Owner.this():
        # A lock that could not be released, on a full disk for example, is free.
        return any(lock.token == holder.token for lock in list(_held))
    return owner.lives


def _is_alive(store: Store, holder: Holder) -> bool:
    """Whether the writer of a lock is alive; a lock of another machine is watched for up to a lease."""
    alive = _is_running_here(holder)
    if alive is not None:
        return alive
    log.warning(
        "the run at %s is locked by %s; waiting up to %.0f s to see whether that process is alive",
        store,
        _label(holder),
        _LEASE,
    )
    end = time.monotonic() + _LEASE
    while time.monotonic() < end:
        time.sleep(_LOOK)
        now = _holder(store)
        if now != holder:
            return bool(now.token)  # renewed, or released
    return False
