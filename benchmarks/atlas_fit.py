"""An atlas on Zarr, factorized out of core: seconds, bytes and programs.

V is a store of `atlas`, drawn where there is none. Two workers of one thread and limited memory fit it,
Kullback-Leibler loss, from the default start, without a stop rule, a checkpoint behind every pass. The
same fit is repeated with V staged: in the workers' memory, and in files.

Seconds are medians over the exact passes after the second: in the first two a plain start advances beside
the chosen one, and a stage is filled. `read / stored` is what such a pass fetches of V, bytes of W taken
off, over what V takes in its store; with a stage that is nothing. `cosine` compares the programs found
with the planted ones, each with the one that it is matched to.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.atlas import Atlas, described, planted_programs, write
from benchmarks.matching import matched_cosines
from benchmarks.memory import Watch, pid
from benchmarks.runner import report, two_workers
from dasknmf import NMF
from dasknmf.core.history import Record

STAGES = ["none", "memory", "path"]
_UNLIKE = 2  # exact passes that are not like the others


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--cells", default=20_000.0, show_default=True)
@click.option("--genes", default=2_000, show_default=True)
@click.option("--density", default=0.04, show_default=True)
@click.option("--planted", default=20, show_default=True)
@click.option("-k", "rank", default=20, show_default=True)
@click.option("--passes", default=20, show_default=True, help="Exact ones.")
@click.option("--memory", default="2GB", show_default=True, help="Of each of two workers.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), default=STAGES)
@click.option("--scratch", type=click.Path(path_type=Path), help="Where runs and stages go for the time.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    data: Path,
    cells: float,
    genes: int,
    density: float,
    planted: int,
    rank: int,
    passes: int,
    memory: str,
    stages: tuple[str, ...],
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Fit the AnnData store DATA, which is drawn where there is none."""
    write(Atlas(int(cells), genes, density, planted), data)
    rows = []
    for stage in stages:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            where = {"none": None, "memory": "memory", "path": Path(directory) / "stage"}[stage]
            row = fitted(data, rank, passes, memory, where, Path(directory) / "run.zarr")
            rows.append({"stage": stage, **row})
    report("atlas_fit", rows, out)


def fitted(
    data: Path, rank: int, passes: int, memory: str, stage: Path | str | None, run: Path
) -> dict[str, Any]:
    """What one fit took and found."""
    store = described(data)
    with two_workers(memory_limit=memory) as client:
        pids = client.run(pid)
        model = NMF(rank, beta_loss="kullback-leibler", random_state=0, max_iter=passes, tol=0)
        began = time.perf_counter()
        with Watch(list(pids.values())) as watch:
            model.fit(data, checkpoint=run, stage=stage)
        seconds = time.perf_counter() - began
        restarted = len(set(pids.values()) - set(client.run(pid).values()))
    usual = model.history_.exact[_UNLIKE:]
    each = statistics.median(record.seconds for record in usual)
    cosines = matched_cosines(planted_programs(data), model.components_)
    return {
        "cells": store["cells"],
        "genes": store["genes"],
        "nonzeros": store["nonzeros"],
        "stored GB": store["stored GB"],
        "k": rank,
        "reads": model.n_reads_,
        "seconds": seconds,
        "s / pass": each,
        "Mnonzeros / s": store["nonzeros"] / each / 1e6,
        "read / stored": statistics.median(_of_V(record, model, store) for record in usual),
        "worker GB": watch.peak / 1e9,
        "workers restarted": restarted,
        "mean cosine": float(np.mean(cosines)),
        "least cosine": float(np.min(cosines)),
    }


def _of_V(record: Record, model: NMF, store: dict[str, Any]) -> float:
    """Bytes that a pass fetched of V, over those that V's store takes."""
    of_W = store["cells"] * model.n_components_ * model.components_.itemsize
    return (record.bytes_read - of_W) / 1e9 / store["stored GB"]


if __name__ == "__main__":
    main()
