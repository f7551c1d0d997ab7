"""``python -m tests.faults``: brings every fault of the tables about, and prints what came of it."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable

import click
import pytest

from tests.faults.bench import Bench, in_memory
from tests.faults.cells import Cell
from tests.faults.in_process import IN_PROCESS
from tests.faults.soak import soak
from tests.helpers import Killed

_STRIKES, _HOLDS = 44, 52
_COLOURS = {"green": "green", "red": "red", "skip": "yellow"}
_WIDTH = 2 + _STRIKES + 2 + _HOLDS + 2 + 5 + 2 + 7


@click.command()
@click.option("--real", is_flag=True, help="Also the faults of real processes: minutes.")
@click.option("--only", default="", help="Only cells in whose name or place this occurs.")
@click.option("--soak", "faults", type=click.IntRange(1), help="Instead, one run with so many random faults.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the faults that are drawn.")
def main(real: bool, only: str, faults: int | None, seed: int) -> None:
    """Bring every fault of the table about, and tell what came of it. Exit code 1: something did not hold."""
    logging.disable(logging.WARNING)  # every fault is logged where it is asked again
    warnings.simplefilter("ignore")
    if faults is not None:
        sys.exit(_soaked(faults, seed))
    cells = list(IN_PROCESS)
    if real:
        from tests.faults.processes import PROCESSES

        cells += PROCESSES
    sys.exit(_table([cell for cell in cells if only in str(cell)]))


def _table(cells: Iterable[Cell]) -> int:
    counts = Counter(green=0, red=0)
    failures: list[tuple[Cell, str]] = []
    began = time.perf_counter()
    click.secho(f"  {'strikes':{_STRIKES}}  {'must hold':{_HOLDS}}  {'':5}  seconds", dim=True)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.fault, []).append(cell)
    for fault, group in groups.items():
        click.secho(fault, bold=True)
        for cell in group:
            came, told, seconds = _checked(cell)
            counts[came] += 1
            if told:
                failures.append((cell, told))
            click.echo(f"  {_cut(cell.strikes, _STRIKES)}  {_cut(cell.holds, _HOLDS)}  ", nl=False)
            click.secho(f"{came:5}", fg=_COLOURS[came], nl=False)
            click.echo(f"  {seconds:7.2f}")
    click.echo("─" * _WIDTH)
    for cell, told in failures:
        click.secho(f"\n{cell}", bold=True)
        click.echo(told)
    seconds = time.perf_counter() - began
    told = ", ".join(f"{number} {came}" for came, number in counts.items())
    colour = _COLOURS["red" if counts["red"] else "green"]
    click.secho(f"{counts.total()} cells: {told}, {seconds:.0f} s", fg=colour, bold=True)
    return int(counts["red"] > 0)


def _checked(cell: Cell) -> tuple[str, str, float]:
    """What came of it, what there is to say, and how long it took."""
    began = time.perf_counter()
    with in_memory() as root:
        try:
            cell.check(Bench(root))
        except (Exception, Killed):
            return "red", traceback.format_exc(limit=-4), time.perf_counter() - began
        except pytest.skip.Exception as missing:
            return "skip", str(missing), time.perf_counter() - began
    return "green", "", time.perf_counter() - began


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def _soaked(faults: int, seed: int) -> int:
    began = time.perf_counter()
    with in_memory() as root:
        outcome = soak(faults, seed, root)
    for name, met in outcome.met.most_common():
        click.echo(f"{met:6}  {name}")
    click.echo(
        f"{sum(outcome.met.values()):6}  faults of {len(outcome.met)} kinds in {outcome.starts} starts of a "
        f"run of {outcome.passes} passes, seed {seed}, {time.perf_counter() - began:.0f} s"
    )
    same = outcome.difference == 0
    click.secho(
        f"difference to the quiet run: {outcome.difference:g}", fg="green" if same else "red", bold=True
    )
    return int(not same)


if __name__ == "__main__":
    main()
