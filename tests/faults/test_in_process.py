"""Every row of the table that needs no process of its own."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.cells import Cell
from tests.faults.in_process import IN_PROCESS


@pytest.mark.parametrize("cell", IN_PROCESS, ids=str)
def test_fault(cell: Cell, tmp_path):
    cell.check(Bench(tmp_path))
