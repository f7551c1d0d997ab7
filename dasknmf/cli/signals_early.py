"""Signals before and after a command's own work: while it is imported, and where it has nothing to put away.

Only what Python has imported by itself: this is heard first. A handler is also what process 1 of a container
needs, which the system otherwise lets ignore a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

TRY_AGAIN = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: the same command started again goes on."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_GO_ON = ("fit", "sweep", "consensus")
"""The commands that commit what they do, and go on from there."""


def listen() -> None:
    """End at once from now on when a signal says so, unless a command hears it in its own way."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def interruptible() -> None:
    """Let Ctrl-C interrupt the command at work, where it has no better way to end."""
    if not _goes_on() and signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _goes_on() -> bool:
    return sys.argv[1:2] != [] and sys.argv[1] in _GO_ON


def _leave(number: int, frame: FrameType | None) -> None:
    code = TRY_AGAIN if _goes_on() else 128 + number
    try:
        if code == TRY_AGAIN:
            os.write(2, _line(signal.Signals(number).name).encode())
    finally:
        os._exit(code)


def _line(name: str) -> str:
    text = f"stopped by {name} outside of any pass ({TRY_AGAIN}: try again)"
    if "json" not in " ".join(sys.argv).replace("=", " ").partition("--log-format ")[2].split(" ")[:1]:
        return f"{text}\n"
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return f'{{"time": "{now}", "event": "stopped", "message": "{text}", "exit_code": {TRY_AGAIN}}}\n'
