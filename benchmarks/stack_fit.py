"""A stack with moving clouds, factorized out of core: what does it cost to know what is missing?

V is a store of `stack`, drawn where there is none. Two workers of one thread and limited memory fit it
through `dasknmf.stacks`, Frobenius loss, without a stop rule: with nodata as missing values, and, the same
store, with nodata as the zeros that it is stored as. The two take turns, so that a drift of the machine hits
both.

Seconds are medians over the exact passes after the second: in the first two a plain start advances beside
the chosen one. `masked / plain` compares them. `read / stored` is what such a pass fetches of V, bytes of W
taken off, over what V takes in its store. `cosine` compares the endmembers found with the planted ones, each
with the one that it is matched to.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.matching import matched_cosines
from benchmarks.memory import Watch, pid
from benchmarks.runner import report, two_workers
from benchmarks.stack import NODATA, SIZES, VARIABLE, described, planted_endmembers, write
from dasknmf.core.history import Record
from dasknmf.stacks import StackNMF, open_stack

WAYS = {"masked": NODATA, "plain": "error"}
"""What becomes of nodata: not observed, or zeros like any others."""

_UNLIKE = 2  # exact passes that are not like the others


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option("-k", "rank", default=8, show_default=True)
@click.option("--passes", default=6, show_default=True, help="Exact ones of each fit, 3 or more.")
@click.option("--repeats", default=2, show_default=True, help="Fits of each way.")
@click.option("--memory", default="2GB", show_default=True, help="Of each of two workers.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Where runs go for the time.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    data: Path,
    size: str,
    rank: int,
    passes: int,
    repeats: int,
    memory: str,
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Fit the stack DATA, which is drawn where there is none."""
    write(SIZES[size], data)
    fits: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for repeat in range(repeats):
        for way in list(WAYS)[:: 1 if repeat % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                fits[way].append(fitted(data, way, rank, passes, memory, Path(directory) / "run.zarr"))
    rows = [joined(way, each) for way, each in fits.items()]
    rows[0]["masked / plain"] = rows[0]["s / pass"] / rows[1]["s / pass"]
    report("stack_fit", rows, out)


def joined(way: str, fits: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the fits of one way."""
    store = {name: fits[0][name] for name in ("shape", "decoded GB", "stored GB", "k", "reads")}
    seconds = [second for fit in fits for second in fit["passes"]]
    return {
        "nodata": way,
        **store,
        "fits": len(fits),
        "s / fit": statistics.median(fit["seconds"] for fit in fits),
        "s / pass": statistics.median(seconds),
        "least s": min(seconds),
        "most s": max(seconds),
        "decoded GB / s": store["decoded GB"] / statistics.median(seconds),
        "read / stored": statistics.median(each for fit in fits for each in fit["read / stored"]),
        "worker GB": max(fit["worker GB"] for fit in fits),
        "workers restarted": sum(fit["workers restarted"] for fit in fits),
        "mean cosine": statistics.mean(fit["mean cosine"] for fit in fits),
    }


def fitted(data: Path, way: str, rank: int, passes: int, memory: str, run: Path) -> dict[str, Any]:
    """What one fit took and found."""
    store = described(data)
    scene = open_stack(data, VARIABLE)
    with two_workers(memory_limit=memory) as client:
        pids = client.run(pid)
        model = StackNMF(rank, random_state=0, max_iter=passes, tol=0, missing_values=WAYS[way])
        began = time.perf_counter()
        with Watch(list(pids.values())) as watch:
            model.fit(scene, checkpoint=run)
        seconds = time.perf_counter() - began
        restarted = len(set(pids.values()) - set(client.run(pid).values()))
    usual = model.model_.history_.exact[_UNLIKE:]
    found = np.asarray(model.model_.components_)
    planted = planted_endmembers(data)
    return {
        **store,
        "k": rank,
        "reads": model.model_.n_reads_,
        "seconds": seconds,
        "passes": [record.seconds for record in usual],
        "read / stored": [_of_V(record, model, store) for record in usual],
        "worker GB": watch.peak / 1e9,
        "workers restarted": restarted,
        "mean cosine": float(np.mean(matched_cosines(found, planted.reshape(len(planted), -1)))),
    }


def _of_V(record: Record, model: StackNMF, store: dict[str, Any]) -> float:
    """Bytes that a pass fetched of V, over those that V's store takes."""
    of_W = model.layout.n_samples * model.model_.components_.shape[0] * model.model_.components_.itemsize
    return (record.bytes_read - of_W) / 1e9 / store["stored GB"]


if __name__ == "__main__":
    main()
