"""``dasknmf unlock``."""

from __future__ import annotations

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
    open_run(run)  # which says so where there is none
    holder = broken(keys.opened(run))
    click.echo(f"{run} was not locked" if holder is None else f"{run} was locked by {holder}: unlocked")
