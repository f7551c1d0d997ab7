"""What every benchmark shares: interleaved pairs, intervals, the machine, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from dasknmf.store.position import environment


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, in turn: a drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for repeat in range(repeats):
        # The order turns round from one repeat to the next, so that none always follows another.
        for name in names if repeat % 2 == 0 else reversed(names):
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio_of_minima(ours: list[float], theirs: list[float], *, resamples: int = 4000) -> dict[str, float]:
    """min(theirs) / min(ours), with a 95 % bootstrap interval over the pairs: above 1, ours is faster."""
    rng = np.random.default_rng(0)
    pairs = np.array([ours, theirs])
    drawn = rng.integers(0, len(ours), (resamples, len(ours)))
    ratios = pairs[1][drawn].min(axis=1) / pairs[0][drawn].min(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {"ratio": min(theirs) / min(ours), "low": float(low), "high": float(high)}


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
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    if out is not None:
        out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


def summary(seconds: list[float]) -> dict[str, float]:
    return {"min s": min(seconds), "median s": statistics.median(seconds)}


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
