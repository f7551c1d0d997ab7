"""``dasknmf unlock``."""

from __future__ import annotations

from dataclasses import dataclass

import click

from dasknmf import open_run
from dasknmf.cli.options import argument, command
from dasknmf.cli.output import note
from dasknmf.store import keys
from dasknmf.store.lock import break_lock, writer


@dataclass(frozen=True, kw_only=True)
class UnlockJob:
    """Arguments of `unlock`."""

    run: str = argument()


@command(UnlockJob)
def unlock(job: UnlockJob) -> None:
    """Remove the lock of RUN, whoever holds it.

    This is seldom needed: the lock of a process that has ended is taken over automatically. A process that
    still writes the run stops before it saves its next pass.
    """
    run = job.run
    store = keys.opened(run)
    alive, holder = writer(store), break_lock(store)
    if holder is None:
        open_run(run)  # raises if there is no run; a lock may precede the first record
    if alive is not None:
        note(f"warning: {alive} was writing the run; it stops before its next commit, and can be restarted")
    click.echo(f"{run} was not locked" if holder is None else f"{run} was locked by {holder}: unlocked")
