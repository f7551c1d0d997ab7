"""A scheduler that runs tasks late, twice, in any order, or loses what they return."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from dask.task_spec import GraphNode

from dasknmf.errors import DaskNMFError
from tests.faults.bench import Bench, quiet, same
from tests.faults.cells import Cell
from tests.helpers import Killed

Values = dict[Hashable, Any]
Late = Callable[[], Any]


class Executor:
    """Computes graphs one task at a time, in an order and with the mishaps that it is told.

    Parameters
    ----------
    order : callable
        Which of the tasks that are ready is next.
    """

    def __init__(self, order: Callable[[list[Hashable]], Hashable] = lambda ready: ready[0]) -> None:
        self._order = order
        self.graphs = 0
        self.extra = 0
        """Tasks that ran beside those that were needed."""

    def __call__(self, graph: dict[Hashable, GraphNode], keys: list[Hashable]) -> Any:
        values: Values = {}
        waiting = dict(graph)
        while waiting:
            ready = [key for key, node in waiting.items() if node.dependencies <= values.keys()]
            key = self._order(ready)
            node = waiting.pop(key)
            values[key] = self.run(node, {each: values[each] for each in node.dependencies})
        self.ended(graph, values)
        self.graphs += 1
        return [values[key] for key in keys]

    def run(self, node: GraphNode, values: Values) -> Any:
        return node(values)

    def ended(self, graph: dict[Hashable, GraphNode], values: Values) -> None:
        """What happens when the last task of a graph has ended."""


class Losing(Executor):
    """A worker loses each result after its task has written what it writes: it runs once more."""

    def run(self, node: GraphNode, values: Values) -> Any:
        node(values)
        self.extra += 1
        return node(values)


class Doubling(Executor):
    """Each task runs in two workers at the same time; one of the two results counts."""

    def run(self, node: GraphNode, values: Values) -> Any:
        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(node, values) for _ in range(2))
            self.extra += 1
            return (first, second)[self.extra % 2].result()


class Repeating(Executor):
    """All tasks of a pass run again when it has ended, before it is committed."""

    def ended(self, graph: dict[Hashable, GraphNode], values: Values) -> None:
        for node in graph.values():
            node({each: values[each] for each in node.dependencies})
            self.extra += 1


class Haunted(Executor):
    """Tasks of a pass run again `passes` later: workers that were stopped, and wake up."""

    def __init__(self, passes: int, ghosts: list[list[Late]] | None = None) -> None:
        super().__init__()
        self._passes = passes
        self.ghosts: list[list[Late]] = [] if ghosts is None else ghosts

    def run(self, node: GraphNode, values: Values) -> Any:
        if len(self.ghosts) > self._passes and self.ghosts[-self._passes - 1]:
            self._wake(self.ghosts[-self._passes - 1].pop())
        return node(values)

    def __call__(self, graph: dict[Hashable, GraphNode], keys: list[Hashable]) -> Any:
        self.ghosts.append([])
        return super().__call__(graph, keys)

    def ended(self, graph: dict[Hashable, GraphNode], values: Values) -> None:
        for node in graph.values():
            self.ghosts[-1].append(partial(node, {each: values[each] for each in node.dependencies}))

    def _wake(self, late: Late) -> None:
        self.extra += 1
        _wake(late)


class Waking(Executor):
    """Tasks of clients that are gone run in the midst of its own, one beside each."""

    def __init__(self, ghosts: list[Late]) -> None:
        super().__init__()
        self._ghosts = ghosts

    def run(self, node: GraphNode, values: Values) -> Any:
        if self._ghosts:
            self.extra += 1
            _wake(self._ghosts.pop())
        return node(values)


def _wake(late: Late) -> None:
    with suppress(DaskNMFError):  # what it needs may be gone
        late()


class Dying(Haunted):
    """The client dies in a pass, while its tasks still run: they are kept, to run under the next client."""

    def __init__(self, graph: int) -> None:
        super().__init__(10**6)
        self._graph = graph

    def ended(self, graph: dict[Hashable, GraphNode], values: Values) -> None:
        super().ended(graph, values)
        if self.graphs == self._graph:
            raise Killed("the client")


ORDERS: dict[str, Callable[[], Executor]] = {
    "last first": lambda: Executor(lambda ready: ready[-1]),
    **{
        f"at random ({seed})": lambda seed=seed: Executor(random.Random(seed).choice)  # type: ignore[misc]
        for seed in range(3)
    },
}
TWICE: dict[str, Callable[[], Executor]] = {
    "results are lost after the write": Losing,
    "tasks run twice at once": Doubling,
    "tasks run again before the commit": Repeating,
    "tasks run again in the next pass": lambda: Haunted(1),
    "tasks run again two passes later": lambda: Haunted(2),
    "tasks run again three passes later": lambda: Haunted(3),
}
MODELS: dict[str, dict[str, Any]] = {
    "": {},
    "two starts": {"n_init": 2},
    "bpp": {"beta_loss": 2.0, "solver": "bpp"},
}


def _with(make: Callable[[], Executor], changes: dict[str, Any], bench: Bench) -> None:
    get = make()
    same(bench.fit(get, **changes), quiet(**changes))
    assert get.graphs >= 5
    if type(get) is not Executor:
        assert get.extra > 10


def _client_dies(graph: int, bench: Bench) -> None:
    """Its tasks run on, in the midst of those of the same command started again."""
    first = Dying(graph)
    bench.dies(get=first)
    ghosts = [late for each in first.ghosts for late in each]
    random.Random(graph).shuffle(ghosts)
    second = Waking(ghosts)
    bench.mended()
    same(bench.fit(second), quiet())
    assert second.extra > 5


TASKS = (
    *(
        Cell("tasks run in another order", name, "identical", partial(_with, make, {}))
        for name, make in ORDERS.items()
    ),
    *(
        Cell(name, f"every pass{', ' if model else ''}{model}", "identical", partial(_with, make, changes))
        for name, make in TWICE.items()
        for model, changes in MODELS.items()
    ),
    *(
        Cell(
            "the client dies, its tasks run on",
            f"pass {graph}",
            "again, among them: identical",
            partial(_client_dies, graph),
        )
        for graph in range(6)
    ),
)
