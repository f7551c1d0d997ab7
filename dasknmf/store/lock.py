"""One writer at a time: a lock that a dead process cannot keep.

The lock is a key that is created only where it does not exist. It names its process and is renewed
while that lives. A lock of a dead process of this host is taken over at once; one of another host is
watched: a writer that lives renews it meanwhile, and who has not for as long as a lease is dead. No
clock is compared with another's. Stores without an atomic create, and writers that slept longer than
their lease, can still let two in: a process that opens a run commits its own writer_id first, and
`StoredRun.check_owner` stops the other before its next commit.
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
from dasknmf.io.retry import hurried
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
"""Seconds from one look at another's lock to the next."""
_MOST = 2**16
"""Bytes of its content."""
_SETTLE = 0.2
"""Seconds in which another who takes over the same lock has written its own token."""

_NOBODY = Holder("", "", 0, 0.0, 0.0)

_held: weakref.WeakSet[Any] = weakref.WeakSet()
"""The locks of this process."""


class Lock:
    """Holds the lock of a run from `__init__` to `release`, renewing it in the background.

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
            self._take()
        except BaseException:
            _held.discard(self)
            raise
        self._renewing = threading.Thread(target=self._renew, name="dasknmf-lock", daemon=True)
        self._renewing.start()

    def _take(self) -> None:
        store = self._store
        keys.put_if_absent(store, _KEY, self._content())
        holder = _holder(store)
        if holder.token != self.token:
            if _outlives(store, holder):
                raise RunLockedError(
                    f"the run at {str(store)!r} is being written by {_named(holder)}; a run has one writer: "
                    "wait for it or stop it, or, if that is no fit, break the lock with 'dasknmf unlock'."
                )
            keys.put(store, _KEY, self._content())
        if holder.token != self.token or not isinstance(store, LocalStore):
            # Where a key is not created atomically two may have found none.
            time.sleep(_SETTLE)
            if not self.is_held():
                raise RunLockedError(
                    f"the run at {str(store)!r} was taken over by another process at the same moment; a "
                    "run has one writer: leave it to the other."
                )

    def is_held(self) -> bool:
        """Whether the lock is still ours."""
        return _holder(self._store).token == self.token

    def seems_held(self) -> bool:
        """Whether the lock is still ours: one attempt, with the errors of the store."""
        return _glanced(self._store).token == self.token

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._released.set()
        _held.discard(self)
        self._renewing.join()
        # A process that ends because the store is out of reach does not wait for it once more.
        try:
            with hurried():
                if self.is_held():
                    keys.delete_key(self._store, _KEY)
        except (RunAccessError, UnavailableError) as error:
            log.warning("%s; the lock is free as soon as this process ends or starts the same again", error)

    def _renew(self) -> None:
        while not self._released.wait(_RENEWED):
            # Without retries: a late write would take the lock from its next holder. The lease outlasts four
            # renewals.
            with suppress(RunAccessError, UnavailableError), hurried():
                if not self.is_held():
                    return
                keys.put(self._store, _KEY, self._content())

    def _content(self) -> bytes:
        content = {"token": self.token, **asdict(Owner.this()), "time": time.time()}
        return json.dumps(content).encode()


def let_go() -> None:
    """Release every lock of this process: the last that one does which ends at once."""
    for lock in list(_held):
        with suppress(Exception):  # nothing is lost: the lock is then free after its lease
            lock.release()


def broken(store: Store) -> str | None:
    """Remove the lock of a run, and return its holder; None if there was none.

    A living writer is stopped before its next commit.
    """
    holder = _holder(store)
    if not holder.token:
        return None
    keys.delete_key(store, _KEY)
    return _named(holder)


def writer(store: Store) -> str | None:
    """The living process that writes the run in a store; None if there is none.

    For a process of another host the clocks of both hosts decide: good enough to be shown.
    """
    holder = _holder(store)
    alive = _lives_here(holder)
    if alive is None:
        alive = time.time() - holder.time < _LEASE
    return _named(holder) if alive else None


def _named(holder: Holder) -> str:
    return f"process {holder.pid} on {holder.host.split(' ', 1)[0]}"


def _holder(store: Store) -> Holder:
    return keys.reached(store, _KEY, "read", lambda: _glanced(store))


def _glanced(store: Store) -> Holder:
    try:
        return converted(parsed(keys.glance(store, _KEY, _MOST) or b"{}"), Holder)
    except ValueError:
        return _NOBODY  # half of a lock, or other content, holds nothing


def _lives_here(holder: Holder) -> bool | None:
    """Whether the process of a lock lives on this machine; None if it is one of another."""
    if not holder.token:
        return False
    owner = Owner(holder.host, holder.pid, holder.started)
    if owner == Owner.this():
        # A lock that could not be released, on a full disk for example, is held no more.
        return any(lock.token == holder.token for lock in list(_held))
    return owner.lives


def _outlives(store: Store, holder: Holder) -> bool:
    """Whether the writer of a lock still lives, of another machine watched for as long as its lease."""
    alive = _lives_here(holder)
    if alive is not None:
        return alive
    log.warning(
        "the run at %s is locked by %s; up to %.0f s for a sign of life", store, _named(holder), _LEASE
    )
    end = time.monotonic() + _LEASE
    while time.monotonic() < end:
        time.sleep(_LOOK)
        now = _holder(store)
        if now != holder:
            return bool(now.token)  # renewed, or released
    return False
