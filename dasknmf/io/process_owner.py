"""Owners of files: the process that wrote a file, and whether that process still runs.

A process is identified by machine, boot, process id and start time, as process ids are reused. The start
time counts from the boot, as clocks may be set while a process runs.
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
    """The identity of a process.

    Parameters
    ----------
    host : str
        Host name, boot and PID namespace.
    pid : int
        Process id.
    started : float
        Start time: clock ticks since boot on Linux, seconds elsewhere.
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
        """Whether the process runs; None if it belongs to another machine."""
        if self.host != _host():
            return None
        try:
            started = _started(self.pid)
        except psutil.AccessDenied:
            return True  # the process exists, and its start time may not be read
        return started is not None and abs(started - self.started) < 1.0


def signed() -> str:
    """A unique part of a file name, from which `left_behind` identifies the owner."""
    owner = Owner.this()
    return f"{_short(owner.host)}-{owner.pid:x}-{int(owner.started):x}-{uuid.uuid4().hex[:8]}"


def left_behind(names: Iterable[str]) -> list[str]:
    """The names that begin with the signature (see `signed`) of an ended process of this machine."""
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
    """The host name, boot and PID namespace of this process: host names alone need not be unique."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux
    return " ".join(parts)


def _started(pid: int) -> float | None:
    """The start time of a process; None if the process does not exist or is a zombie.

    Raises
    ------
    psutil.AccessDenied
    """
    if Path("/proc/self/stat").exists():
        try:
            # The process name, in parentheses, may contain spaces and parentheses.
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
