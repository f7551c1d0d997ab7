"""The process of a client that faults strike: one fit, as its argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from distributed import Client
from zarr.storage import LocalStore

from dasknmf.core.history import Record
from dasknmf.errors import DaskNMFError
from dasknmf.store import lock
from tests.faults.machines import Log, fit, watched

REFUSED = 4


class Deadly(LocalStore):
    """A directory one write to which is the last thing that this process does."""

    moment: tuple[str, int, str] | None = None
    hits = 0

    async def set(self, key: str, value: Any) -> None:
        begins, number, when = type(self).moment or ("", 0, "")
        Deadly.hits += key.startswith(begins)
        if key.startswith(begins) and Deadly.hits == number:
            if when == "half":
                path = self.root / key
                path.with_suffix(".killed.partial").write_bytes(value.to_bytes()[: len(value) // 2])
            if when == "after":
                await super().set(key, value)
            os.kill(os.getpid(), signal.SIGKILL)
        await super().set(key, value)


def main(
    root: str,
    address: str | None = None,
    seconds: float = 0.1,
    stage: str | None = None,
    lease: float | None = None,
    dies: tuple[str, int, str] | None = None,
    **changes: Any,
) -> None:
    """Fit V of a directory into the run beside it, and write each commit down.

    Parameters
    ----------
    root : str
    address : str or None
        Of a scheduler; without one threads of this process.
    seconds : float
        That each panel takes.
    stage : str or None
    lease : float or None
        Seconds after which a lock of another machine is free.
    dies : tuple of (str, int, str) or None
        How a key begins, at the which-th write of which it kills itself; "before", "half" or "after".
    **changes
        Of the parameters of the model.
    """
    log = Log(Path(root) / "log")

    def committed(record: Record) -> None:
        log.add(what="commit", iteration=record.iteration, phase=record.phase)

    Deadly.moment = dies
    run = {
        "checkpoint": Deadly(f"{root}/run") if dies else f"{root}/run",
        "stage": stage,
        "callbacks": [committed],
    }
    with ExitStack() as stack:
        if lease is not None:
            times = {"_LEASE": lease, "_RENEWED": lease / 8, "_LOOK": lease / 20}
            stack.enter_context(mock.patch.multiple(lock, **times))
        scheduler = stack.enter_context(Client(address, set_as_default=False)) if address else None
        fit(watched(Path(root), seconds), scheduler, run, **changes)


if __name__ == "__main__":
    if "FAKETIME" in os.environ:
        # It refuses sleeps until a time of a clock that it leaves alone, which is how Python sleeps.
        time.sleep = lambda seconds: threading.Event().wait(seconds) and None
    try:
        main(**json.loads(sys.argv[1]))
    except DaskNMFError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(REFUSED)
