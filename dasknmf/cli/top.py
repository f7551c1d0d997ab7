"""``dasknmf top``."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from dataclasses import dataclass

import click

from dasknmf import open_run
from dasknmf.cli.options import argument, command, flag, option
from dasknmf.singlecell import leading_genes
from dasknmf.singlecell.entries import component_names
from dasknmf.store.run import Run

_WIDTHS = (60, 100)
"""Smallest and largest width of the table, which else is that of the terminal."""


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
    """List the genes with the largest loadings in each component of RUN."""
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
    least, most = _WIDTHS
    return _table(_genes(run, n), min(most, max(least, shutil.get_terminal_size().columns)))


def _genes(run: Run, n: int) -> dict[str, list[str]]:
    table = leading_genes(run, n).tolist()
    names = component_names(len(table))
    return {name: [gene for gene in row if gene] for name, row in zip(names, table, strict=True)}


def _table(genes: dict[str, list[str]], width: int) -> str:
    """A block of lines for each component, genes in columns that stand below each other."""
    margin = max(map(len, genes)) + 2
    cell = max((len(gene) for row in genes.values() for gene in row), default=1) + 2
    across = max(1, (width - margin) // cell)
    lines: list[str] = []
    for name, row in genes.items():
        cells = [gene.ljust(cell) for gene in row] or ["-"]
        rows = ["".join(cells[first : first + across]).rstrip() for first in range(0, len(cells), across)]
        lines += textwrap.indent("\n".join(rows), " " * margin).splitlines()
        lines[-len(rows)] = name.ljust(margin) + lines[-len(rows)].strip()
    return "\n".join(lines)
