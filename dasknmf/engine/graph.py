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
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.task_spec import GraphNode, List, Task, TaskRef

from dasknmf.core.blocks import EntryWeights, RowsOnly, block_of
from dasknmf.core.panels import Grid, Panel
from dasknmf.core.phase import Map, Outcome, Phase, Rows, State, Tally, Visitor, add, visit
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
class Pass:
    """One pass of a list of models over V: all of them share its read."""

    name: str
    """``"<pass>-<epoch>"``: names what the pass leaves behind."""
    phases: tuple[Phase, ...]
    source: Source
    grid: Grid
    dtype: np.dtype
    factors: Factors
    state: str
    """Name of the pass that left the state which this one starts from; empty for none."""
    rows: tuple[FactorVersion, ...] = ()
    """The rows that enter."""
    starts_from: tuple[int, ...] = (0,)
    """For each phase, which model of that state and of those rows it goes on from."""
    first: int = 0
    """Number of the first phase among those of all reads that make one pass."""
    checked: bool = True
    """Whether panels are summed, and compared with `sums`."""
    sums: Sequence[float] | None = None
    """Σv of each panel, as the first read found it; None until then."""
    lost: frozenset[int] = frozenset()
    """Panels that are made from their chunks again, because a stage has lost them."""

    @property
    def leaves(self) -> FactorVersion | None:
        """The rows that the pass leaves behind; None where it changes none."""
        name = f"{self.name}-{self.first}" if self.first else self.name
        generation = FactorVersion.of(name, [phase.widths for phase in self.phases], self.first)
        return generation if generation.widths else None

    @property
    def reads_data(self) -> bool:
        return any(phase.reads_data for phase in self.phases)


Get = Callable[[dict[Hashable, GraphNode], list[Hashable]], Any]
"""A scheduler: computes some keys of a graph."""


def run(one: Pass, get: Get) -> tuple[list[Outcome], PassStats]:
    """Run a pass to its end. Afterwards its rows and states are in the factor store."""
    if one.leaves:
        one.factors.begin(one.leaves)
    while True:
        graph, kept = graph_of(one)
        try:
            outcomes, stats = get(graph, [kept])[0]
        except StageLost as error:
            # The other panels' rows are then written again, with the same values.
            one = replace(one, lost=one.lost.union(error.panels))
        else:
            return outcomes, stats


def run_here(one: Pass, each: Map) -> tuple[list[Outcome], PassStats]:
    """The same pass over a V in this process: the same calls in the same order, without a graph.

    What a scheduler costs is little beside a read from a store, and half of a pass over 10 MB in memory.
    """
    if one.leaves:
        one.factors.begin(one.leaves)
    side = _load(_worker_side(one))
    total = _total_here(one, side, each)
    updated = each(lambda model: _update(side, model, total), range(len(one.phases)))
    return _kept(side, list(updated), total)


def tallied(one: Pass, get: Get, each: Map) -> list[Tally]:
    """The whole tally of each phase, for passes that ask V something and leave nothing behind.

    Parameters
    ----------
    one : Pass
        Of phases without rows and without a state.
    get : callable
        The scheduler, where V is not in this process.
    each : callable
        What spreads its visits over threads where it is.
    """
    if one.source.in_process:
        return _total_here(one, _load(_worker_side(one)), each)[0]
    while True:
        graph, _, total = _visits(one, uuid.uuid4().hex)
        tallies, stats = get(graph, [total])[0]
        if not stats.lost:
            return list(tallies)
        one = replace(one, lost=one.lost.union(stats.lost))


def _total_here(one: Pass, side: WorkerSide, each: Map) -> tuple[list[Tally], PassStats]:
    def visited(panels: list[Panel]) -> tuple[list[Tally], PassStats]:
        return _visit_run(side, panels, _expected(one, panels), [[] for _ in panels])

    parts = list(each(visited, one.grid.runs()))
    while len(parts) > 1:
        parts = list(each(_add, [parts[first : first + FAN_IN] for first in range(0, len(parts), FAN_IN)]))
    return parts[0]


def _worker_side(one: Pass) -> WorkerSide:
    return WorkerSide(
        one.name,
        one.phases,
        one.source.reader,
        one.source.shape[1],
        one.dtype,
        one.factors,
        one.state,
        one.rows,
        one.leaves,
        one.starts_from,
        one.first,
        checked=one.checked,
        entries=one.source.entries,
    )


def _expected(one: Pass, panels: list[Panel]) -> list[float] | None:
    return None if one.sums is None else [one.sums[panel.index] for panel in panels]


def graph_of(one: Pass) -> tuple[dict[Hashable, GraphNode], Hashable]:
    """The graph of a pass, and the key of its outcomes and its ledger."""
    token = uuid.uuid4().hex
    graph, load, total = _visits(one, token)
    updated: list[Hashable] = []
    for model in range(len(one.phases)):
        key = (f"update-{token}", model)
        graph[key] = Task(key, _update, TaskRef(load), model, TaskRef(total))
        updated.append(key)
    kept = f"keep-{token}"
    graph[kept] = Task(kept, _kept, TaskRef(load), List(*map(TaskRef, updated)), TaskRef(total))
    return graph, kept


def _visits(one: Pass, token: str) -> tuple[dict[Hashable, GraphNode], str, Hashable]:
    """The visits of a pass and their sum: the graph, and the keys of what is loaded and of the sum."""
    # Names that group well on the dashboard: what it does, then a token of this very pass.
    label = one.phases[0].name.replace(" ", "-")
    load = f"load-{token}"
    graph: dict[Hashable, GraphNode] = {load: Task(load, _load, _worker_side(one))}

    upstream = Upstream(one.source.upstream()) if one.reads_data else None
    parts: list[Hashable] = []
    for index, panels in enumerate(one.grid.runs()):
        key = (f"{label}-{token}", index)
        chunks = [_chunk_keys(one, panel) if upstream else [] for panel in panels]
        references = List(*(List(*(List(*map(TaskRef, row)) for row in panel)) for panel in chunks))
        task = Task(key, _visit_run, TaskRef(load), panels, _expected(one, panels), references)
        needed = [chunk for panel in chunks for row in panel for chunk in row]
        if upstream and needed:
            graph |= upstream.fused(task, needed)
        else:
            graph[key] = task
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


def _chunk_keys(one: Pass, panel: Panel) -> list[list[Hashable]]:
    return one.source.chunk_keys(panel, lost=panel.index in one.lost)


@dataclass(frozen=True)
class WorkerSide:
    """The part of a pass that every task of it needs; travels once, as one task's argument."""

    name: str
    phases: tuple[Phase, ...]
    reader: Any
    n_features: int
    dtype: np.dtype
    factors: Factors
    state: str
    rows: tuple[FactorVersion, ...]
    leaves: FactorVersion | None
    starts_from: tuple[int, ...]
    first: int
    checked: bool
    entries: EntryWeights | None = None
    states: tuple[State, ...] = ()
    """What each phase starts from."""
    smalls: tuple[Any, ...] = ()
    retries: int = 0
    """How often storage was asked again for these."""

    def rows_of(self, panel: Panel) -> tuple[list[Rows], int]:
        """Each phase's own rows of a panel, with room for what it will leave, and the bytes read."""
        left: dict[int, Rows] = {}
        nbytes = 0
        asked = frozenset(self.starts_from)
        for generation in self.rows:
            if asked & generation.models:
                stored = self.factors.read_rows(generation, panel.index, panel.n_rows)
                nbytes += stored.nbytes
                left |= generation.split(stored, asked)
        models: list[Rows] = []
        for position, (phase, model) in enumerate(zip(self.phases, self.starts_from, strict=True)):
            rows = dict(left.get(model, {}))
            if model in self.starts_from[:position]:
                rows = {name: array.copy() for name, array in rows.items()}
            for name, columns in phase.widths.items():
                if name not in rows:
                    rows[name] = np.zeros((panel.n_rows, columns), self.dtype)
            models.append(rows)
        return models, nbytes


def _load(side: WorkerSide) -> WorkerSide:
    with counted() as retries:
        states = tuple(side.factors.read_states(side.state, side.starts_from))
    smalls = tuple(phase.prepare(state) for phase, state in zip(side.phases, states, strict=True))
    reader = side.reader.anew(of_a_fit=True)
    return replace(side, states=states, smalls=smalls, reader=reader, retries=retries.total)


def _visit_run(
    side: WorkerSide, panels: list[Panel], expected: list[float] | None, chunks: list[Any]
) -> tuple[list[Tally], PassStats]:
    """Visit consecutive panels in turn."""
    visited = [
        _visit_panel(side, panel, None if expected is None else expected[i], chunks[i])
        for i, panel in enumerate(panels)
    ]
    return _add(visited)


def _visit_panel(
    side: WorkerSide, panel: Panel, expected: float | None, chunks: Any
) -> tuple[list[Tally], PassStats]:
    with counted() as retries:
        tallies, stats = _visited(side, panel, expected, chunks)
    return tallies, replace(stats, retries=retries.total)


def _visited(
    side: WorkerSide, panel: Panel, expected: float | None, chunks: Any
) -> tuple[list[Tally], PassStats]:
    bytes_written = 0
    models, bytes_read = side.rows_of(panel)
    visitors = [
        Visitor(phase, small, rows)
        for phase, small, rows in zip(side.phases, side.smalls, models, strict=True)
    ]
    sums: tuple[tuple[int, float], ...] = ()
    slabs = Watched(PanelSlabs(side.reader, panel.start, panel.stop, chunks))
    if any(phase.reads_data for phase in side.phases):
        try:
            with metered() as meter:
                block = block_of(
                    slabs,
                    n_rows=panel.n_rows,
                    first=panel.start,
                    n_features=side.n_features,
                    dtype=side.dtype,
                    checked=side.checked,
                    entries=side.entries,
                )
                tallies = visit(block, visitors)
        except StageLost:
            # The pass goes on, so that one repetition is told of every panel that is lost.
            return [phase.tally() for phase in side.phases], PassStats(lost=(panel.index,))
        bytes_read += meter.total(block.nbytes)
        if side.checked:
            sums = ((panel.index, block.total),)
            _check_sum(panel, block.total, expected)
    else:
        tallies = visit(RowsOnly(panel.n_rows, panel.start), visitors)
    if side.leaves:
        joined = side.leaves.joined(dict(enumerate(models, side.first)))
        side.factors.write_rows(side.leaves, panel.index, joined)
        bytes_written = joined.nbytes
    held = slabs.peak or lately_resident()
    return tallies, PassStats(bytes_read, bytes_written, sums, memory=held)


def _check_sum(panel: Panel, found: float, expected: float | None) -> None:
    if expected is None or np.isnan(expected):
        return
    if not abs(found - expected) <= _SUM_TOLERANCE * abs(expected):
        raise DataChangedError(
            f"panel {panel.index} (rows {panel.start} to {panel.stop - 1}) of V sums to {found!r}; the "
            f"first pass found {expected!r}: V changed or is damaged since, bring it back or start "
            "over with overwrite=True."
        )


def _add(parts: list[tuple[list[Tally], PassStats]]) -> tuple[list[Tally], PassStats]:
    tallies = [add(model) for model in zip(*(tally for tally, _ in parts), strict=True)]
    stats = parts[0][1]
    for _, part in parts[1:]:
        stats = stats + part
    return tallies, stats


def _update(side: WorkerSide, model: int, total: tuple[list[Tally], PassStats]) -> tuple[State, Outcome]:
    if total[1].lost:
        raise StageLost(total[1].lost)
    with np.errstate(all="ignore"):  # as in `visit`
        state, outcome = side.phases[model].update(total[0][model], side.states[model])
    # One memory layout, whichever store the state comes back from: BLAS sums by layout.
    return {name: np.array(value, order="C") for name, value in state.items()}, outcome


def _kept(
    side: WorkerSide, updated: list[tuple[State, Outcome]], total: tuple[list[Tally], PassStats]
) -> tuple[list[Outcome], PassStats]:
    """Write the states of all models, and tell what they achieved."""
    with counted() as retries:
        side.factors.write_states(side.name, side.first, [state for state, _ in updated])
    return [outcome for _, outcome in updated], total[1] + PassStats(retries=side.retries + retries.total)
