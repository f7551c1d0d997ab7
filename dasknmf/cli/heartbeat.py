"""Heartbeat of a running command: a file that is touched, and JSON objects on stderr.

Both show that the process lives and that its scheduler answers. Neither shows that the current pass will end:
the objects hold the seconds since the last commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from distributed import Client

from dasknmf.cli.output import event, is_json

_ANSWER = 5.0
"""Seconds in which a scheduler must answer."""


class Heartbeat:
    """Heartbeat between commits.

    Parameters
    ----------
    file : Path, optional
        A file that is touched as long as the scheduler answers.
    touch_every, event_every : float
        Seconds between two touches; seconds without a commit or an object, after which an object follows.
    """

    def __init__(self, file: Path | None, *, touch_every: float = 10.0, event_every: float = 30.0) -> None:
        self._file, self._touch_every, self._event_every = file, touch_every, event_every
        self.client: Client | None = None
        """Client of the cluster, once it is connected."""
        self._over = threading.Event()
        self._committed = time.monotonic()

    def workers(self) -> int | None:
        """The number of worker processes; None if the scheduler does not answer, 1 without a cluster."""
        client = self.client
        if client is None:
            return 1
        if client.status == "running":
            with suppress(Exception):  # any error means that the scheduler does not answer
                return len(client.sync(client.scheduler.ncores, callback_timeout=_ANSWER))
        return None

    def committed(self) -> None:
        """Restart the count of seconds, at the commit of a pass."""
        self._committed = time.monotonic()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Context with a thread that writes the heartbeat."""
        threading.Thread(target=self._beat, name="dasknmf-heartbeat", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.is_set():
            workers = self.workers()
            if self._over.is_set():
                return
            if self._file is not None and workers is not None:
                with suppress(OSError):  # a probe sees that the file is old
                    self._file.touch()
            now = time.monotonic()
            if is_json() and now - max(last, self._committed) >= self._event_every:
                last = now
                seconds = round(now - self._committed, 1)
                event("heartbeat", "a pass is running", seconds_since_commit=seconds, workers=workers)
            self._over.wait(self._touch_every)


def in_directory(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Callback of the option: refuse a file whose directory does not exist.

    Raises
    ------
    click.BadParameter
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise click.BadParameter(
            f"the directory of {str(file)!r} does not exist; the file is touched while the command works: "
            "make the directory, or name another.",
            context,
            parameter,
        )
    return file
