"""How a command ends at its last commit within a second, when a signal or its limit of time says so.

Python runs a signal's handler between two steps of the main thread, which may be seconds inside BLAS or a
compiled kernel. So a thread hears signals, too: if the main thread has not come to an orderly end soon
after, it ends the process. Nothing is lost by that: what is committed stands, and nothing else counts.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dasknmf.cli.signals_early import SIGNALS, TRY_AGAIN
from dasknmf.core.history import Record
from dasknmf.store.lock import let_go

_ORDERLY = 0.65
"""Seconds in which the main thread may end everything itself."""
_LAST = 0.2
"""Seconds for the locks and the line, where it has not."""


class Stopped(KeyboardInterrupt):
    """The command was asked to end."""


class Stop:
    """Whether a command was asked to end, and how it ends then.

    Parameters
    ----------
    run : str
        Where its passes are committed.
    overwrites : bool
        Whether the same command would start over.
    say : callable
        Takes the line that says how the command ended.
    max_seconds : float, optional
        From now.
    """

    def __init__(
        self,
        run: str,
        *,
        overwrites: bool,
        say: Callable[[str], None],
        max_seconds: float | None = None,
    ) -> None:
        self._run, self.say = run, say
        self.goes_on: bool | None = False if overwrites else None
        """Whether something is committed that the same command goes on from; None until one has looked."""
        self._command = "the same command without --overwrite" if overwrites else "the same command"
        self._limit = max_seconds
        self._began = time.monotonic()
        self._after = ""
        self._why = ""
        self._raised = False
        self.is_urgent = False
        """Whether a second is all there is."""
        self._said = threading.Lock()

    @property
    def asked(self) -> bool:
        return bool(self._why)

    def committed(self, record: Record) -> None:
        """A callback of fits: a pass is committed."""
        self.goes_on = True
        self._after = f" after pass {record.iteration}" if record.iteration else f" after its {record.phase}"

    def before_the_limit(self, record: Record, *, finished: Callable[[], bool]) -> None:
        """Stop where a pass that takes as long as the last one would not end in time.

        Parameters
        ----------
        record : Record
            Of the last pass.
        finished : callable
            Whether there will be none.
        """
        if self._limit is None or time.monotonic() - self._began + record.seconds <= self._limit:
            return
        if not finished():
            self._why = self._limit_told
            raise Stopped

    def line(self) -> str:
        if self.goes_on is None:
            return f"stopped by {self._why} before any pass; {self._command} goes on ({TRY_AGAIN}: try again)"
        if not self.goes_on:
            return (
                f"stopped by {self._why} before the first commit; the same command starts again from the "
                f"beginning ({TRY_AGAIN}: try again)"
            )
        after = self._after or " before another pass was committed"
        return (
            f"stopped by {self._why}{after}; {self._command} goes on from {self._run} "
            f"({TRY_AGAIN}: try again)"
        )

    def leave(self) -> None:
        """Say so, once, and end: at once where a signal asked, since threads may compute for long yet."""
        if self._said.acquire(blocking=False):
            self.say(self.line())
        if not self.is_urgent:
            sys.exit(TRY_AGAIN)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        _end()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals and the limit of time meanwhile."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        wakes = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, self._heard) for number in SIGNALS}
        listener = threading.Thread(target=self._listen, args=(reading,), name="dasknmf-stop", daemon=True)
        listener.start()
        try:
            yield
        finally:
            # A command that was asked to end is not asked again: nothing is set back.
            if not self.is_urgent:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakes)
                os.close(writing)  # which the listener reads as its end
                listener.join()
                os.close(reading)

    @property
    def _limit_told(self) -> str:
        return f"--max-seconds {self._limit:g}"

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._asked_by(signal.Signals(number).name)
        if not self._raised:
            self._raised = True
            raise Stopped

    def _asked_by(self, why: str) -> None:
        self.is_urgent = True
        if not self._why:
            self._why = why
            _hush()

    def _listen(self, reading: int) -> None:
        while True:
            left = None if self._limit is None else max(0.0, self._began + self._limit - time.monotonic())
            if select.select([reading], [], [], left)[0]:
                heard = os.read(reading, 64)
                if not heard:
                    return
                if not set(heard) & set(SIGNALS):
                    continue
                self._asked_by(next(signal.Signals(each).name for each in heard if each in SIGNALS))
            else:
                self._asked_by(self._limit_told)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            break
        time.sleep(_ORDERLY)
        last = threading.Thread(target=self._last, name="dasknmf-last", daemon=True)
        last.start()
        last.join(_LAST)
        _end()

    def _last(self) -> None:
        """What may take longer than there is time: a store or a terminal may not answer."""
        if self._said.acquire(blocking=False):
            self.say(self.line())
        let_go()


def _hush() -> None:
    """What is said of work that is left in the middle is no news to who asked for it."""
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None


def _end() -> None:
    """End this process and its workers, whatever they do."""
    try:
        workers = [process.pid for process in multiprocessing.active_children()]
        sys.setswitchinterval(_LAST)  # no other thread is to see a worker dead, and to begin one in its place
        for pid in workers:
            with suppress(OSError):  # one that has ended meanwhile
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
    finally:
        os._exit(TRY_AGAIN)


_stops: list[Stop] = []
"""That of the command at work."""


def asked() -> Stop | None:
    """The stop of the command at work, if it was asked to end."""
    return next((stop for stop in _stops if stop.asked), None)


def unsaid() -> None:
    """This process is a part of the command that ends without a word."""
    for stop in _stops:
        stop.say = lambda line: None


def forget() -> None:
    """A command begins."""
    _stops.clear()


@contextmanager
def stopping(stop: Stop) -> Iterator[Stop]:
    """Let a stop end what is done in here; `asked` then tells of it."""
    _stops.append(stop)
    with stop.listening():
        yield stop


@contextmanager
def unheard() -> Iterator[None]:
    """Processes and threads that are begun in here hear none of the signals: this process tells them.

    A terminal or a batch system sends them to every process. Blocked ones stay so in all that these
    processes begin later, a worker in place of a lost one among them; the listener still hears them here.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Of workers that are killed, Python's own helper puts away what they leave; that it says so is no news.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        yield
    finally:
        sys.warnoptions.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
