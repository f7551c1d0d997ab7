"""On Zarr, against multiplicative updates (Frobenius) written in dask.array.

Two textbook forms: *two computes* persists the new W and then computes WᵀV and WᵀW, which reads V
twice an iteration; *one persist* asks for W, WᵀV and WᵀW together, so that a chunk of V serves both
products. Seconds per iteration are compared with `solver="mu", inner_iter=1`, which does the same
arithmetic from the same start; how often V is really read is counted at its store.

Then, on a smaller V, the seconds to the error that the textbook form has after many iterations:
ours runs with its defaults, from the call of `fit` to the first record whose loss is at most that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask
import dask.array as da
import numpy as np
import threadpoolctl
import zarr
from zarr.storage import LocalStore

from benchmarks.counting import CountingStore
from benchmarks.data import stored_counts
from benchmarks.runner import in_turn, interleaved, ratio_of_minima, report, summary
from benchmarks.until import Race, loss_of
from dasknmf import NMF
from dasknmf.core.losses import Loss

Step = Callable[[da.Array, da.Array, np.ndarray], tuple[da.Array, np.ndarray]]
"""One iteration of a textbook form: from V, W, H to W, H."""

_TINY = np.finfo(np.float32).eps  # keeps a row of V that is all zeros from being 0 / 0


def two_computes(V: da.Array, W: da.Array, H: np.ndarray) -> tuple[da.Array, np.ndarray]:
    """W, then H: each reads V."""
    W = (W * (V @ H.T) / da.maximum(W @ (H @ H.T), _TINY)).persist()
    A, G = dask.compute(W.T @ V, W.T @ W)
    return W, H * A / np.maximum(G @ H, _TINY)


def one_persist(V: da.Array, W: da.Array, H: np.ndarray) -> tuple[da.Array, np.ndarray]:
    """W and what H needs of it in one graph."""
    W = W * (V @ H.T) / da.maximum(W @ (H @ H.T), _TINY)
    W, A, G = dask.persist(W, W.T @ V, W.T @ W)
    return W, H * A.compute() / np.maximum(G.compute() @ H, _TINY)


TEXTBOOK: dict[str, Step] = {"two computes": two_computes, "one persist": one_persist}


@dataclass(frozen=True)
class Stored:
    """V on Zarr, and a start."""

    V: zarr.Array
    counter: CountingStore
    W: np.ndarray
    H: np.ndarray

    @classmethod
    def at(cls, path: Path, gigabytes: float, m: int, k: int) -> Stored:
        stored_counts(path, gigabytes, m)
        counter = CountingStore(LocalStore(path, read_only=True))
        V = zarr.open_array(counter, mode="r")
        rng = np.random.default_rng(1)
        W = rng.random((V.shape[0], k), dtype=np.float32)
        return cls(V, counter, W, rng.random((k, m), dtype=np.float32))

    def lazy(self) -> tuple[da.Array, da.Array]:
        """V and W as Dask arrays, W persisted."""
        V = da.from_zarr(self.V)
        return V, da.from_array(self.W, chunks=(V.chunks[0], self.W.shape[1])).persist()


@dataclass
class Iterations:
    """Seconds per iteration of one way: some iterations after the first, which is not timed.

    `H` and `reads` of V per iteration are those of the last call.
    """

    data: Stored
    count: int
    H: np.ndarray | None = None
    reads: float = 0.0

    def _told(self, times: list[tuple[float, int]], H: np.ndarray) -> float:
        """Keep what the iterations left; times and bytes are those after each of them."""
        (began, bytes_before), (ended, bytes_after) = times[0], times[-1]
        self.H = H
        self.reads = (bytes_after - bytes_before) / self.count / self.data.V.nbytes_stored()
        return (ended - began) / self.count

    def _now(self) -> tuple[float, int]:
        return time.perf_counter(), self.data.counter.nbytes


class Ours(Iterations):
    """Iterations inside one fit."""

    def __call__(self) -> float:
        times: list[tuple[float, int]] = []
        model = NMF(
            len(self.data.H),
            init="custom",
            solver="mu",
            inner_iter=1,
            tol=0,
            max_iter=self.count + 1,
        )

        def watch(record: Any) -> None:
            if record.phase == "exact":
                times.append(self._now())

        model.fit(self.data.V, W=self.data.W, H=self.data.H, callbacks=(watch,))
        return self._told(times, model.components_)


@dataclass
class Textbook(Iterations):
    """Iterations of a textbook form."""

    step: Step = two_computes

    def __call__(self) -> float:
        V, W = self.data.lazy()
        H = self.data.H
        times: list[tuple[float, int]] = []
        for _ in range(self.count + 1):
            W, H = self.step(V, W, H)
            times.append(self._now())
        return self._told(times, H)


def per_iteration(data: Stored, count: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of an iteration, ours and both textbook forms."""
    ways: dict[str, Ours | Textbook] = {"ours": Ours(data, count)}
    ways |= {name: Textbook(data, count, step=step) for name, step in TEXTBOOK.items()}
    for way in ways.values():
        way()  # compiles kernels, and warms the file cache for all
    seconds = in_turn(ways, repeats)
    expected = ways["ours"].H
    assert expected is not None
    rows = []
    for name, way in ways.items():
        assert way.H is not None
        differs = float(np.abs(way.H - expected).max() / expected.max())
        if differs > 1e-4:
            raise AssertionError(f"H of {name!r} differs from ours by {differs:.2g} of its maximum")
        row = _named("iteration", data, name) | summary(seconds[name])
        row |= {"reads of V": way.reads, "H differs": differs}
        if name != "ours":
            row |= _ratio(seconds["ours"], seconds[name])
        rows.append(row | {"repeats": repeats})
    return rows


def to_the_error(data: Stored, iterations: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds to the loss of the textbook form after some iterations."""

    def textbook() -> tuple[da.Array, np.ndarray]:
        V, W = data.lazy()
        H = data.H
        for _ in range(iterations):
            W, H = two_computes(V, W, H)
        return W, H

    W, H = textbook()
    target = loss_of(data.V, W.compute(), H, Loss(2.0))
    race = Race(NMF(len(H), tol=0, random_state=0), data.V, target)
    passes, over = race.scouted()
    calls: dict[str, Callable[[], Any]] = {"two computes": textbook}
    if passes is not None:
        calls["ours"] = race.record
    seconds = interleaved(calls, repeats)
    theirs = _named("to the error", data, "two computes") | summary(seconds["two computes"])
    theirs |= {"iterations": iterations, "repeats": repeats}
    ours = _named("to the error", data, "ours") | {"iterations": passes, "D / textbook": over}
    if passes is not None:
        ours |= summary(seconds["ours"])
        theirs |= _ratio(seconds["ours"], seconds["two computes"])
    return [ours | {"repeats": repeats}, theirs]


def _named(question: str, data: Stored, way: str) -> dict[str, Any]:
    return {"question": question, "V GB": data.V.nbytes / 1e9, "k": len(data.H), "what": way}


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    ratio = ratio_of_minima(ours, theirs)
    return {"theirs / ours": ratio["ratio"], "low": ratio["low"], "high": ratio["high"]}


@click.command()
@click.option("--gigabytes", default=3.2, show_default=True, help="Of V, for seconds per iteration.")
@click.option("--small", default=0.4, show_default=True, help="GB of V, for seconds to the error.")
@click.option("-m", "--features", default=2000, show_default=True)
@click.option("-k", "rank", default=20, show_default=True)
@click.option("--iterations", default=3, show_default=True, help="Timed in each repeat, after a first.")
@click.option("--repeats", default=7, show_default=True, help="Of seconds per iteration.")
@click.option("--long", "textbook", default=200, show_default=True, help="Iterations that set the error.")
@click.option("--fits", default=3, show_default=True, help="Repeats of seconds to the error.")
@click.option("--threads", default=2, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Keep the large V here, or find it here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    small: float,
    features: int,
    rank: int,
    iterations: int,
    repeats: int,
    textbook: int,
    fits: int,
    threads: int,
    data: Path | None,
    out: Path | None,
) -> None:
    """Ratio of the seconds of textbook dask.array code to ours, on the same threads."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(dask.config.set(scheduler="threads", num_workers=threads))
        # Who writes textbook code sets one BLAS thread per task too.
        stack.enter_context(threadpoolctl.threadpool_limits(1, user_api="blas"))
        large = Stored.at(data or scratch / "large.zarr", gigabytes, features, rank)
        rows = per_iteration(large, iterations, repeats)
        if fits:
            rows += to_the_error(Stored.at(scratch / "small.zarr", small, features, rank), textbook, fits)
    report("vs_dask_array", rows, out)


if __name__ == "__main__":
    main()
