"""Fast starts of processes: forks of one that has finished its slow imports."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

REPOSITORY = Path(__file__).parents[2]

_PRELOADED = ["dasknmf.cli.commands", "distributed.nanny", "distributed.scheduler", "tests.faults.machines"]


@dataclass(frozen=True)
class Begun:
    """A process, and where it writes what it says."""

    of: Any
    says: Path

    @property
    def pid(self) -> int:
        return int(self.of.pid)

    @property
    def code(self) -> int | None:
        """Its exit code, a signal below zero; None while it lives."""
        return self.of.poll() if isinstance(self.of, subprocess.Popen) else self.of.exitcode

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it has."""
        self.of.kill()
        self.wait()

    def wait(self, seconds: float = 90.0) -> int:
        end = time.monotonic() + seconds
        while (code := self.code) is None:
            assert time.monotonic() < end, f"{self.pid} lives after {seconds:.0f} s: {self.told}"
            time.sleep(0.01)
        return code

    @property
    def told(self) -> str:
        return self.says.read_text()

    def ends(self, code: int, *says: str) -> None:
        """Wait for its end: with this code, and these words."""
        assert self.wait() == code, self.told
        for each in says:
            assert each in self.told, self.told


def begun(command: Sequence[Any], says: Path, *, within: Sequence[str] = (), **environment: str) -> Begun:
    """A process of this Python.

    Parameters
    ----------
    command : sequence
        A module that can be run, and its arguments.
    says : Path
        What it writes to its two streams is added to this file.
    within : sequence of str
        A command that runs another, in front of it: then nothing is imported before.
    **environment
        Variables of its environment.
    """
    name, *arguments = map(str, command)
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    if within:
        with open(says, "a") as file:
            process = subprocess.Popen(
                [*within, sys.executable, "-m", name, *arguments],
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        return Begun(process, says)
    forked = _server().Process(target=_run, args=(name, arguments, environment, str(says)))
    with mock.patch.dict(os.environ, environment):
        forked.start()
    return Begun(forked, says)


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run(name: str, arguments: list[str], environment: dict[str, str], says: str) -> None:
    os.chdir(REPOSITORY)
    os.environ.update(environment)
    file = os.open(says, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    _configure()
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _configure() -> None:
    """Dask has read its configuration when it was imported."""
    import dask

    dask.config.refresh()
