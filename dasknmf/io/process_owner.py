"""Owners of files: the process that left them, and whether it still lives.

A process is its number on a machine since that was started, and when it began: numbers are given again.
When it began is counted from the start of the machine, since clocks are set while processes run.
"""

from __future__ import annotations

import os
import socket
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Owner:
    """A process.

    Parameters
    ----------
    host : str
        Its machine since that was started, and the space in which its number counts.
    pid : int
    started : float
        When it began, in units of this kind of machine.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> Owner:
        """This process."""
        return cls(_host(), os.getpid(), _started(os.getpid()) or 0.0)

    @property
    def lives(self) -> bool | None:
        """Whether the process lives on this machine; None if it belongs to another."""
        if self.host != _host():
            return None
        try:
            started = _started(self.pid)
        except psutil.AccessDenied:
            return True  # a process of this number exists, and its start is hidden
        return started is not None and abs(started - self.started) < 1.0


def signed() -> str:
    """A unique part of a name, by which `left_behind` finds the owner."""
    owner = Owner.this()
    return f"{_short(owner.host)}-{owner.pid:x}-{int(owner.started):x}-{uuid.uuid4().hex[:8]}"


def left_behind(names: Iterable[str]) -> list[str]:
    """The names that begin with a signature of a dead process of this machine; see `signed`."""
    here = _host()
    left = []
    for name in names:
        host, *rest = name.split("-")
        try:
            pid, started = (int(each, 16) for each in rest[:2])
        except ValueError:
            continue  # without a signature
        if host == _short(here) and not Owner(here, pid, started).lives:
            left.append(name)
    return left


def _short(host: str) -> str:
    return f"{zlib.crc32(host.encode()):08x}"


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


def _started(pid: int) -> float | None:
    """When a process began; None if there is none, or only a zombie.

    Raises
    ------
    psutil.AccessDenied
    """
    if Path("/proc/self/stat").exists():
        try:
            # The name before it, in parentheses, may hold anything.
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError as error:
            if psutil.pid_exists(pid):
                raise psutil.AccessDenied(pid) from error
            return None
        return None if state in "ZX" else float(fields[18])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
