"""Passes over a store that answers late: seconds against those of the transfer alone.

V is a Zarr array on a disk, behind a store that waits before each answer and sends all answers over one line
of a given bandwidth: an object store without its noise. The fit runs on threads. "transfer" is the time of
the line for the bytes of V, below which no pass can be; a pass also waits once for its first answer.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import dask
import zarr
from sklearn.exceptions import ConvergenceWarning
from zarr.storage import LocalStore, WrapperStore

from benchmarks.data import stored_counts
from benchmarks.runner import report, summary
from dasknmf import NMF
from dasknmf.data.zarr_array import ZarrArray


class LateStore(WrapperStore[Any]):
    """A store whose answers come after `latency` seconds, over one line of `bandwidth` bytes a second."""

    def __init__(self, store: Any, latency: float, bandwidth: float) -> None:
        super().__init__(store)
        self._latency, self._bandwidth = latency, bandwidth
        self._free = 0.0
        self.now = self.most = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._latency)
        found = await self._store.get(key, prototype, byte_range)
        self._free = max(time.monotonic(), self._free) + (len(found) if found else 0) / self._bandwidth
        await asyncio.sleep(self._free - time.monotonic())
        self.now -= 1
        return found


@click.command()
@click.option("--gigabytes", default=6.0, show_default=True, help="Of V, decoded.")
@click.option("-m", "--features", default=2000, show_default=True)
@click.option("-k", "k", default=10, show_default=True)
@click.option("--latency", "latencies", multiple=True, default=(0.02, 0.1, 0.5), show_default=True)
@click.option("--bandwidth", default=200e6, show_default=True, help="Bytes a second.")
@click.option("--passes", default=4, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Keep V here, or find it here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    features: int,
    k: int,
    latencies: tuple[float, ...],
    bandwidth: float,
    passes: int,
    threads: int,
    data: Path | None,
    out: Path | None,
) -> None:
    """Seconds of a pass for each latency."""
    rows = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(dask.config.set(scheduler="threads", num_workers=threads))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ConvergenceWarning)
        path = data or place / "v.zarr"
        stored = stored_counts(path, gigabytes, features)
        for latency in latencies:
            store = LateStore(LocalStore(path, read_only=True), latency, bandwidth)
            V = zarr.open_array(store, mode="r")
            model = NMF(k, init="random", random_state=0, max_iter=passes, tol=0).fit(V)
            seconds = [record.seconds for record in model.history_.exact]
            transfer = stored.nbytes_stored() / bandwidth
            row = {
                "latency s": latency,
                "V GB": stored.nbytes / 1e9,
                "stored GB": stored.nbytes_stored() / 1e9,
            }
            row |= {"transfer s": transfer, **summary(seconds), "times transfer": min(seconds) / transfer}
            rows.append(row | {"most requests": store.most, "ahead MB": ZarrArray(V).ahead_bytes / 1e6})
    report("latency", rows, out)


if __name__ == "__main__":
    main()
