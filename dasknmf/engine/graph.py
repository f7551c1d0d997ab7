"""The Dask graph of a pass: the same for the synchronous scheduler, threads and clusters.

::

    load ──► visit 0 ──┐
       ├───► visit 1 ──┼─► add ─┐
       └───► visit …   ┘        ├─► update (one per model) ─► keep ─► outcomes
                        … add ──┘

A visit reads a panel of V and the same rows of W, writes the new rows to the factor store, and
returns a tally: the panel's share of the sums that an update needs. The panels fix the tree of
additions, so results do not depend on the scheduler. Only outcomes return to the client, and workers
keep nothing after a pass but staged panels of V: all passes have graphs of the same size.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.order import order
from dask.task_spec import GraphNode, List, Task, TaskRef

from dasknmf.core.blocks import PanelSpec, RowsOnly, block_of
from dasknmf.core.panels import Grid, Panel
from dasknmf.core.phase import Map, Outcome, Phase, Rows, Tally, Visitor, add, visit
from dasknmf.core.state import State
from dasknmf.data.dask_graph import Upstream
from dasknmf.data.source import PanelSlabs, Source, StageLost
from dasknmf.engine.accounting import MeasuredSlabs, PassStats, recent_resident_bytes
from dasknmf.errors import DataChangedError
from dasknmf.io.counts import Counts, counting
from dasknmf.store.factors import Factors, FactorVersion

FAN_IN = 8

_SUM_TOLERANCE = 1e-12
"""Relative difference allowed between two sums of a panel: CPUs add in different orders."""


@dataclass(frozen=True)
class Work:
    """Parameters of a pass that its tasks share."""

    name: str
    """``"<pass>-<writer>"``: the name of the rows and states that the pass writes."""
    phases: tuple[Phase, ...]
    dtype: np.dtype
    factors: Factors
    state: str = ""
    """Name of the pass that wrote the states to start from; empty if there is none."""
    rows: tuple[FactorVersion, ...] = ()
    """The stored factor rows to read."""
    starts_from: tuple[int, ...] = (0,)
    """For each phase, the number in `state` and `rows` of the phase that it continues."""
    first: int = 0
    """Number of the first phase; above 0 in later reads of a pass that needs several reads of V."""
    checked: bool = True
    """Whether the entries of each panel are summed, and the sum compared with `Pass.sums`."""

    @property
    def new_rows(self) -> FactorVersion | None:
        """The factor rows that the pass writes; None if it writes none."""
        name = f"{self.name}-{self.first}" if self.first else self.name
        version = FactorVersion.of(name, [phase.widths for phase in self.phases], self.first)
        return version if version.widths else None

    @property
    def reads_data(self) -> bool:
        return any(phase.reads_data for phase in self.phases)


@dataclass(frozen=True)
class Pass:
    """One read of V, shared by a list of phases."""

    work: Work
    source: Source
    grid: Grid
    sums: Sequence[float] | None = None
    """Sum of each panel's entries in the first read; None before the first read."""
    one_process: bool = False
    """Whether one process visits all panels."""
    lost: frozenset[int] = frozenset()
    """Indices of panels that a stage has lost, to be computed from their chunks again."""

    def without(self, panels: Iterable[int]) -> Pass:
        """The same pass with more panels marked as lost."""
        return replace(self, lost=self.lost.union(panels))

    def expected(self, panels: list[Panel]) -> list[float] | None:
        """Expected sums of the entries of some panels; None before the first read."""
        return None if self.sums is None else [self.sums[panel.index] for panel in panels]

    def worker_side(self) -> WorkerSide:
        return WorkerSide(self.work, self.source.for_tasks())


Get = Callable[[dict[Hashable, GraphNode], list[Hashable]], Any]
"""A function of a graph and a list of keys, which returns the keys' values: a Dask scheduler."""
Total = tuple[list[Tally], PassStats]
"""The tally of each phase, and the statistics of the visits that the tallies add up."""


def run(one_pass: Pass, get: Get, each: Map = map) -> tuple[list[Outcome], PassStats]:
    """Run a pass, which writes rows and states to the factor store, and return its outcomes and statistics.

    Parameters
    ----------
    one_pass : Pass
    get : callable
        The scheduler; used if V is not in this process's memory.
    each : callable
        A `map`, possibly over threads, used instead of a graph if V is in this process's memory: a scheduler
        would take half of the time of a pass over 10 MB.
    """
    work = one_pass.work
    if work.new_rows:
        work.factors.begin(work.new_rows)
    if one_pass.source.in_process:
        side = _load(one_pass.worker_side())
        total = _total_in_process(one_pass, side, each)
        updated = each(lambda number: _update(side, number, total), range(len(work.phases)))
        return _write_states(side, list(updated), total)
    while True:
        graph, root = graph_of(one_pass)
        try:
            outcomes, stats = get(graph, [root])[0]
        except StageLost as error:
            # The repetition writes the rows of all panels again, with the same values.
            one_pass = one_pass.without(error.panels)
        else:
            return outcomes, stats


def tallies(one_pass: Pass, get: Get, each: Map = map) -> list[Tally]:
    """Summed tally of each phase, for phases that write neither rows nor states; parameters as in `run`."""
    if one_pass.source.in_process:
        return _total_in_process(one_pass, _load(one_pass.worker_side()), each)[0]
    while True:
        graph, load, root, visited = _visits(one_pass, uuid.uuid4().hex)
        _announce(graph, load, one_pass, visited)
        found, stats = get(graph, [root])[0]
        if not stats.lost:
            return list(found)
        one_pass = one_pass.without(stats.lost)


def _total_in_process(one_pass: Pass, side: WorkerSide, each: Map) -> Total:
    def visited(panels: list[Panel]) -> Total:
        return _visit_panels(side, panels, one_pass.expected(panels), [[] for _ in panels])

    parts = list(each(visited, one_pass.grid.groups()))
    while len(parts) > 1:
        parts = list(each(_add, [parts[first : first + FAN_IN] for first in range(0, len(parts), FAN_IN)]))
    return parts[0]


def graph_of(one_pass: Pass) -> tuple[dict[Hashable, GraphNode], Hashable]:
    """The graph of a pass, and the key of its outcomes and its statistics."""
    token = uuid.uuid4().hex
    graph, load, total, visited = _visits(one_pass, token)
    updated: list[Hashable] = [(f"update-{token}", number) for number in range(len(one_pass.work.phases))]
    for number, key in enumerate(updated):
        graph[key] = Task(key, _update, TaskRef(load), number, TaskRef(total))
    root = f"keep-{token}"
    graph[root] = Task(root, _write_states, TaskRef(load), List(*map(TaskRef, updated)), TaskRef(total))
    _announce(graph, load, one_pass, visited)
    return graph, root


def _visits(
    one_pass: Pass, token: str
) -> tuple[dict[Hashable, GraphNode], str, Hashable, dict[Hashable, list[Panel]]]:
    """Graph of the visits and of their sum, the keys of the load task and of the sum, the panels by task."""
    # The dashboard groups tasks by the name before the token.
    label = one_pass.work.phases[0].name.replace(" ", "-")
    load = f"load-{token}"
    graph: dict[Hashable, GraphNode] = {load: Task(load, _load, one_pass.worker_side())}
    upstream = Upstream(one_pass.source.upstream()) if one_pass.work.reads_data else None
    visited: dict[Hashable, list[Panel]] = {}
    for index, panels in enumerate(one_pass.grid.groups()):
        key = (f"{label}-{token}", index)
        chunks = [
            one_pass.source.chunk_keys(panel, lost=panel.index in one_pass.lost) if upstream else []
            for panel in panels
        ]
        references = List(*(List(*(List(*map(TaskRef, row)) for row in panel)) for panel in chunks))
        task = Task(key, _visit_panels, TaskRef(load), panels, one_pass.expected(panels), references)
        needed = [chunk for panel in chunks for row in panel for chunk in row]
        graph |= upstream.fused(task, needed) if upstream and needed else {key: task}
        visited[key] = panels
    parts = list(visited)
    level = 0
    while len(parts) > 1:
        sums: list[Hashable] = []
        for first in range(0, len(parts), FAN_IN):
            node = (f"add-tallies-{token}", level, first)
            graph[node] = Task(node, _add, List(*map(TaskRef, parts[first : first + FAN_IN])))
            sums.append(node)
        parts, level = sums, level + 1
    return graph, load, parts[0], visited


def _announce(
    graph: dict[Hashable, GraphNode],
    load: Hashable,
    one_pass: Pass,
    visited: Mapping[Hashable, Sequence[Panel]],
) -> None:
    """Give the source the order of the visits, so that it can fetch chunks ahead."""
    if one_pass.one_process and one_pass.work.reads_data and one_pass.source.ahead_bytes:
        place = order(graph)
        rows = [
            slice(panel.start, panel.stop) for key in sorted(visited, key=place.get) for panel in visited[key]
        ]
        in_order = replace(one_pass, source=one_pass.source.visiting(rows))
        graph[load] = Task(load, _load, in_order.worker_side())


@dataclass(frozen=True)
class WorkerSide:
    """Inputs that all tasks of a pass share: the result of the graph's load task."""

    work: Work
    source: Source
    states: tuple[State, ...] = ()
    """The state that each phase starts from."""
    inputs: tuple[Any, ...] = ()
    """The result of each phase's `prepare`."""
    retries: int = 0
    """Number of repeated requests to storage while states were read."""

    def rows_of(self, panel: Panel) -> tuple[list[Rows], int]:
        """For each phase, factor rows of a panel (zeros where none is stored); and the bytes read."""
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
    with counting() as counts:
        states = tuple(work.factors.read_states(work.state, work.starts_from))
    inputs = tuple(phase.prepare(state) for phase, state in zip(work.phases, states, strict=True))
    source = side.source.renewed(of_a_fit=True)
    return replace(side, states=states, inputs=inputs, source=source, retries=counts.retries)


def _visit_panels(
    side: WorkerSide, panels: list[Panel], expected: list[float] | None, chunks: list[Any]
) -> Total:
    """Tallies and statistics of consecutive panels, visited one after another."""
    sums: Sequence[float | None] = expected or [None] * len(panels)
    return _add([_visit_panel(side, *each) for each in zip(panels, sums, chunks, strict=True)])


def _visit_panel(side: WorkerSide, panel: Panel, expected: float | None, chunks: Any) -> Total:
    with counting() as counts:
        found, stats = _visited(side, panel, expected, chunks, counts)
    return found, replace(stats, retries=counts.retries)


def _visited(side: WorkerSide, panel: Panel, expected: float | None, chunks: Any, counts: Counts) -> Total:
    work = side.work
    rows_of_phases, bytes_read = side.rows_of(panel)
    visitors = [
        Visitor(phase, inputs, rows)
        for phase, inputs, rows in zip(work.phases, side.inputs, rows_of_phases, strict=True)
    ]
    bytes_written = 0
    sums: tuple[tuple[int, float], ...] = ()
    slabs = MeasuredSlabs(PanelSlabs(side.source, panel.start, panel.stop, chunks))
    if work.reads_data:
        try:
            spec = PanelSpec(panel.n_rows, panel.start, side.source.shape[1], work.dtype, work.checked)
            block = block_of(slabs, spec, side.source.entries)
            found = visit(block, visitors)
        except StageLost:
            # The pass continues and finds all lost panels, so that it is repeated only once.
            return [phase.tally() for phase in work.phases], PassStats(lost=(panel.index,))
        bytes_read += block.nbytes if counts.nbytes is None else counts.nbytes
        if work.checked:
            sums = ((panel.index, block.total),)
            _check_sum(panel, block.total, expected)
    else:
        found = visit(RowsOnly(panel.n_rows, panel.start), visitors)
    if new_rows := work.new_rows:
        joined = new_rows.joined(dict(enumerate(rows_of_phases, work.first)))
        work.factors.write_rows(new_rows, panel.index, joined)
        bytes_written = joined.nbytes
    held = slabs.peak or recent_resident_bytes()
    return found, PassStats(bytes_read, bytes_written, sums, memory=held)


def _check_sum(panel: Panel, found: float, expected: float | None) -> None:
    if expected is None or np.isnan(expected):
        return
    if not abs(found - expected) <= _SUM_TOLERANCE * abs(expected):
        raise DataChangedError(
            f"the values of panel {panel.index} of V (rows {panel.start} to {panel.stop - 1}) have the sum "
            f"{found!r}, and had {expected!r} in the first pass; V changed or is damaged: restore V, or "
            "start over with overwrite=True."
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
    # The order of sums in BLAS depends on the memory layout, so states always have the same one.
    return state.contiguous(), outcome


def _write_states(
    side: WorkerSide, updated: list[tuple[State, Outcome]], total: Total
) -> tuple[list[Outcome], PassStats]:
    """Outcomes and statistics of a pass, after its states are written."""
    work = side.work
    with counting() as counts:
        work.factors.write_states(work.name, work.first, [state for state, _ in updated])
    return [outcome for _, outcome in updated], total[1] + PassStats(retries=side.retries + counts.retries)
