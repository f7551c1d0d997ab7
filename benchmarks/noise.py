"""What a perturbation of V costs: nanoseconds for each entry, dense, or each nonzero, sparse.

One thread, V in memory, float32, a model of k components. *drawn* makes the perturbed tiles and nothing else;
*pass* is an exact pass of that model over V itself, and *perturbed pass* the one over its version of V. The
share of a pass that a perturbation adds is the ratio of the last two less 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.sparse
import threadpoolctl

from benchmarks.atlas import Atlas
from benchmarks.runner import interleaved, ratio_of_minima, report
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Phase, Visitor, visit
from dasknmf.core.solvers.resampled import KINDS, Resampling
from dasknmf.core.solvers.variant import Variant
from dasknmf.core.state import FactorState, State
from dasknmf.data.choose import source_of
from dasknmf.data.source import row_bytes_of
from dasknmf.fitting.model import Model

DTYPE = np.dtype(np.float32)


def blocks(V: Any) -> Any:
    """V as one panel."""
    n, m = V.shape
    return block_of([V], PanelSpec(n, 0, m, DTYPE))


def draw(V: Any, resampling: Resampling) -> None:
    for tile in blocks(V).tiles():
        resampling.seen(tile)


def walk(V: Any, phase: Phase, state: State, W: np.ndarray) -> None:
    """One pass, from the same factors each time."""
    visit(blocks(V), [Visitor(phase, phase.prepare(state), {"W": W.copy()})])


def measure(V: Any, k: int, loss: Loss, repeats: int) -> Iterable[dict[str, Any]]:
    n, m = V.shape
    sparse = scipy.sparse.issparse(V)
    entries = V.nnz if sparse else V.size
    rng = np.random.default_rng(0)
    scale = np.sqrt(V.sum() / V.shape[0] / m / k)
    W, H = (scale * rng.random(shape, dtype=DTYPE) for shape in ((n, k), (k, m)))
    solver = "cd" if loss.quadratic else "mu"
    row_bytes = row_bytes_of(source_of(V), DTYPE)
    plain = Model((n, m), k, DTYPE, loss, solver, "random", 0, Penalties(), 1, row_bytes)
    values = V.data if sparse else V
    squares = float((values.astype("f8") ** 2).sum())
    state = FactorState(H=H, eps=1e-7, tiny=1e-12, squares=squares, iteration=1)
    for kind in KINDS:
        resampling = Resampling(kind, seed=1)
        model = replace(plain, variant=Variant(resampling=resampling))
        calls = {
            "drawn": partial(draw, V, resampling),
            "pass": partial(walk, V, plain.exact(), state, W),
            "perturbed pass": partial(walk, V, model.exact(), state, W),
        }
        for call in calls.values():
            call()
        seconds = interleaved(calls, repeats)
        each = {f"{name} ns": min(taken) / entries * 1e9 for name, taken in seconds.items()}
        ratio = ratio_of_minima(seconds["pass"], seconds["perturbed pass"])
        names = {"V": "sparse" if sparse else "dense", "beta": loss.beta, "k": k, "kind": kind}
        yield (
            names
            | {"entries": int(entries)}
            | each
            | {"perturbed / pass": ratio["ratio"]}
            | {name: ratio[name] for name in ("low", "high")}
        )


@click.command()
@click.option("--dense", "dense", type=(int, int), default=(20_000, 2_000), show_default=True, help="Shape.")
@click.option(
    "--sparse",
    "sparse",
    type=(int, int, float),
    default=(20_000, 20_000, 0.04),
    show_default=True,
    help="Shape and density.",
)
@click.option("-k", "k", default=20, show_default=True)
@click.option("--repeats", default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    dense: tuple[int, int], sparse: tuple[int, int, float], k: int, repeats: int, out: Path | None
) -> None:
    """Nanoseconds of each kind of perturbation, and of the pass that it is part of."""
    rng = np.random.default_rng(0)
    n, m = dense
    W, H = rng.gamma(1.0, size=(n, k)), rng.gamma(1.0, size=(k, m))
    counts = rng.poisson(3 / k * W @ H).astype(DTYPE)
    n_cells, n_genes, density = sparse
    atlas = Atlas(n_cells, n_genes, density).rows(0, n_cells).astype(DTYPE)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        rows = [
            row for V in (counts, atlas) for beta in (2.0, 1.0) for row in measure(V, k, Loss(beta), repeats)
        ]
    report("noise", rows, out)


if __name__ == "__main__":
    main()
