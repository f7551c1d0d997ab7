"""What every benchmark shares: interleaved pairs, intervals, the machine, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from distributed import Client, LocalCluster

from dasknmf.store.progress import environment

_REST = 0.1


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, in turn: a drift of the machine hits all alike."""
    return in_turn({name: partial(seconds_of, call) for name, call in calls.items()}, repeats)


def in_turn(clocks: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """As `interleaved`, of calls that return the seconds which count."""
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    names = list(clocks)
    for repeat in range(repeats):
        # The order turns round from one repeat to the next, so that none always follows another.
        for name in names if repeat % 2 == 0 else reversed(names):
            # BLAS threads of the call before spin for some 30 ms before they sleep, on the cores of this one.
            time.sleep(_REST)
            seconds[name].append(clocks[name]())
    return seconds


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratio_of_minima(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """min(theirs) / min(ours), with a 95 % bootstrap interval over the pairs: above 1, ours is faster."""
    return bootstrapped(lambda pairs: pairs[1].min(-1) / pairs[0].min(-1), ours, theirs)


Span = tuple[list[float], list[float]]
"""Seconds of a short and of a long run: their difference is free of what both pay once."""


def ratio_of_steps(ours: Span, theirs: Span) -> dict[str, float]:
    """The same for (min(long) − min(short)) of each side."""

    def ratio(runs: np.ndarray) -> np.ndarray:
        least = runs.min(-1)
        return (least[3] - least[2]) / (least[1] - least[0])

    return bootstrapped(ratio, *ours, *theirs)


def step_summary(span: Span, steps: int) -> dict[str, float]:
    """Seconds per step: differences of minima and of medians."""
    short, long = span
    return {
        "min s": (min(long) - min(short)) / steps,
        "median s": (statistics.median(long) - statistics.median(short)) / steps,
    }


def bootstrapped(
    ratio: Callable[[np.ndarray], np.ndarray], *series: list[float], resamples: int = 4000
) -> dict[str, float]:
    """A statistic of several series, with the 95 % interval over drawn repeats.

    Parameters
    ----------
    ratio : callable
        From an array (series, ..., repeats) to one (...).
    series : lists of float
        Of one length: the repeats are drawn together, as pairs.
    resamples : int
    """
    values = np.array(series)
    repeats = values.shape[1]
    drawn = np.random.default_rng(0).integers(0, repeats, (resamples, repeats))
    with np.errstate(divide="ignore", invalid="ignore"):  # differences of tiny runs may be 0
        low, high = np.quantile(ratio(values[:, drawn]), [0.025, 0.975])
        return {"ratio": float(ratio(values)), "low": float(low), "high": float(high)}


@contextmanager
def two_workers(**options: Any) -> Iterator[Client]:
    """Two processes of one thread each."""
    # Any free port: a benchmark must not fail because another cluster has the usual one.
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", **options
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    blas = [
        f"{each['internal_api']} {each['version']} {each.get('architecture')}"
        for each in threadpoolctl.threadpool_info()
        if each["user_api"] == "blas"
    ]
    model = (
        next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{os.cpu_count()} x {model}",
        "blas": blas,
        **environment(),
    }


def report(name: str, rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print the rows as a table, and write them with the machine as JSON."""
    print(f"# {name}")
    print("  ".join(f"{key}: {value}" for key, value in machine().items()))
    table(rows)
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


def table(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def summary(seconds: list[float]) -> dict[str, float]:
    return {"min s": min(seconds), "median s": statistics.median(seconds)}


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
