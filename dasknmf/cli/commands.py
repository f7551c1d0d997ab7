"""The commands of the command line."""

from __future__ import annotations

import click

from dasknmf import __version__
from dasknmf.cli import consensus, demo, export, fit, info, report, sweep, top, transform, unlock


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Nonnegative matrix factorization of matrices that do not fit in memory."""


for command in (
    fit.fit,
    sweep.sweep,
    consensus.consensus,
    transform.transform,
    export.export,
    top.top,
    info.info,
    report.report,
    demo.demo,
    unlock.unlock,
):
    main.add_command(command)
