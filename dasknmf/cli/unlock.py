"""``dasknmf unlock``."""

from __future__ import annotations

from contextlib import suppress

import click

from dasknmf import open_run
from dasknmf.cli.exits import friendly
from dasknmf.store import keys
from dasknmf.store.lock import broken


@click.command()
@click.argument("run")
@friendly
def unlock(run: str) -> None:
    """Remove the lock of RUN, whoever holds it.

    A lock of a process that has ended is taken over by itself. If its writer lives after all, it is stopped
    before its next commit.
    """
    holder = None
    with suppress(FileNotFoundError):
        keys.opened(run, read_only=True)  # which makes no directory
        holder = broken(keys.opened(run))
    if holder is None:
        open_run(run)  # which says so where there is none; a lock may stand before the first record
    click.echo(f"{run} was not locked" if holder is None else f"{run} was locked by {holder}: unlocked")
