"""Panels held by the workers of a cluster: one task each, whose result outlives the pass.

The client holds the futures, so the scheduler sends visits to where the data lies, counts its
memory, and where a worker is lost has that panel read again. The task depends on V alone: what the
scheduler remembers does not grow from pass to pass.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterator
from operator import methodcaller
from typing import Any

from dask.task_spec import GraphNode, List, Task, TaskRef
from distributed import Client

from dasknmf.core.panels import Grid, Panel
from dasknmf.data.dask_graph import Upstream
from dasknmf.data.source import Chunks, Reader, Slab, Source
from dasknmf.data.staging.memory import AnyPacked, Staged, packed
from dasknmf.io.metered import fetched, metered


class HeldSource(Staged):
    """A source whose panels become tasks of a cluster when they are first asked for."""

    def __init__(self, source: Source, grid: Grid, client: Client) -> None:
        super().__init__(source)
        self.staged_bytes = self.nbytes
        self.reader = HeldReader()
        self._grid = grid
        self._client = client
        self._name = f"stage-{uuid.uuid4().hex}"
        self._futures: list[Any] = []

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return [[(self._name, panel.index)]]

    def upstream(self) -> dict[Hashable, GraphNode]:
        if not self._futures:
            keys = [(self._name, panel.index) for panel in self._grid]
            self._futures = self._client.get(self._graph(), keys, sync=False)
        return {}  # the scheduler knows the tasks by their keys

    def _graph(self) -> dict[Hashable, GraphNode]:
        reader = self._name.replace("stage", "reader", 1)
        graph: dict[Hashable, GraphNode] = {
            reader: Task(reader, methodcaller("anew", of_a_fit=True), self._source.reader)
        }
        upstream = Upstream(self._source.upstream())
        for panel in self._grid:
            chunks = self._source.chunk_keys(panel)
            references = List(*(List(*map(TaskRef, row)) for row in chunks))
            key = (self._name, panel.index)
            task = Task(key, _hold, TaskRef(reader), panel.start, panel.stop, references)
            needed = [chunk for row in chunks for chunk in row]
            graph |= upstream.fused(task, needed) if needed else {key: task}
        return graph

    def release(self) -> None:
        """Let the workers forget the panels."""
        for future in self._futures:
            future.release()
        self._futures = []


class HeldPanel:
    """A panel in a worker's memory."""

    def __init__(self, slabs: list[AnyPacked], nbytes_fetched: int) -> None:
        self._slabs = slabs
        self._unreported = nbytes_fetched

    def __getstate__(self) -> dict[str, Any]:
        # A copy on its way to another worker takes the report along, so that it is made once.
        state = self.__dict__.copy()
        self._unreported = 0
        return state

    def __sizeof__(self) -> int:
        return sum(slab.nbytes for slab in self._slabs)

    def slabs(self) -> Iterator[Slab]:
        # The visit that comes first reports what reading the panel took: the task is in no pass.
        fetched(self._unreported)
        self._unreported = 0
        for slab in self._slabs:
            yield slab.slab()


class HeldReader(Reader):
    """Walks the panel that the scheduler delivers."""

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        panel: HeldPanel = chunks[0][0]
        return panel.slabs()


def _hold(reader: Reader, start: int, stop: int, chunks: Chunks) -> HeldPanel:
    with metered() as meter:
        slabs = [packed(slab) for slab in reader.slabs(start, stop, chunks)]
    return HeldPanel(slabs, meter.total(sum(slab.nbytes for slab in slabs)))
