"""Stores in which accesses fail as a table says: the n-th read or write of a key, or all from then on."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from tests.helpers import Killed


class WebError(aiohttp.ClientError):
    """What a web server answers, as clients of object stores raise it: no OSError."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


TRANSIENT: dict[str, Callable[[], Exception]] = {
    "EIO": lambda: os_error(errno.EIO),
    "timeout": lambda: TimeoutError("timed out"),
    "connection reset": lambda: os_error(errno.ECONNRESET),
    "503": lambda: WebError(503, "Slow Down"),
}
PERMANENT: dict[str, Callable[[], Exception]] = {
    "permission denied": lambda: os_error(errno.EACCES),
    "disk full": lambda: os_error(errno.ENOSPC),
    "read-only": lambda: os_error(errno.EROFS),
    "403": lambda: WebError(403, "Forbidden"),
}


@dataclass(frozen=True)
class Strike:
    """Which access a fault meets: the `nth` of a kind, to a key that begins so."""

    access: str
    """"read", "write", "delete" or "list"; "" for any."""
    key: str
    """As `plain` tells it."""
    nth: int = 1


@dataclass
class Fault:
    """An error at an access, before it, half way through a write, or when it was done."""

    strike: Strike
    error: Callable[[], BaseException]
    when: str = "before"
    times: float = 1
    """How often, at accesses that follow one another."""
    then: str = "key"
    """What fails from the first time on: "key": the same; "writes": every write and delete; "all"."""
    struck: int = 0
    _seen: int = 0

    def meets(self, access: str, key: str) -> bool:
        if self.struck and self.then != "key":
            return self.struck < self.times and (self.then == "all" or access in ("write", "delete"))
        if self.strike.access not in ("", access) or not key.startswith(self.strike.key):
            return False
        self._seen += 1
        return self.strike.nth <= self._seen < self.strike.nth + self.times


def death(strike: Strike, when: str = "before") -> Fault:
    """The end of the process: nothing reaches the store any more."""
    return Fault(strike, lambda: Killed(strike.key), when, math.inf, "all")


@dataclass
class Weather:
    """What happens to the accesses of one store."""

    faults: list[Fault] = field(default_factory=list)
    delay: float = 0.0
    """Seconds, of every access."""
    reads: Counter[str] = field(default_factory=Counter)
    log: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(
        self,
        access: str,
        key: str,
        call: Callable[[], Awaitable[Any]],
        half: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        if self.delay:
            await asyncio.sleep(self.delay)
        fault = self._due(access, plain(key))
        if fault is None:
            return await call()
        fault.struck += 1
        if fault.struck == 1 and fault.when == "after":
            await call()
        elif fault.struck == 1 and fault.when == "half" and half is not None:
            await half()
        raise fault.error()

    def _due(self, access: str, key: str) -> Fault | None:
        self.log.append((access, key))
        if access == "read":
            self.reads[key] += 1
        return next((fault for fault in self.faults if fault.meets(access, key)), None)


def plain(key: str) -> str:
    """A key without what differs from start to start: tokens of clients and of spare names."""
    key = re.sub(r"\.[0-9a-f]{32}\.spare$", "", key)
    return re.sub(r"-(?:[0-9a-f]{12}|[0-9a-f]{8})(?=/|$)", "", key)


class _Struck:
    """Every access of the store below goes through its weather."""

    weather: Weather

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        return await self.weather("read", key, lambda: super(_Struck, self).get(key, prototype, byte_range))

    async def set(self, key: str, value: Any) -> None:
        below = super().set
        await self.weather("write", key, lambda: below(key, value), lambda: below(key, _half(value)))

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        below = super().set_if_not_exists
        await self.weather("write", key, lambda: below(key, value))

    async def delete(self, key: str) -> None:
        below = super().delete
        await self.weather("delete", key, lambda: below(key))

    async def delete_dir(self, prefix: str) -> None:
        below = super().delete_dir
        await self.weather("delete", prefix, lambda: below(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async def nothing() -> None:
            return None

        await self.weather("list", prefix, nothing)
        async for name in super().list_dir(prefix):
            yield name


def _half(value: Any) -> Any:
    return value[: len(value) // 2]


class Directory(_Struck, LocalStore):
    """A directory with weather."""

    def __init__(self, root: Any, weather: Weather | None = None, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.weather = weather or Weather()

    def with_read_only(self, read_only: bool = False) -> Directory:
        return Directory(self.root, self.weather, read_only=read_only)


class Objects(_Struck, WrapperStore):
    """Any store with weather, which is no directory to those who ask: an object store."""

    def __init__(self, store: Any, weather: Weather | None = None) -> None:
        super().__init__(store)
        self.weather = weather or Weather()

    def _with_store(self, store: Any) -> Objects:
        return type(self)(store, self.weather)


class Hesitant(Objects):
    """Without an atomic create: who looks whether a key exists is overtaken before he writes it."""

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await asyncio.sleep(0.02)
            await self.set(key, value)


def bucket() -> MemoryStore:
    """What an object store holds, in this process."""
    return MemoryStore()
