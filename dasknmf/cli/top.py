"""``dasknmf top``."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from typing import Any

import click

from dasknmf import open_run
from dasknmf.cli.exit_codes import errors_as_exit_codes
from dasknmf.singlecell import leading_genes
from dasknmf.singlecell.entries import component_names

_WIDTHS = (60, 100)
"""Of the table: the terminal's, between these."""


@click.command()
@click.argument("run")
@click.option("-n", "--n-genes", type=click.IntRange(min=1), default=20, show_default=True, metavar="N")
@click.option("--csv", "as_csv", is_flag=True, help="One line per component.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the genes of each component.")
@errors_as_exit_codes
def top(run: str, n_genes: int, as_csv: bool, as_json: bool) -> None:
    """Say which genes have the largest loadings in each component of RUN."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json are two formats: give one.")
    table = leading_genes(open_run(run), n_genes).tolist()
    named = dict(zip(component_names(len(table)), table, strict=True))
    if as_csv:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *range(1, len(table[0]) + 1)])
        writer.writerows([name, *row] for name, row in named.items())
        click.echo(file.getvalue(), nl=False)
        return
    genes = {name: [gene for gene in row if gene] for name, row in named.items()}
    if as_json:
        click.echo(json.dumps(genes, indent=2))
        return
    click.echo(_table(genes, _width()))


def leading(run: Any, n: int) -> str:
    """The leading genes of each component of a run."""
    named: dict[str, list[str]] = {}
    table = leading_genes(run, n).tolist()
    for name, row in zip(component_names(len(table)), table, strict=True):
        named[name] = [gene for gene in row if gene]
    return _table(named, _width())


def _width() -> int:
    least, most = _WIDTHS
    return min(most, max(least, shutil.get_terminal_size().columns))


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
