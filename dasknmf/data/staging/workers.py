"""Panels in the memory of a cluster's workers: one task for each panel, whose result is kept between passes.

The client holds the futures of these tasks, so the scheduler sends visits to the workers that hold the data,
counts the memory, and computes the panels of a lost worker again. All passes use the same tasks, so the
scheduler's memory does not grow.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from operator import methodcaller
from typing import Any

from dask.task_spec import GraphNode, List, Task, TaskRef
from distributed import Client, Future

from dasknmf.core.panels import Grid, Panel
from dasknmf.data.dask_graph import Upstream
from dasknmf.data.source import Chunks, Source
from dasknmf.data.staging.cache import Cache, Write
from dasknmf.data.staging.packed import Packed
from dasknmf.io.counts import count, counting


class WorkerCache(Cache):
    """A cache of panels as tasks of a cluster, submitted when the first pass needs them."""

    def __init__(self, grid: Grid, client: Client) -> None:
        self._grid = grid
        self._client: Client | None = client
        self._name = f"stage-{uuid.uuid4().hex}"
        self._futures: list[Future] = []

    def chunk_keys(self, source: Source, panel: Panel, *, lost: bool) -> list[list[Hashable]]:
        return [[(self._name, panel.index)]]

    def upstream(self, source: Source) -> dict[Hashable, GraphNode]:
        if not self._futures:
            assert self._client is not None
            keys = [(self._name, panel.index) for panel in self._grid]
            self._futures = self._client.get(self._graph(source), keys, sync=False)
        return {}  # the scheduler knows the tasks by their keys

    def _graph(self, source: Source) -> dict[Hashable, GraphNode]:
        reader = self._name.replace("stage", "reader", 1)
        graph: dict[Hashable, GraphNode] = {
            reader: Task(reader, methodcaller("renewed", of_a_fit=True), source.for_tasks())
        }
        upstream = Upstream(source.upstream())
        for panel in self._grid:
            chunks = source.chunk_keys(panel)
            references = List(*(List(*map(TaskRef, row)) for row in chunks))
            key = (self._name, panel.index)
            task = Task(key, _hold, TaskRef(reader), panel.start, panel.stop, references)
            needed = [chunk for row in chunks for chunk in row]
            graph |= upstream.fused(task, needed) if needed else {key: task}
        return graph

    def release(self) -> None:
        """Release the panels that the workers hold."""
        for future in self._futures:
            future.release()
        self._futures = []

    def for_tasks(self) -> Cache:
        sent = copy.copy(self)
        sent._client, sent._futures = None, []
        return sent

    def read(self, start: int, stop: int, chunks: Chunks) -> Iterator[Packed]:
        panel: _HeldPanel = chunks[0][0]
        yield from panel.slabs()

    def writing(self, start: int, stop: int) -> AbstractContextManager[Write]:
        raise AssertionError("a panel that a worker holds is whole")


class _HeldPanel:
    """A panel in a worker's memory."""

    def __init__(self, slabs: list[Packed], nbytes_fetched: int) -> None:
        self._slabs = slabs
        self._unreported = nbytes_fetched

    def __getstate__(self) -> dict[str, Any]:
        # Only one of the copies reports the bytes.
        state = self.__dict__.copy()
        self._unreported = 0
        return state

    def __sizeof__(self) -> int:
        return sum(slab.nbytes for slab in self._slabs)

    def slabs(self) -> Iterator[Packed]:
        # The first visit counts the bytes of the panel's read, as the task that read it belongs to no pass.
        count(nbytes=self._unreported)
        self._unreported = 0
        yield from self._slabs


def _hold(reader: Source, start: int, stop: int, chunks: Chunks) -> _HeldPanel:
    with counting() as counts:
        slabs = [Packed.of(slab) for slab in reader.slabs(start, stop, chunks)]
    unmetered = sum(slab.nbytes for slab in slabs)
    return _HeldPanel(slabs, unmetered if counts.nbytes is None else counts.nbytes)
