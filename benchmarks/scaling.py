"""What a pass costs beside V: seconds, per panel and per task, as panels grow in number.

V is a stub: every panel is the same few rows in memory, so that reading and products cost next to
nothing and what remains is the graph, the scheduler, and the factor store (in memory for threads, on
disk for a cluster). A task visits a run of consecutive panels, so tasks stop growing long before
panels do. The same tasks called in a plain loop, on one thread, tell what is the scheduler's part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from dask.threaded import get as threaded_get

from benchmarks.one_pass import OnePass
from benchmarks.runner import interleaved, ratio_of_minima, report, summary, two_workers
from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.penalties import Penalties
from dasknmf.data.source import Chunks, Facts, Source
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting.model import Model
from dasknmf.store import keys
from dasknmf.store.factors import Factors, MemoryFactors
from dasknmf.store.zarr_factors import ZarrFactors

ROWS, FEATURES, RANK = 4, 16, 2
THREADS, CLUSTER = "threads", "LocalCluster(2 x 1)"


class StubSource(Source):
    """A V of many tiny panels that costs nothing to read."""

    dtype = np.dtype(np.float32)

    def __init__(self, n_panels: int) -> None:
        self.shape = (n_panels * ROWS, FEATURES)
        self._slab = np.ones((ROWS, FEATURES), np.float32)

    def find_facts(self) -> Facts:
        return Facts(np.arange(0, self.shape[0] + 1, ROWS), slab_bytes=ROWS * FEATURES * 4)

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[np.ndarray]:
        yield self._slab[: stop - start]


def stubbed(n_panels: int, factors: Factors, scheduler: Scheduler) -> OnePass:
    """A pass of coordinate descent over that many panels."""
    source = StubSource(n_panels)
    row_bytes = source.shape[1] * source.dtype.itemsize
    model = Model(source.shape, RANK, source.dtype, Loss(2.0), "cd", "random", 0, Penalties(), 1, row_bytes)
    rng = np.random.default_rng(0)
    W, H = (rng.random(size, dtype=np.float32) for size in ((source.shape[0], RANK), (RANK, FEATURES)))
    grid = Grid(tuple(source.facts.cuts.tolist()))
    return OnePass(source, grid, model, factors, scheduler, (W, H, float(np.prod(source.shape))))


def measure(where: str, panels: tuple[int, ...], repeats: int, directory: Path) -> list[dict[str, Any]]:
    """One row for each number of panels."""
    with ExitStack() as stack:
        scheduler = Scheduler("threads", threaded_get)
        if where == CLUSTER:
            client = stack.enter_context(two_workers())
            scheduler = Scheduler("distributed", client.get, client)
        stack.enter_context(scheduler.tuned())
        return [_row(where, count, scheduler, repeats, directory) for count in panels]


def _row(where: str, count: int, scheduler: Scheduler, repeats: int, directory: Path) -> dict[str, Any]:
    factors: Factors = MemoryFactors()
    if where == CLUSTER:
        store = keys.opened(directory / f"factors-{count}")
        source = StubSource(count)
        factors = ZarrFactors(store, Grid(tuple(source.facts.cuts.tolist())), FEATURES, source.dtype)
    one = stubbed(count, factors, scheduler)
    one()  # compiles kernels
    tasks = len(one.graph())
    calls = {"pass": one, "graph": one.graph, "loop": one.in_a_loop}
    seconds = interleaved(calls, repeats)
    ratio = ratio_of_minima(seconds["pass"], seconds["loop"])
    least = min(seconds["pass"])
    return {
        "where": where,
        "panels": count,
        "tasks": tasks,
        "graph build s": min(seconds["graph"]),
        **summary(seconds["pass"]),
        "µs per panel": least / count * 1e6,
        "µs per task": least / tasks * 1e6,
        "plain loop s": min(seconds["loop"]),
        "beyond loop µs per task": (least - min(seconds["loop"])) / tasks * 1e6,
        "loop / pass": ratio["ratio"],
        "low": ratio["low"],
        "high": ratio["high"],
        "repeats": repeats,
    }


@click.command()
@click.option("--panels", multiple=True, type=int, default=[10**2, 10**3, 10**4, 10**5], show_default=True)
@click.option("--cluster-panels", multiple=True, type=int, default=[10**2, 10**3, 10**4], show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    panels: tuple[int, ...], cluster_panels: tuple[int, ...], repeats: int, threads: int, out: Path | None
) -> None:
    """Seconds of a pass whose V costs nothing, on threads and on a cluster of two processes."""
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(num_workers=threads):
        rows = measure(THREADS, panels, repeats, Path(scratch))
        rows += measure(CLUSTER, cluster_panels, repeats, Path(scratch))
    report("scaling", rows, out)


if __name__ == "__main__":
    main()
