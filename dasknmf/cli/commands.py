"""The command line: options, messages and exit codes, around what Python has too.

Fits go through the public estimator, runs and their history; AnnData and stacks of images through `inputs`,
which open them, `singlecell`, `stacks` and `exports`.

Exit codes: 0 done; 1 a defect of dasknmf (with a traceback); 2 a wrong option or parameter; 3 V was
refused; 4 the run store was refused or could not be written; 5 it would not fit in memory, or its
stage on disk; 6 no usable scheduler; 75 stopped by a signal or a limit of time, or something that was
needed is out of reach; 130 another command was interrupted. After 4 (disk full), 5, 6 and 75 the same
command goes on from the last commit; 75 says that nothing else has to be done.
"""

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
