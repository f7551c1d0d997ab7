"""The end of a run by a signal or by its time limit.

A run store survives SIGKILL at every write, so the process ends at once. First it releases the lock and
writes one line with the last commit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dasknmf.cli.output import event, line_of
from dasknmf.core.history import Record
from dasknmf.store.lock import release_all

TRY_AGAIN = 75
"""Exit code, EX_TEMPFAIL of sysexits.h: the same command, started again, resumes the run."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_RELEASE = 3.0
"""Seconds that the release of the lock may take; a lock that is not released ends with its lease."""


class Stop:
    """The end of one command that commits its passes, with exit code 75.

    Parameters
    ----------
    run : str
        Path or URL of the run store.
    overwrite : bool
        Whether the same command would start over.
    max_seconds : float, optional
        The time limit, from now.
    """

    def __init__(self, run: str, *, overwrite: bool, max_seconds: float | None) -> None:
        self._run, self._max_seconds = run, max_seconds
        self._command = "the same command without --overwrite" if overwrite else "the same command"
        self._began = time.monotonic()
        self._limit = f"--max-seconds {max_seconds:g}" if max_seconds else ""
        self._after = " before another pass was committed"
        self._ending = threading.Lock()
        self.resumes: bool | None = False if overwrite else None
        """Whether the same command would resume from a commit; None until the run store has been opened."""

    def committed(self, record: Record) -> None:
        """Remember the last commit: a callback of fits."""
        self.resumes = True
        self._after = f" after pass {record.iteration}" if record.iteration else f" after the {record.phase}"

    def is_due(self, seconds: float) -> bool:
        """Whether a pass that takes `seconds` would end after the time limit."""
        elapsed = time.monotonic() - self._began
        return self._max_seconds is not None and elapsed + seconds > self._max_seconds

    def exit_before_limit(self) -> None:
        """End in order, between two passes."""
        event("stopped", self._line(self._limit), exit_code=TRY_AGAIN)
        sys.exit(TRY_AGAIN)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context in which signals and the time limit end this process at once."""
        handlers = {
            number: signal.signal(number, lambda number, _: self._end(signal.Signals(number).name))
            for number in SIGNALS
        }
        timer = threading.Timer(self._max_seconds or 0, self._end, [self._limit])
        timer.daemon = True
        if self._max_seconds is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _end(self, why: str) -> None:
        if not self._ending.acquire(blocking=False):
            return
        try:
            # In a thread, which is given up where the store does not answer.
            releasing = threading.Thread(target=release_all, daemon=True)
            releasing.start()
            releasing.join(_RELEASE)
            # Not through sys.stderr: the signal may have interrupted a write to it.
            line = line_of("stopped", self._line(why), exit_code=TRY_AGAIN)
            os.write(2, f"{line}\n".encode())
            with suppress(Exception):
                sys.stdout.flush()
        finally:
            os._exit(TRY_AGAIN)

    def _line(self, why: str) -> str:
        if self.resumes is None:
            what = f" before the first pass; {self._command} resumes the run"
        elif self.resumes:
            what = f"{self._after}; {self._command} resumes {self._run}"
        else:
            what = " before the first commit; the same command starts again from the beginning"
        return f"stopped by {why}{what} (exit code {TRY_AGAIN})"


@contextmanager
def blocked() -> Iterator[None]:
    """Context in which new threads and processes do not receive the signals; this process ends for them.

    A terminal or a batch system sends a signal to every process of a job.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # The resource tracker of multiprocessing warns about objects of killed workers, which it removes.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        yield
    finally:
        sys.warnoptions.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
