"""How near a pass comes to a bare loop that does the same reads, products and moves.

The bare loop is a thread pool over the same panels. Each thread reads a file, decodes it into memory that
it uses again and again, and computes V Hᵀ, the moves of coordinate descent, Wᵀ V and Wᵀ W of each tile. The
loop checks nothing, keeps nothing and commits nothing. Beside it stand its own limits: the same reads alone,
and the same products and moves alone on data in memory.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import local
from typing import Any

import click
import dask
import numcodecs
import numpy as np
import threadpoolctl
import zarr

from benchmarks.data import stored_counts
from benchmarks.one_pass import OnePass
from benchmarks.runner import interleaved, ratio_of_minima, report, summary, two_workers
from dasknmf.core.blocks.scratch import tile_rows
from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers import cd
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.data import grid_of, source_of
from dasknmf.engine.scheduler import Scheduler
from dasknmf.fitting.model import Model
from dasknmf.store import keys
from dasknmf.store.factors import MemoryFactors
from dasknmf.store.zarr_factors import ZarrFactors


class WarmChunks(local):
    """Chunks of whole rows in files, each decoded by a thread into the memory of its chunk before.

    Parameters
    ----------
    V : zarr.Array
        In a directory, without shards; chunks are as wide as V, and have one codec of bytes.
    """

    def __init__(self, V: zarr.Array) -> None:
        assert not V.shards
        assert V.chunks[1] == V.shape[1]
        (codec,) = V.compressors
        name = codec.codec_id if V.metadata.zarr_format == 2 else codec.to_dict()["name"]
        self.V, self.codec = V, numcodecs.get_codec({"id": name})
        self.decoded = np.ones(V.chunks, V.dtype)
        self.encoded = np.ones(2 * self.decoded.nbytes, np.uint8)

    def __call__(self, first: int, stop: int) -> np.ndarray:
        key = self.V.metadata.encode_chunk_key((first // self.V.chunks[0], 0))
        with Path(self.V.store.root, self.V.path, key).open("rb", buffering=0) as file:
            nbytes = file.readinto(self.encoded)
        self.codec.decode(self.encoded[:nbytes], self.decoded)
        return self.decoded[: stop - first]


class BareLoop:
    """Reads, tiled products and moves over panels, by threads and nothing else."""

    def __init__(self, V: zarr.Array, grid: Grid, k: int, count: int, threads: int) -> None:
        self.chunk, self.grid, self.count = WarmChunks(V), grid, count
        self.pool = ThreadPoolExecutor(threads)
        rng = np.random.default_rng(1)
        self.H = rng.random((k, V.shape[1]), dtype=np.float32)
        self.W = rng.random((V.shape[0], k), dtype=np.float32)
        self.height = tile_rows(V.shape[1], 4)
        self.slab = V.chunks[0]
        self.resident = V[: self.slab]

    def full(self) -> None:
        self._over_panels(self.chunk, products=True)

    def reads(self) -> None:
        self._over_panels(self.chunk, products=False)

    def products(self) -> None:
        self._over_panels(lambda first, stop: self.resident[: stop - first], products=True)

    def _over_panels(self, slab: Any, *, products: bool) -> None:
        Ht = np.ascontiguousarray(self.H.T)
        S = self.H @ self.H.T
        order = np.arange(len(S))
        W = self.W.copy()

        def panel(index: int) -> tuple[np.ndarray, np.ndarray]:
            A = np.zeros(self.H.shape)
            G = np.zeros(S.shape)
            edges = self.grid[index]
            for first in range(edges.start, edges.stop, self.slab):
                stop = min(first + self.slab, edges.stop)
                values = slab(first, stop)
                if not products:
                    continue
                for top in range(0, len(values), self.height):
                    tile = values[top : top + self.height]
                    w = W[first + top : first + top + len(tile)]
                    cd.move(w, tile @ Ht, S, Steps(0.0, order, self.count, 0.1))
                    A += w.T @ tile
                    G += w.T @ w
            return A, G

        for A, G in self.pool.map(panel, range(len(self.grid))):
            _ = A, G


def measure(V: zarr.Array, k: int, where: str, pairs: int, directory: Path) -> list[dict[str, Any]]:
    n, m = V.shape
    model = Model((n, m), k, np.dtype("f4"), Loss(2.0), "cd", "random", 0, Penalties(), "auto", 4 * m)
    source = source_of(V)
    grid = grid_of(source)
    nbytes = n * m * 4
    flops = 4 * n * m * k
    with ExitStack() as stack:
        stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))
        if where == "cluster":
            client = stack.enter_context(two_workers())
            scheduler = Scheduler("distributed", client.get, client)
            factors: Any = ZarrFactors(keys.opened(directory / f"factors-{k}"), grid, m, model.dtype)
        else:
            scheduler = Scheduler("threads", dask.threaded.get)
            factors = MemoryFactors()
        stack.enter_context(scheduler.tuned())
        bare = BareLoop(V, grid, k, model.exact().inner.rows, threads=2)  # type: ignore[attr-defined]
        # Moves stop early near a solution: both start every pass from the same unfinished factors.
        ours = OnePass(source, grid, model, factors, scheduler, (bare.W, bare.H, float(n * m)))
        for warm in (ours, bare.full):
            warm()
        seconds = interleaved({"pass": ours, "bare loop": bare.full}, pairs)
        limits = interleaved({"reads": bare.reads, "products": bare.products}, max(3, pairs // 8))
    ratio = ratio_of_minima(seconds["pass"], seconds["bare loop"])
    rows = []
    for name, taken in {**seconds, **limits}.items():
        row: dict[str, Any] = {"k": k, "where": where, "what": name, **summary(taken)}
        row["GB/s of V"] = nbytes / min(taken) / 1e9
        row["GFLOP/s"] = None if name == "reads" else flops / min(taken) / 1e9
        if name == "pass":
            row |= {"bare / pass": ratio["ratio"], "low": ratio["low"], "high": ratio["high"], "pairs": pairs}
        if name == "bare loop":
            both = min(limits["reads"]) + min(limits["products"])
            row |= {"(reads + products) / bare": both / min(taken)}
        rows.append(row)
    return rows


@click.command()
@click.option("--gigabytes", default=3.2, show_default=True)
@click.option("-m", "--features", default=2000, show_default=True)
@click.option("-k", "ranks", multiple=True, type=int, default=[10, 20, 50], show_default=True)
@click.option(
    "--where", multiple=True, type=click.Choice(["threads", "cluster"]), default=["threads", "cluster"]
)
@click.option("--pairs", default=31, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Keep V here, or find it here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    features: int,
    ranks: tuple[int, ...],
    where: tuple[str, ...],
    pairs: int,
    data: Path | None,
    out: Path | None,
) -> None:
    """Ratio of a pass to a bare loop over the same data."""
    with tempfile.TemporaryDirectory() as scratch:
        V = stored_counts(data or Path(scratch) / "v.zarr", gigabytes, features)
        rows = [row for k in ranks for place in where for row in measure(V, k, place, pairs, Path(scratch))]
    report("roofline", rows, out)


if __name__ == "__main__":
    main()
