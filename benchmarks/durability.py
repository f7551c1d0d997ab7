"""What a checkpoint after every pass costs: seconds of a pass with one against a pass without.

V on Zarr, Frobenius loss, float32. A pass with a checkpoint reads its rows of W from the run and writes new
ones, each panel's on its own, forces them, H and the record of the pass to disk, and deletes what no commit
needs any more; without, W stays in memory. Seconds are those of a pass inside one fit, from record to record,
after a first pass that is not timed; the two take turns in one process.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import dask
import zarr

from benchmarks.data import stored_counts
from benchmarks.many import Passes
from benchmarks.runner import in_turn, ratio_of_minima, report, summary


@click.command()
@click.option("--gigabytes", default=3.0, show_default=True, help="Of V.")
@click.option("-m", "--features", default=2000, show_default=True)
@click.option("-k", "ranks", multiple=True, type=int, default=(10, 20), show_default=True)
@click.option("--passes", default=5, show_default=True, help="Timed in each fit, after a first.")
@click.option("--repeats", default=10, show_default=True, help="Fits of either.")
@click.option("--threads", default=2, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Keep V here, or find it here.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Where runs go for the time: a local disk.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    features: int,
    ranks: tuple[int, ...],
    passes: int,
    repeats: int,
    threads: int,
    data: Path | None,
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Ratio of the seconds of a pass with a checkpoint to those of one without."""
    rows = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        stack.enter_context(dask.config.set(scheduler="threads", num_workers=threads))
        path = data or place / "v.zarr"
        stored_counts(path, gigabytes, features)
        V = zarr.open_array(path, mode="r")
        for k in ranks:
            ways = {"without": Passes(path, 1, k, passes, None), "with": Passes(path, 1, k, passes, place)}
            for way in ways.values():
                way()  # compiles kernels and warms the file cache for both
            seconds = in_turn(ways, repeats)
            ratio = ratio_of_minima(seconds["without"], seconds["with"])
            for name, way in ways.items():
                row = {"checkpoint": name, "V GB": V.nbytes / 1e9, "k": k, **summary(seconds[name])}
                rows.append(row | {"MB written": way.history.exact[-1].bytes_written / 1e6})
            rows[-1] |= ratio | {"repeats": repeats}
    report("durability", rows, out)


if __name__ == "__main__":
    main()
