"""Newton's steps for the Kullback-Leibler divergence against multiplicative ones.

`passes`: both solvers run from the same W and H, one read of V a pass, in which Newton's updates W up to
three times. The start "random" is a uniform draw scaled to V's mean; "eighth" is what one pass after the
start "sample" has made, its sample an eighth of V, without zeros. "reached after" is the first pass of
Newton's whose loss is at most 1.001 times that of 200 multiplicative passes; "above D*" is (D − D*) / D*
with D* the lowest loss of a long run of Newton's.

`seconds`: a pass of either with the number of components named, in memory, dense and CSR.

`atlas`: counts of `atlas` in CSR on Zarr. Time from the call of `fit`, start included, until the loss
that 200 plain multiplicative passes reach from a random start: of those passes, and of a fit with default
parameters but for `tol=0`.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from benchmarks.atlas import Atlas, write
from benchmarks.data import drawn_counts
from benchmarks.defaults import CASES
from benchmarks.runner import interleaved, ratio_of_minima, report, summary
from benchmarks.until import Race
from dasknmf import NMF

_BAR, _SHARE = 1.001, 1e-2
_PLAIN_PASSES, _LONG = 200, 100
_KL: dict[str, Any] = {"beta_loss": "kullback-leibler"}


def _random(V: np.ndarray, k: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = np.sqrt(V.mean() / k)
    shapes = {"W": (V.shape[0], k), "H": (k, V.shape[1])}
    return {name: (scale * (0.5 + rng.random(shape))).astype(V.dtype) for name, shape in shapes.items()}


def _eighth(V: np.ndarray, k: int, seed: int = 0) -> dict[str, np.ndarray]:
    model = NMF(k, init="sample", sample_bytes=V.nbytes // 8, random_state=seed, tol=0, max_iter=1, **_KL)
    W = model.fit_transform(V)
    factors = {"W": np.asarray(W), "H": model.components_}
    return {name: np.maximum(F, _SHARE * F.mean()).astype(V.dtype) for name, F in factors.items()}


STARTS = {"random": _random, "eighth": _eighth}


def _losses(V: np.ndarray, k: int, passes: int, solver: str, start: dict[str, np.ndarray]) -> list[float]:
    """The loss at the entry of each pass but the first, and of the end."""
    inner_iter = 3 if solver == "newton" else 1
    model = NMF(k, solver=solver, inner_iter=inner_iter, init="custom", tol=0, max_iter=passes, **_KL)
    model.fit(V, **start)
    return [float(record.loss or 0.0) for record in model.history_.evaluated][1:]


def passes_of(name: str, V: np.ndarray, k: int, kind: str) -> dict[str, Any]:
    """A line of the first table."""
    start = STARTS[kind](V, k)
    plain = _losses(V, k, _PLAIN_PASSES, "mu", start)
    newton = _losses(V, k, _LONG, "newton", start)
    limit = min(newton[-1], plain[-1])
    reached = next((i + 1 for i, loss in enumerate(newton) if loss <= _BAR * plain[-1]), None)
    return {
        "V": name,
        "shape": "x".join(map(str, V.shape)),
        "k": k,
        "start": kind,
        "D after 200 mu": plain[-1],
        "reached after": reached,
        **{f"x after {n}": newton[n - 1] / plain[-1] for n in (5, 8, 15, 40)},
        "mu 200 above D*": plain[-1] / limit - 1,
        "newton 15 above D*": newton[14] / limit - 1,
    }


def seconds_of(V: Any, kind: str, k: int, repeats: int) -> list[dict[str, Any]]:
    """Two lines of the second table: seconds of a pass."""
    few, more = 2, 6
    models = {
        (solver, n): NMF(
            k, solver=solver, inner_iter=1, init="random", random_state=0, tol=0, max_iter=n, **_KL
        )
        for solver in ("mu", "newton")
        for n in (few, more)
    }
    for model in models.values():
        model.fit(V)
    clocks = {f"{solver} {n}": (lambda model=model: model.fit(V)) for (solver, n), model in models.items()}
    seconds = interleaved(clocks, repeats)
    rows = []
    each = {
        solver: [
            (long - short) / (more - few)
            for short, long in zip(seconds[f"{solver} {few}"], seconds[f"{solver} {more}"], strict=True)
        ]
        for solver in ("mu", "newton")
    }
    for solver, spans in each.items():
        ratio = ratio_of_minima(each["mu"], spans) if solver == "newton" else {}
        shape = "x".join(map(str, V.shape))
        rows.append({"V": kind, "shape": shape, "k": k, "solver": solver, **summary(spans), **ratio})
    return rows


def to_loss(path: Path, k: int, repeats: int) -> list[dict[str, Any]]:
    """The third table: seconds until the loss of 200 multiplicative passes."""
    X = str(path / "X")
    plain = NMF(
        k, solver="mu", inner_iter=1, init="random", random_state=0, tol=0, max_iter=_PLAIN_PASSES, **_KL
    )
    clone(plain).set_params(max_iter=2).fit(X)  # kernels are compiled, and the files are in memory
    NMF(k, random_state=0, tol=0, max_iter=2, **_KL).fit(X)
    began = time.perf_counter()
    plain.fit(X)
    theirs = time.perf_counter() - began
    target = plain.reconstruction_err_**2 / 2
    race = Race(NMF(k, random_state=0, tol=0, **_KL), X, target)
    ours, found = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        found = race.record()
        ours.append(time.perf_counter() - began)
    return [
        {"what": "200 multiplicative passes", "D": target, "reads": _PLAIN_PASSES, "min s": theirs},
        {
            "what": "defaults",
            "D": None if found is None else found.loss,
            "reads": None if found is None else found.reads,
            **summary(ours),
            "theirs / ours": None if found is None else theirs / min(ours),
        },
    ]


@click.command()
@click.option("--what", type=click.Choice(["passes", "seconds", "atlas"]), multiple=True)
@click.option("--only", default="", help="Sets whose names contain this.")
@click.option("-k", "ranks", type=int, multiple=True, default=(10, 20, 50), show_default=True)
@click.option("--cells", default=100_000, show_default=True, help="Of the atlas.")
@click.option("--genes", default=5_000, show_default=True, help="Of the atlas.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    what: tuple[str, ...],
    only: str,
    ranks: tuple[int, ...],
    cells: int,
    genes: int,
    repeats: int,
    threads: int,
    out: Path | None,
) -> None:
    """Newton's steps against multiplicative ones."""
    rows: list[dict[str, Any]] = []
    with (
        warnings.catch_warnings(),
        dask.config.set(scheduler="threads", num_workers=threads),
        tempfile.TemporaryDirectory() as directory,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not what or "passes" in what:
            found = [
                passes_of(case.name, case.make(), case.k, kind)
                for case in CASES
                if case.counts and only in case.name
                for kind in STARTS
            ]
            report("second_order passes", found, None)
            rows += found
        if not what or "seconds" in what:
            sparse = Atlas(20_000, 2_000, 0.05).rows(0, 20_000)
            kinds = {"dense counts": drawn_counts(5_000, 1_000, 20), "CSR counts": sparse}
            found = [
                row for kind, V in kinds.items() for k in ranks for row in seconds_of(V, kind, k, repeats)
            ]
            report("second_order seconds", found, None)
            rows += found
        if not what or "atlas" in what:
            path = write(Atlas(cells, genes, 0.03), Path(directory) / "atlas.zarr", threads=threads)
            found = to_loss(path, 20, repeats)
            report("second_order atlas", found, None)
            rows += found
    if out is not None:
        report("second_order", rows, out)


if __name__ == "__main__":
    main()
