"""Many models in the passes of one: what does the second model cost, and the twentieth?

V on Zarr, Frobenius loss, float32, every model with a W and an H of its own: `NMF(k, n_init=R, init="random",
tol=0)` against `NMF(k)`. Seconds are those of a pass inside one fit, from record to record, after a first
pass that is not timed; the two take turns in one process. `times one` is the ratio of their minima: R
separate fits would be at R.

`MB read` is what a pass fetches of V and of factors, as the history tells it. What V's own store returned is
counted in a fit that is not timed: `V's share` of the first, and `V reads`, over what V takes in its store.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import dask
import zarr
from sklearn.exceptions import ConvergenceWarning
from zarr.storage import LocalStore

from benchmarks.counting import CountingStore
from benchmarks.data import stored_counts
from benchmarks.runner import in_turn, ratio_of_minima, report, summary
from dasknmf import NMF
from dasknmf.core.history import History, Record

PLACES = ("memory", "checkpoint")
"""Where the factors are between two passes."""


@dataclass
class Passes:
    """Seconds per pass of some models that share their reads.

    Parameters
    ----------
    path : Path
        Of V.
    n_init : int
        Models.
    k : int
        Components of each.
    count : int
        Passes that are timed, after a first.
    scratch : Path, optional
        Where a run is kept for the time of a fit; without, factors are in memory.

    `history` is that of the last fit.
    """

    path: Path
    n_init: int
    k: int
    count: int
    scratch: Path | None
    history: History = field(default_factory=History)

    def __call__(self) -> float:
        """Seconds per pass of one fit."""
        times: dict[int, float] = {}

        def watch(record: Record) -> None:
            if record.phase == "exact":
                times[record.iteration] = time.perf_counter()

        self._fit(zarr.open_array(self.path, mode="r"), watch)
        return (times[self.count + 1] - times[1]) / self.count

    def read_of_V(self) -> int:
        """Bytes that V's store returned per pass, of one fit."""
        counter = CountingStore(LocalStore(self.path, read_only=True))
        read: dict[int, int] = {}

        def watch(record: Record) -> None:
            if record.phase == "exact":
                read[record.iteration] = counter.nbytes

        self._fit(zarr.open_array(counter, mode="r"), watch)
        return (read[self.count + 1] - read[1]) // self.count

    def _fit(self, V: zarr.Array, watch: Any) -> None:
        # A single model is what one has without the parameter.
        several = {"n_init": self.n_init} if self.n_init > 1 else {}
        model = NMF(self.k, init="random", tol=0, max_iter=self.count + 1, random_state=0, **several)
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            warnings.simplefilter("ignore", ConvergenceWarning)
            run = None if self.scratch is None else Path(directory) / "run.zarr"
            self.history = model.fit(V, checkpoint=run, callbacks=(watch,)).history_

    @property
    def read(self) -> int:
        """Bytes of V and of factors that the last pass read, as the history tells them."""
        return int(self.history.exact[-1].bytes_read)


def compared(one: Passes, many: Passes, repeats: int) -> list[dict[str, Any]]:
    """A row for the single model, and one for all."""
    ways = {"one": one, "many": many}
    # The first fits: they compile kernels and warm the file cache for both.
    of_V = {name: way.read_of_V() for name, way in ways.items()}
    seconds = in_turn(ways, repeats)
    V = zarr.open_array(one.path, mode="r")
    rows = []
    for name, way in ways.items():
        row: dict[str, Any] = {
            "factors": PLACES[way.scratch is not None],
            "V GB": V.nbytes / 1e9,
            "shape": "x".join(map(str, V.shape)),
            "k": way.k,
            "models": way.n_init,
            **summary(seconds[name]),
            "s / model": min(seconds[name]) / way.n_init,
            "MB read": way.read / 1e6,
            "V's share": of_V[name] / way.read,
            "V reads": of_V[name] / V.nbytes_stored(),
        }
        rows.append(row | {"repeats": repeats})
    ratio = ratio_of_minima(seconds["one"], seconds["many"])
    rows[1] |= {"times one": ratio["ratio"], "low": ratio["low"], "high": ratio["high"]}
    return rows


@click.command()
@click.option("--gigabytes", default=3.0, show_default=True, help="Of V.")
@click.option("-m", "--features", default=2000, show_default=True)
@click.option("-k", "rank", default=10, show_default=True, help="Components of each model.")
@click.option("--models", default=20, show_default=True)
@click.option("--passes", default=3, show_default=True, help="Timed in each fit, after a first.")
@click.option("--repeats", default=5, show_default=True, help="Fits of either.")
@click.option("--where", type=click.Choice(PLACES), multiple=True, default=PLACES, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Keep V here, or find it here.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Where runs go for the time.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(
    gigabytes: float,
    features: int,
    rank: int,
    models: int,
    passes: int,
    repeats: int,
    where: tuple[str, ...],
    threads: int,
    data: Path | None,
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Ratio of the seconds of a pass of many models to those of a single one."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        stack.enter_context(dask.config.set(scheduler="threads", num_workers=threads))
        path = data or place / "v.zarr"
        stored_counts(path, gigabytes, features)
        rows = []
        for kept in where:
            runs = place if kept == "checkpoint" else None
            one, many = (Passes(path, count, rank, passes, runs) for count in (1, models))
            rows += compared(one, many, repeats)
    report("many", rows, out)


if __name__ == "__main__":
    main()
