"""What a plain fit of a sparse V holds at its peak beyond V, in a process of its own.

The process loads V and a start, runs one fit of the first rows (imports, compiled kernels, pools of
threads), and tells the kernel to forget its peak (Linux: `/proc/self/clear_refs`). Resident memory is
then what the process has before a fit; what VmHWM adds to it after three iterations is the fit's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import dask
import numpy as np
import scipy.sparse
import threadpoolctl

from benchmarks.duel import Duel

_ITERATIONS = 3
_WARM_ROWS = 500


def peak_bytes(duel: Duel, who: str) -> int:
    """Bytes that a fit of one side adds to a process which has V."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "v.npz"
        scipy.sparse.save_npz(file, duel.V, compressed=False)
        options = ["--solver", duel.solver, "--loss", duel.beta_loss, "-k", str(duel.k)]
        command = [sys.executable, "-m", "benchmarks.peak", str(file), who, *options]
        told = subprocess.run(
            [*command, "--threads", str(duel.threads)],
            check=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
    return int(told.stdout)


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("who", type=click.Choice(["ours", "theirs"]))
@click.option("--solver", required=True)
@click.option("--loss", required=True)
@click.option("-k", "rank", type=int, required=True)
@click.option("--threads", type=int, required=True)
def main(file: Path, who: str, solver: str, loss: str, rank: int, threads: int) -> None:
    """Print the bytes that a fit of FILE adds."""
    duel = Duel(file.stem, scipy.sparse.csr_array(scipy.sparse.load_npz(file)), rank, solver, loss, threads)
    start = duel.start()
    limits = threadpoolctl.threadpool_limits(threads, user_api="blas")
    with limits, dask.config.set(scheduler="threads", num_workers=threads):
        few = replace(duel, V=duel.V[:_WARM_ROWS])
        few.iterated(who, 1, few.start())
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        W = duel.iterated(who, _ITERATIONS, start)
        assert np.isfinite(W).all()
        print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
