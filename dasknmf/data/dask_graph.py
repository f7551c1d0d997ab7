"""Graphs of Dask arrays, with tasks that only one visit needs fused into the visit's task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from dask.task_spec import Alias, GraphNode, Task


class Upstream:
    """The graph that computes V's chunks."""

    def __init__(self, graph: dict[Hashable, GraphNode]) -> None:
        self._graph = graph
        self._uses = Counter(dependency for node in graph.values() for dependency in node.dependencies)

    def fused(self, task: Task, needed: Sequence[Hashable]) -> dict[Hashable, GraphNode]:
        """The tasks of a visit: the visit fused with ancestors that no other visit needs; and all others."""
        private: dict[Hashable, GraphNode] = {}
        shared: dict[Hashable, GraphNode] = {}
        uses = Counter(needed)
        wanted = set(needed)
        waiting = list(uses)
        while waiting:
            key = waiting.pop()
            if key in private:
                continue
            node = self._graph.get(key)
            if node is None:
                continue  # persisted on a cluster: the scheduler holds the result under this key
            # Data is used in place; only tasks are worth running inside the visit.
            if not isinstance(node, (Task, Alias)) or uses[key] < self._uses[key] + (key in wanted):
                shared[key] = node
                continue
            shared.pop(key, None)
            private[key] = node
            for dependency in node.dependencies:
                uses[dependency] += 1
                waiting.append(dependency)
        waiting = list(shared)
        while waiting:
            for dependency in self._graph[waiting.pop()].dependencies:
                if dependency in self._graph and dependency not in shared:
                    shared[dependency] = self._graph[dependency]
                    waiting.append(dependency)
        fused = Task.fuse(*private.values(), task) if private else task
        return {**shared, task.key: fused}
