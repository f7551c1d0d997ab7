"""Fits with nothing said but the number of components, on real and drawn sets: reads, ends and losses.

V is on Zarr in at least sixteen chunks. Each fit names V, `n_components`, a seed and, for Kullback-Leibler,
the loss. "reads" and "ended by" are what the fit says of itself. "x sklearn" is its loss D over the
lower of scikit-learn's losses from its default start and from a random one, after the 200 iterations
that it takes by default: for Kullback-Leibler, plain multiplicative iterations of this package, whose
iterates are scikit-learn's. "above D*" is (D − D*) / D*, where D* is the lowest loss that any fit of
the row has reached, with the fit itself continued at `tol=1e-9` among them.

A share of V: the sample of the start holds that share of V's bytes, as the sample of a large V does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import sklearn.decomposition
import zarr
from sklearn.exceptions import ConvergenceWarning

from benchmarks import real
from benchmarks.data import drawn_counts, indian_pines
from benchmarks.reads import slow_spectrum
from benchmarks.runner import report
from benchmarks.until import loss_of
from dasknmf import NMF
from dasknmf.core.losses import Loss

_PLAIN_ITERATIONS = 200
_CHUNKS = 16
_LONG = {"frobenius": 2000, "kullback-leibler": 150}
"""Passes of the fit that is continued: those of second order converge in fewer."""


@dataclass(frozen=True)
class Case:
    """One V and its number of components."""

    name: str
    make: Callable[[], np.ndarray]
    k: int
    counts: bool = True
    """Whether the Kullback-Leibler loss is one that users would take for V."""


CASES = [
    Case("Indian Pines", lambda: indian_pines("float32"), 10),
    Case("ORL faces", real.faces, 25),
    Case("celltypist log1p", real.log_expression, 10, counts=False),
    Case("celltypist counts", real.expression, 10),
    Case("Reuters", real.words, 20),
    Case("digits", real.digits, 10),
    Case("photograph", real.patches, 16),
    Case("tumours", real.tumours, 5, counts=False),
    Case("medulloblastoma", real.medulloblastoma, 5),
    Case("leukemia", real.leukemia, 5),
    Case("planted counts", lambda: drawn_counts(4000, 800, 12), 12),
    Case("slow spectrum", slow_spectrum, 20),
]


@dataclass(frozen=True)
class Found:
    """One fit."""

    loss: float
    reads: float
    passes: int
    seconds: float
    converged: bool
    start: str


def fitted(path: Path, k: int, seed: int, **parameters: Any) -> tuple[Found, NMF]:
    """A fit of the V at `path`, and its model."""
    model = NMF(k, random_state=seed, **parameters)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        began = time.perf_counter()
        model.fit(path)
        seconds = time.perf_counter() - began
    ended = not any(issubclass(each.category, ConvergenceWarning) for each in told)
    loss = model.reconstruction_err_**2 / 2
    return Found(loss, model.n_reads_, model.n_iter_, seconds, ended, model.init_), model


def plain(V: np.ndarray, k: int, beta_loss: str, seed: int) -> tuple[float, float]:
    """scikit-learn's lower loss of two starts, and its seconds."""
    losses, seconds = [], []
    for init in ("nndsvda", "random"):
        if init != "random" and k > min(V.shape):
            continue
        shared: dict[str, Any] = {"init": init, "random_state": seed, "max_iter": _PLAIN_ITERATIONS}
        model: Any
        if beta_loss == "frobenius":
            model = sklearn.decomposition.NMF(k, **shared)
        else:
            model = NMF(k, beta_loss=beta_loss, solver="mu", inner_iter=1, tol=0, **shared)
        began = time.perf_counter()
        W = model.fit_transform(V)
        seconds.append(time.perf_counter() - began)
        losses.append(loss_of(V, W, model.components_, Loss.named(beta_loss)))
    return min(losses), seconds[int(np.argmin(losses))]


def row(case: Case, beta_loss: str, share: float | None, seeds: int, scratch: Path) -> dict[str, Any]:
    """One line of the table."""
    V = case.make()
    path = scratch / f"{case.name}.zarr"
    zarr.create_array(path, data=V, chunks=(-(-len(V) // _CHUNKS), V.shape[1]))
    parameters: dict[str, Any] = {} if beta_loss == "frobenius" else {"beta_loss": beta_loss}
    if share is not None:
        parameters |= {"sample_bytes": int(share * V.nbytes)}
    runs = [fitted(path, case.k, seed, **parameters) for seed in range(seeds)]
    theirs = [plain(V, case.k, beta_loss, seed) for seed in range(seeds)]
    losses = [found.loss for found, _ in runs]
    lowest = [loss for loss, _ in theirs]
    best = runs[int(np.argmin(losses))][1]
    longest: dict[str, Any] = {
        "init": "custom",
        "tol": 1e-9,
        "max_iter": _LONG[beta_loss],
        "beta_loss": beta_loss,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        W = best.transform(V)
        further = NMF(case.k, **longest).fit(V, W=W, H=best.components_)
    limit = min(*losses, *lowest, further.reconstruction_err_**2 / 2)
    ratios = [loss / min(lowest) for loss in losses]
    return {
        "V": case.name,
        "shape": "x".join(map(str, V.shape)),
        "k": case.k,
        "loss": beta_loss,
        "share": share,
        "start": runs[0][0].start,
        "reads": statistics.median(found.reads for found, _ in runs),
        "most reads": max(found.reads for found, _ in runs),
        "ended by rule": f"{sum(found.converged for found, _ in runs)}/{seeds}",
        "best x sklearn": min(ratios),
        "worst x sklearn": max(ratios),
        "above D*": statistics.median(loss / limit - 1 for loss in losses),
        "s": statistics.median(found.seconds for found, _ in runs),
        "their s": statistics.median(seconds for _, seconds in theirs),
    }


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", default="", help="Sets whose names contain this.")
@click.option("--loss", "losses", multiple=True, default=("frobenius", "kullback-leibler"), show_default=True)
@click.option("--share", "shares", multiple=True, type=float, default=(0.0,), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the rows.")
def main(seeds: int, only: str, losses: tuple[str, ...], shares: tuple[float, ...], out: Path | None) -> None:
    """Fit every set with defaults."""
    rows = []
    for beta_loss in losses:
        for share in shares:
            for case in CASES:
                if only not in case.name or (beta_loss != "frobenius" and not case.counts):
                    continue
                with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    rows.append(row(case, beta_loss, share or None, seeds, Path(scratch)))
                click.echo(
                    "  ".join(
                        f"{each:.4g}" if isinstance(each, float) else str(each) for each in rows[-1].values()
                    )
                )
    report("defaults", rows, out)


if __name__ == "__main__":
    main()
