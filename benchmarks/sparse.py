"""Counts in CSR in memory, against scikit-learn: seconds of a plain iteration, and peak memory.

V is drawn by `atlas`, float32. A *plain iteration* is that of `vs_sklearn`: the same arithmetic on both
sides, from the same start (`W differs` says how far apart they are after the shorter run, over W's
maximum), and the time is the difference of two iteration counts. Memory is that of `peak`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask

from benchmarks.atlas import Atlas
from benchmarks.duel import Duel
from benchmarks.peak import peak_bytes
from benchmarks.runner import report

METHODS = [("mu", "kullback-leibler"), ("cd", "frobenius"), ("mu", "frobenius")]


@dataclass(frozen=True)
class Case:
    """A size of V, and the iteration counts whose difference is timed."""

    n_cells: int
    n_genes: int
    density: float
    counts: tuple[int, int]

    def drawn(self) -> Any:
        return Atlas(self.n_cells, self.n_genes, self.density).rows(0, self.n_cells)


USUAL = [Case(20_000, 2_000, 0.05, (5, 25)), Case(200_000, 5_000, 0.03, (2, 6))]
"""Fewer iterations of the large one: scikit-learn's take seconds each."""


@click.command()
@click.option("--size", "sizes", type=(int, int, float), multiple=True, help="Cells, genes, density.")
@click.option("-k", "ranks", type=int, multiple=True, default=(20, 50), show_default=True)
@click.option("--loss", "losses", multiple=True, help="Of mu or cd; by default both losses.")
@click.option("--iterations", type=(int, int), help="Their difference; by default by size.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True, help="Of Dask for ours, most of BLAS for theirs.")
@click.option("--peaks/--no-peaks", default=True, show_default=True, help="Memory: a process for each side.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    sizes: tuple[tuple[int, int, float], ...],
    ranks: tuple[int, ...],
    losses: tuple[str, ...],
    iterations: tuple[int, int] | None,
    repeats: int,
    threads: int,
    peaks: bool,
    out: Path | None,
) -> None:
    """Ratio of scikit-learn's seconds and bytes to ours, on CSR counts."""
    rows = []
    cases = [Case(*size, iterations or (5, 25)) for size in sizes] if sizes else USUAL
    with dask.config.set(scheduler="threads", num_workers=threads):
        for case in cases:
            V = case.drawn()
            for k in ranks:
                for solver, loss in METHODS:
                    if losses and loss not in losses:
                        continue
                    duel = Duel("atlas", V, k, solver, loss, threads)
                    row = duel.plain(iterations or case.counts, repeats)
                    rows.append(row | {"nonzeros": V.nnz} | (_peaks(duel) if peaks else {}))
    report("sparse", rows, out)


def _peaks(duel: Duel) -> dict[str, float]:
    ours, theirs = (peak_bytes(duel, who) / 1e6 for who in ("ours", "theirs"))
    return {"our MB": ours, "their MB": theirs, "MB ours / theirs": ours / theirs}


if __name__ == "__main__":
    main()
