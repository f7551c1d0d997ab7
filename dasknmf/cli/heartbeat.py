"""A sign of life while a command works: a file that is touched, and objects on stderr.

Both tell that the process lives and that a scheduler answers. Neither tells whether the pass at work will
end: how long one may take nobody knows before it has, so the objects say since when nothing was committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from dasknmf.cli.output import said

_TOUCHED = 10.0
_SAID = 30.0
_ANSWER = 5.0
"""Seconds: from one touch to the next, from one object to the next, and for the scheduler to answer."""


def present(client: Any) -> int | None:
    """How many worker processes there are now; None if the scheduler does not answer.

    Parameters
    ----------
    client : distributed.Client or None
        Without one there is this process.
    """
    if client is None:
        return 1
    if client.status == "running":
        with suppress(Exception):  # of many kinds, which all mean that nobody answers
            return len(client.sync(client.scheduler.ncores, callback_timeout=_ANSWER))
    return None


class Pulse:
    """What a command tells of itself between commits.

    Parameters
    ----------
    file : path or None
        Touched as long as the scheduler answers.
    as_json : bool
        Whether long passes are told about.
    """

    def __init__(self, file: Path | None, *, as_json: bool) -> None:
        self._file, self._as_json = file, as_json
        self.client: Any = None
        """Of the cluster, from when it is connected."""
        self._over = threading.Event()
        self._committed = time.monotonic()

    def workers(self) -> int | None:
        return present(self.client)

    def committed(self) -> None:
        self._committed = time.monotonic()

    @contextmanager
    def beating(self) -> Iterator[None]:
        thread = threading.Thread(target=self._beat, name="dasknmf-pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()

    def _beat(self) -> None:
        told = time.monotonic()
        while True:
            workers = self.workers()
            if self._over.is_set():
                return
            if self._file is not None and workers is not None:
                with suppress(OSError):  # whoever looks at it sees that it is old
                    self._file.touch()
            now = time.monotonic()
            if self._as_json and now - max(told, self._committed) >= _SAID:
                told = now
                since = round(now - self._committed, 1)
                said("heartbeat", "at work", as_json=True, seconds_since_commit=since, workers=workers)
            if self._over.wait(_TOUCHED):
                return


def checked(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """A callback of the option."""
    if file is not None and not file.absolute().parent.is_dir():
        raise click.BadParameter(
            f"the directory of {str(file)!r} does not exist; the file is touched while the command works: "
            "make the directory, or name another.",
            context,
            parameter,
        )
    return file
