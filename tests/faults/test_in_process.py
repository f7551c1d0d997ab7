"""Every row of the table that needs no process of its own: a part of them always, all with the slow tests."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.faults.bench import Bench, in_memory
from tests.faults.cells import Cell
from tests.faults.in_process import IN_PROCESS
from tests.faults.soak import KINDS, soak


def _first_of_each() -> set[str]:
    """Cells that between them have every kind of fault, and death at every place."""
    met: Counter[str] = Counter()
    chosen = set()
    for cell in IN_PROCESS:
        met[cell.fault] += 1
        if met[cell.fault] == 1 or (cell.fault == "the process dies" and cell.strikes.endswith("(after)")):
            chosen.add(str(cell))
    return chosen


_QUICK = _first_of_each()


def test_no_cell_is_there_twice():
    assert len({str(cell) for cell in IN_PROCESS}) == len(IN_PROCESS) > 400


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=() if str(cell) in _QUICK else pytest.mark.slow, id=str(cell))
        for cell in IN_PROCESS
    ],
)
def test_fault(cell: Cell):
    with in_memory() as root:
        cell.check(Bench(root))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_soak():
    with in_memory() as root:
        outcome = soak(25, 1, root)
    assert set(outcome.met) == set(KINDS)
    assert sum(outcome.met.values()) == 25
    assert outcome.difference == 0


@pytest.mark.slow
def test_the_table_is_printed():
    """Green and red are counted, and red is an exit code."""
    command = [sys.executable, "-m", "tests.faults", "--only", "V is another"]
    printed = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert printed.returncode == 0, printed.stdout + printed.stderr
    assert "4 cells: 4 green, 0 red" in printed.stdout
    assert max(map(len, printed.stdout.splitlines())) <= 120
