"""One pass as a Dask graph: the same graph for the synchronous scheduler, threads and clusters.

::

    load ──► visit 0 ──┐
       ├───► visit 1 ──┼─► add ─┐
       └───► visit …   ┘        ├─► update (one per model) ─► keep ─► outcomes
                        … add ──┘

A visit reads its panel of V and its rows of W, writes the new rows to the factor store, and
returns only a tally. The tree of additions is fixed by the panel table, so the sums, and with them
every later number, do not depend on the scheduler. Nothing but the outcome returns to the client,
and no result outlives the pass, panels of V in a stage aside: the graph of the hundredth pass is as
large as that of the first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.task_spec import GraphNode, List, Task, TaskRef

from dasknmf.core.blocks import PanelSpec, RowsOnly, block_of
from dasknmf.core.panels import Grid, Panel
from dasknmf.core.phase import Map, Outcome, Phase, Rows, Tally, Visitor, add, visit
from dasknmf.core.state import State
from dasknmf.data.dask_graph import Upstream
from dasknmf.data.source import PanelSlabs, Source, StageLost
from dasknmf.engine.accounting import PassStats, Watched, lately_resident
from dasknmf.errors import DataChangedError
from dasknmf.io.metered import metered
from dasknmf.io.retry import counted
from dasknmf.store.factors import Factors, FactorVersion

FAN_IN = 8

_SUM_TOLERANCE = 1e-12
"""Relative: two CPUs may add the same numbers in another order."""


@dataclass(frozen=True)
class Work:
    """The part of a pass that every task of it needs, whichever panel it visits."""

    name: str
    """``"<pass>-<writer>"``: names what the pass leaves behind."""
    phases: tuple[Phase, ...]
    dtype: np.dtype
    factors: Factors
    state: str = ""
    """Name of the pass that left the state which this one starts from; empty for none."""
    rows: tuple[FactorVersion, ...] = ()
    """The rows that enter."""
    starts_from: tuple[int, ...] = (0,)
    """For each phase, the number of the phase in that state and in those rows which it continues."""
    first: int = 0
    """Number of the first phase among those of all reads that make one pass."""
    checked: bool = True
    """Whether panels are summed, and compared with `Pass.sums`."""

    @property
    def leaves(self) -> FactorVersion | None:
        """The rows that the pass leaves behind; None where it changes none."""
        name = f"{self.name}-{self.first}" if self.first else self.name
        version = FactorVersion.of(name, [phase.widths for phase in self.phases], self.first)
        return version if version.widths else None

    @property
    def reads_data(self) -> bool:
        return any(phase.reads_data for phase in self.phases)


@dataclass(frozen=True)
class Pass:
    """One pass of a list of phases over V: all of them share its read."""

    work: Work
    source: Source
    grid: Grid
    sums: Sequence[float] | None = None
    """Σv of each panel, as the first read found it; None until then."""
    lost: frozenset[int] = frozenset()
    """Panels that are made from their chunks again, because a stage has lost them."""

    def without(self, panels: Iterable[int]) -> Pass:
        """The same pass after a stage has lost more panels."""
        return replace(self, lost=self.lost.union(panels))

    def expected(self, panels: list[Panel]) -> list[float] | None:
        """Σv of some panels, where it is known."""
        return None if self.sums is None else [self.sums[panel.index] for panel in panels]

    def worker_side(self) -> WorkerSide:
        return WorkerSide(self.work, self.source.for_tasks())


Get = Callable[[dict[Hashable, GraphNode], list[Hashable]], Any]
"""A scheduler: computes some keys of a graph."""
Total = tuple[list[Tally], PassStats]
"""The tally of each phase, and the statistics of the visits that are in it."""


def run(one: Pass, get: Get, each: Map = map) -> tuple[list[Outcome], PassStats]:
    """Run a pass to its end. Afterwards its rows and states are in the factor store.

    Parameters
    ----------
    one : Pass
    get : callable
        The scheduler, where V is not in this process.
    each : callable
        Spreads the visits over threads where V is: the same calls in the same order, without a graph. A
        scheduler costs little beside a read from a store, and half of a pass over 10 MB in memory.
    """
    work = one.work
    if work.leaves:
        work.factors.begin(work.leaves)
    if one.source.in_process:
        side = _load(one.worker_side())
        total = _total_here(one, side, each)
        updated = each(lambda number: _update(side, number, total), range(len(work.phases)))
        return _write_states(side, list(updated), total)
    while True:
        graph, root = graph_of(one)
        try:
            outcomes, stats = get(graph, [root])[0]
        except StageLost as error:
            # The rows of the other panels are then written again, with the same values.
            one = one.without(error.panels)
        else:
            return outcomes, stats


def tallies(one: Pass, get: Get, each: Map = map) -> list[Tally]:
    """The whole tally of each phase, where phases leave neither rows nor states; parameters as of `run`."""
    if one.source.in_process:
        return _total_here(one, _load(one.worker_side()), each)[0]
    while True:
        graph, _, root = _visits(one, uuid.uuid4().hex)
        found, stats = get(graph, [root])[0]
        if not stats.lost:
            return list(found)
        one = one.without(stats.lost)


def _total_here(one: Pass, side: WorkerSide, each: Map) -> Total:
    def visited(panels: list[Panel]) -> Total:
        return _visit_run(side, panels, one.expected(panels), [[] for _ in panels])

    parts = list(each(visited, one.grid.runs()))
    while len(parts) > 1:
        parts = list(each(_add, [parts[first : first + FAN_IN] for first in range(0, len(parts), FAN_IN)]))
    return parts[0]


def graph_of(one: Pass) -> tuple[dict[Hashable, GraphNode], Hashable]:
    """The graph of a pass, and the key of its outcomes and its statistics."""
    token = uuid.uuid4().hex
    graph, load, total = _visits(one, token)
    updated: list[Hashable] = [(f"update-{token}", number) for number in range(len(one.work.phases))]
    for number, key in enumerate(updated):
        graph[key] = Task(key, _update, TaskRef(load), number, TaskRef(total))
    root = f"keep-{token}"
    graph[root] = Task(root, _write_states, TaskRef(load), List(*map(TaskRef, updated)), TaskRef(total))
    return graph, root


def _visits(one: Pass, token: str) -> tuple[dict[Hashable, GraphNode], str, Hashable]:
    """The visits of a pass and their sum: the graph, and the keys of what is loaded and of the sum."""
    # Names that group well on the dashboard: the name of the phase, then a token of this very pass.
    label = one.work.phases[0].name.replace(" ", "-")
    load = f"load-{token}"
    graph: dict[Hashable, GraphNode] = {load: Task(load, _load, one.worker_side())}
    upstream = Upstream(one.source.upstream()) if one.work.reads_data else None
    parts: list[Hashable] = []
    for index, panels in enumerate(one.grid.runs()):
        key = (f"{label}-{token}", index)
        chunks = [
            one.source.chunk_keys(panel, lost=panel.index in one.lost) if upstream else [] for panel in panels
        ]
        references = List(*(List(*(List(*map(TaskRef, row)) for row in panel)) for panel in chunks))
        task = Task(key, _visit_run, TaskRef(load), panels, one.expected(panels), references)
        needed = [chunk for panel in chunks for row in panel for chunk in row]
        graph |= upstream.fused(task, needed) if upstream and needed else {key: task}
        parts.append(key)
    level = 0
    while len(parts) > 1:
        sums: list[Hashable] = []
        for first in range(0, len(parts), FAN_IN):
            node = (f"add-tallies-{token}", level, first)
            graph[node] = Task(node, _add, List(*map(TaskRef, parts[first : first + FAN_IN])))
            sums.append(node)
        parts, level = sums, level + 1
    return graph, load, parts[0]


@dataclass(frozen=True)
class WorkerSide:
    """What the tasks of a pass share: it travels once, as the argument of one task."""

    work: Work
    source: Source
    states: tuple[State, ...] = ()
    """The state that each phase starts from."""
    smalls: tuple[Any, ...] = ()
    retries: int = 0
    """Repeated requests to storage for states."""

    def rows_of(self, panel: Panel) -> tuple[list[Rows], int]:
        """Each phase's own rows of a panel, with room for what it will leave, and the bytes read."""
        work = self.work
        entering: dict[int, Rows] = {}
        nbytes = 0
        needed = frozenset(work.starts_from)
        for version in work.rows:
            if needed & version.models:
                stored = work.factors.read_rows(version, panel.index, panel.n_rows)
                nbytes += stored.nbytes
                entering |= version.split(stored, needed)
        rows_of_phases: list[Rows] = []
        for position, (phase, number) in enumerate(zip(work.phases, work.starts_from, strict=True)):
            rows = dict(entering.get(number, {}))
            if number in work.starts_from[:position]:
                rows = {name: array.copy() for name, array in rows.items()}
            for name, columns in phase.widths.items():
                if name not in rows:
                    rows[name] = np.zeros((panel.n_rows, columns), work.dtype)
            rows_of_phases.append(rows)
        return rows_of_phases, nbytes


def _load(side: WorkerSide) -> WorkerSide:
    work = side.work
    with counted() as retries:
        states = tuple(work.factors.read_states(work.state, work.starts_from))
    smalls = tuple(phase.prepare(state) for phase, state in zip(work.phases, states, strict=True))
    source = side.source.renewed(of_a_fit=True)
    return replace(side, states=states, smalls=smalls, source=source, retries=retries.total)


def _visit_run(
    side: WorkerSide, panels: list[Panel], expected: list[float] | None, chunks: list[Any]
) -> Total:
    """Visit consecutive panels one after another."""
    visited = []
    for i, panel in enumerate(panels):
        with counted() as retries:
            found, stats = _visit_panel(side, panel, None if expected is None else expected[i], chunks[i])
        visited.append((found, replace(stats, retries=retries.total)))
    return _add(visited)


def _visit_panel(side: WorkerSide, panel: Panel, expected: float | None, chunks: Any) -> Total:
    work = side.work
    rows_of_phases, bytes_read = side.rows_of(panel)
    visitors = [
        Visitor(phase, small, rows)
        for phase, small, rows in zip(work.phases, side.smalls, rows_of_phases, strict=True)
    ]
    bytes_written = 0
    sums: tuple[tuple[int, float], ...] = ()
    slabs = Watched(PanelSlabs(side.source, panel.start, panel.stop, chunks))
    if work.reads_data:
        try:
            with metered() as meter:
                spec = PanelSpec(panel.n_rows, panel.start, side.source.shape[1], work.dtype, work.checked)
                block = block_of(slabs, spec, side.source.entries)
                found = visit(block, visitors)
        except StageLost:
            # The pass goes on, so that one repetition makes every panel that is lost.
            return [phase.tally() for phase in work.phases], PassStats(lost=(panel.index,))
        bytes_read += meter.total(block.nbytes)
        if work.checked:
            sums = ((panel.index, block.total),)
            _check_sum(panel, block.total, expected)
    else:
        found = visit(RowsOnly(panel.n_rows, panel.start), visitors)
    if leaves := work.leaves:
        joined = leaves.joined(dict(enumerate(rows_of_phases, work.first)))
        work.factors.write_rows(leaves, panel.index, joined)
        bytes_written = joined.nbytes
    held = slabs.peak or lately_resident()
    return found, PassStats(bytes_read, bytes_written, sums, memory=held)


def _check_sum(panel: Panel, found: float, expected: float | None) -> None:
    if expected is None or np.isnan(expected):
        return
    if not abs(found - expected) <= _SUM_TOLERANCE * abs(expected):
        raise DataChangedError(
            f"panel {panel.index} (rows {panel.start} to {panel.stop - 1}) of V sums to {found!r}; the "
            f"first pass found {expected!r}: V changed or is damaged since, bring it back or start "
            "over with overwrite=True."
        )


def _add(parts: list[Total]) -> Total:
    sums = [add(of_phase) for of_phase in zip(*(found for found, _ in parts), strict=True)]
    stats = parts[0][1]
    for _, part in parts[1:]:
        stats = stats + part
    return sums, stats


def _update(side: WorkerSide, number: int, total: Total) -> tuple[State, Outcome]:
    if total[1].lost:
        raise StageLost(total[1].lost)
    with np.errstate(all="ignore"):  # as in `visit`
        state, outcome = side.work.phases[number].update(total[0][number], side.states[number])
    # One memory layout, whichever store the state comes back from: BLAS sums by layout.
    return state.contiguous(), outcome


def _write_states(
    side: WorkerSide, updated: list[tuple[State, Outcome]], total: Total
) -> tuple[list[Outcome], PassStats]:
    """Write the states of all phases; their outcomes, and the statistics of the pass."""
    work = side.work
    with counted() as retries:
        work.factors.write_states(work.name, work.first, [state for state, _ in updated])
    return [outcome for _, outcome in updated], total[1] + PassStats(retries=side.retries + retries.total)
