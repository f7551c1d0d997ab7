"""One pass by the engine, without the fit around it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
from dask.task_spec import GraphNode

from dasknmf.core.panels import Grid
from dasknmf.core.state import FactorState
from dasknmf.data import Source
from dasknmf.engine import graph
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting.model import Model
from dasknmf.store.factors import Factors, FactorVersion


class OnePass:
    """The exact pass of a model over V, again and again from the same factors.

    Parameters
    ----------
    source, grid, model, factors, scheduler
        Of what, cut where, which, kept where, computed where.
    start : tuple of (W, H, Σv²)
    """

    def __init__(
        self,
        source: Source,
        grid: Grid,
        model: Model,
        factors: Factors,
        scheduler: Scheduler,
        start: tuple[np.ndarray, np.ndarray, float],
    ) -> None:
        self.scheduler = scheduler
        self.counter = 0
        W, H, squares = start
        rows = FactorVersion.of("start", [{"W": model.k}])
        factors.begin(rows)
        for panel in grid:
            factors.write_rows(rows, panel.index, W[panel.start : panel.stop])
        self.state = FactorState(H=H, eps=1e-7, squares=squares, iteration=1)
        work = graph.Work("start", (model.exact(),), model.dtype, factors, "start", (rows,))
        self.one = graph.Pass(work, source, grid)

    def __call__(self) -> None:
        """Run the pass, and drop what it leaves as a commit drops what nothing needs any more."""
        one = self._next()
        factors = one.work.factors
        graph.run(one, self.scheduler.get)
        factors.drop(one.work.name)

    def in_a_loop(self) -> None:
        """The same tasks, called one after another: what they cost without a scheduler."""
        one = self._next()
        work = one.work
        assert work.new_rows is not None
        work.factors.begin(work.new_rows)
        results: dict[Hashable, Any] = {}
        for key, node in self.graph(one).items():  # tasks stand behind what they need
            results[key] = node({needed: results[needed] for needed in node.dependencies})
        work.factors.drop(work.name)

    def graph(self, one: graph.Pass | None = None) -> dict[Hashable, GraphNode]:
        """The pass's graph."""
        return graph.graph_of(one or self.one)[0]

    def _next(self) -> graph.Pass:
        self.counter += 1
        # As a commit does, it keeps no state but that of the pass to come.
        work = replace(self.one.work, name=f"{self.counter}-bench", state=f"{self.counter}-start")
        work.factors.write_states(work.state, 0, [self.state])
        work.factors.forget_states({work.state: [0]})
        return replace(self.one, work=work)
