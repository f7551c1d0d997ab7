"""The table of faults of real processes, row by row."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.processes import PROCESSES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.mark.parametrize("cell", PROCESSES, ids=str)
def test_holds(cell, tmp_path):
    cell.check(Bench(tmp_path))
