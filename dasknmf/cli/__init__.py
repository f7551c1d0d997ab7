"""The command line: ``dasknmf``."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command that the arguments of this process name.

    Commands that commit their passes replace these handlers while they work (`dasknmf.cli.signals`).
    """
    # Explicitly, since the kernel drops signals that process 1 of a container does not handle.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _exit)
    from dasknmf.cli.commands import main as command

    command()


def _exit(number: int, frame: FrameType | None) -> None:
    # By an exception, so that incomplete files are removed.
    sys.exit(128 + number)
