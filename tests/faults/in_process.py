"""The table of faults that are brought about in this process: each cell takes a fraction of a second."""

from __future__ import annotations

from tests.faults.cells import Cell
from tests.faults.damage import DAMAGE
from tests.faults.deaths import DEATHS
from tests.faults.kinds import KINDS
from tests.faults.outages import OUTAGES
from tests.faults.tasks import TASKS
from tests.faults.writers import WRITERS

IN_PROCESS: tuple[Cell, ...] = (*DEATHS, *OUTAGES, *DAMAGE, *TASKS, *WRITERS, *KINDS)
