"""A V far larger than its workers: does it finish, and what do the workers hold at their peak?

V is a low-rank product and uniform noise, float32, which hardly compresses. Two workers of 1 GB each
factorize it; a thread samples their resident memory.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import zarr

from benchmarks.runner import report, two_workers
from dasknmf import NMF
from dasknmf.fitting import execution


def noise(path: Path, n: int, m: int) -> zarr.Array:
    """Random float32 in chunks of 8 MB."""
    rows = max(1, 8_000_000 // (4 * m))
    array = zarr.create_array(path, shape=(n, m), chunks=(min(rows, n), m), dtype="f4")
    rng = np.random.default_rng(0)
    H = rng.random((20, m), dtype="f4")
    for first in range(0, n, array.chunks[0]):
        stop = min(first + array.chunks[0], n)
        W = rng.random((stop - first, 20), dtype="f4") ** 4
        array[first:stop] = W @ H + rng.random((stop - first, m), dtype="f4")
    return array


class Watch:
    """The largest resident memory of some processes, sampled twenty times a second."""

    def __init__(self, pids: list[int]) -> None:
        self.peak = 0
        self._processes = [psutil.Process(pid) for pid in pids]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.05):
            for process in self._processes:
                if process.is_running():
                    self.peak = max(self.peak, process.memory_info().rss)


def pid() -> int:
    import os

    return os.getpid()


@click.command()
@click.option("--gigabytes", default=4.0, show_default=True)
@click.option("-m", "--features", default=1000, show_default=True)
@click.option("-k", "rank", default=20, show_default=True)
@click.option("--passes", default=20, show_default=True)
@click.option("--memory", default="1GB", show_default=True, help="Of each of two workers.")
@click.option("--data", type=click.Path(path_type=Path), help="Keep V here, or find it here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    features: int,
    rank: int,
    passes: int,
    memory: str,
    data: Path | None,
    out: Path | None,
) -> None:
    """Peak memory of workers against the projection, over a V that is larger than they are."""
    projected: list[int] = []
    original = execution.models_per_read

    def told(*arguments: Any, **parameters: Any) -> Any:
        together, projections = original(*arguments, **parameters)
        projected.append(max(projection.peak for projection in projections))
        return together, projections

    with tempfile.TemporaryDirectory() as scratch:
        path = data or Path(scratch) / "v.zarr"
        n = int(gigabytes * 1e9 / 4 / features)
        if not path.exists():
            noise(path, n, features)
        V = zarr.open_array(path, mode="r")
        with two_workers(memory_limit=memory) as client:
            pids = client.run(pid)
            began = time.perf_counter()
            with Watch(list(pids.values())) as watch:
                # The projection is made where the fit begins: it is caught there, for this one fit.
                execution.models_per_read = told
                try:
                    model = NMF(rank, init="random", random_state=0, max_iter=passes, tol=0).fit(
                        V, checkpoint=Path(scratch) / "run"
                    )
                finally:
                    execution.models_per_read = original
            seconds = time.perf_counter() - began
            restarted = len(set(pids.values()) - set(client.run(pid).values()))
        row: dict[str, Any] = {
            "V GB": V.nbytes / 1e9,
            "stored GB": V.nbytes_stored() / 1e9,
            "workers": f"2 x {memory}",
            "passes": model.n_iter_,
            "seconds": seconds,
            "projected GB": projected[0] / 1e9,
            "seen GB": watch.peak / 1e9,
            "workers restarted": restarted,
        }
    report("memory", [row], out)


if __name__ == "__main__":
    main()
