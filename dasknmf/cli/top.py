"""``dasknmf top``."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass
from textwrap import TextWrapper

import click

from dasknmf import open_run
from dasknmf.cli.options import argument, command, flag, option
from dasknmf.singlecell import leading_genes
from dasknmf.singlecell.entries import component_names
from dasknmf.store.run import Run

_WIDTHS = (60, 100)
"""Smallest and largest width of the table, which otherwise has the width of the terminal."""


@dataclass(frozen=True, kw_only=True)
class TopJob:
    """Arguments and options of `top`."""

    run: str = argument()
    n_genes: int = option(
        "Number of genes.", "-n", "--n-genes", type=click.IntRange(min=1), default=20, metavar="N"
    )
    as_csv: bool = flag("Write CSV, one line for each component.", "--csv")
    as_json: bool = flag("Write one JSON object, a list of genes for each component.", "--json")


@command(TopJob)
def top(job: TopJob) -> None:
    """List the genes with the largest loadings of each component."""
    if job.as_csv and job.as_json:
        raise click.UsageError("--csv and --json are two formats: give one.")
    run = open_run(job.run)
    if job.as_csv:
        table = leading_genes(run, job.n_genes).tolist()
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *range(1, len(table[0]) + 1)])
        writer.writerows([name, *row] for name, row in zip(component_names(len(table)), table, strict=True))
        click.echo(file.getvalue(), nl=False)
    elif job.as_json:
        click.echo(json.dumps(_genes(run, job.n_genes), indent=2))
    else:
        click.echo(leading(run, job.n_genes))


def leading(run: Run, n: int) -> str:
    """A table of the leading genes of each component of a run."""
    genes = _genes(run, n)
    least, most = _WIDTHS
    margin = max(map(len, genes)) + 2
    table = TextWrapper(
        width=min(most, max(least, shutil.get_terminal_size().columns)),
        subsequent_indent=" " * margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(table.fill(name.ljust(margin) + ("  ".join(row) or "-")) for name, row in genes.items())


def _genes(run: Run, n: int) -> dict[str, list[str]]:
    table = leading_genes(run, n).tolist()
    names = component_names(len(table))
    return {name: [gene for gene in row if gene] for name, row in zip(names, table, strict=True)}
