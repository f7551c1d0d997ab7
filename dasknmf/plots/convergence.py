"""The loss of each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dasknmf.core.history import Record
from dasknmf.plots import style
from dasknmf.plots.sources import records_of

_WIDE = 5.0
"""The largest over the smallest loss, above which a scale is logarithmic."""
_FLAT = 1e-4
"""Relative changes of a loss below which a curve is a line, and its ticks would be rows of digits."""
_POINTS = 60
"""Of the line of one start of several, at most."""
_CONCLUDING = "final"
_AXES = {"iteration": "exact passes", "reads": "reads of V", "seconds": "seconds"}


def convergence(
    source: Any, *, against: Literal["iteration", "reads", "seconds"] = "iteration", ax: Any = None
) -> Any:
    """The loss, with the phases behind it, and below it the loss of held-out entries where there are any.

    Of several starts each is a thin line, and the lowest of them, pass by pass, the thick one. Each panel has
    the range of its own values, on a logarithmic scale where that is wide. A pass with β ≠ 2 tells the loss
    of the pair that entered it: that stands where the pass before ended.

    Parameters
    ----------
    source : History, fitted model, Run, or path of a run
    against : {"iteration", "reads", "seconds"}, default="iteration"
        The abscissa: exact passes (passes of the start stand narrowly left of 0), reads of V, or wall time.
    ax : Axes, optional
        Both panels share what it covers.

    Returns
    -------
    Axes
        Of the loss; the panel of held-out entries is the last of its figure's.

    Raises
    ------
    ValueError
        If `against` is something else.
    """
    if against not in _AXES:
        raise ValueError(f"against is {against!r}; it must be one of {list(_AXES)}: choose one.")
    records = records_of(source)
    held = [record.measures.get("holdout") for record in records]
    parted = any(value is not None for value in held)
    ax = style.panels(1, ax, size=(6.0, 4.6 if parted else 3.6))[0]
    ends = _ends(records, against)
    at = _places(records, ends)
    _phases(ax, records, ends, named=True)
    # A conclusion of many factorizations is a pair of its own, and no step of any of them.
    losses = [None if record.phase == _CONCLUDING else record.loss for record in records]
    others = _starts(ax, records, ends)
    drawn = _line(ax, at, losses, style.BLUE, "lowest" if others else "loss")
    closed = _close(ax, records, at)
    if drawn:
        _range(ax, drawn + others + closed)
        _rivals(ax, records, ends)
        _few_ticks(ax)
    style.plain(ax)
    ax.set_ylabel("D(V | WH)", fontsize=9)
    lowest = ax
    if parted:
        # The values are of another number of entries: on one axis neither curve would have a shape.
        lowest = style.below(ax)
        _phases(lowest, records, ends, named=False)
        drawn = _line(lowest, at, held, style.ORANGE, "held out")
        if drawn:
            _range(lowest, drawn)
            _few_ticks(lowest)
        style.plain(lowest)
        lowest.set_ylabel("held out", fontsize=9, color=style.ORANGE)
        ax.tick_params(axis="x", labelbottom=False)
    lowest.set_xlabel(_AXES[against], fontsize=9)
    if against == "iteration" and len(ends):
        last = max(int(ends[-1]), 1)
        step = max(1, -(-last // 8))
        step = next(nice for nice in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**9) if nice >= step)
        ax.set_xticks(np.arange(0, last + 1, step))
    style.legend_above(ax)
    return ax


def _ends(records: Sequence[Record], against: str) -> np.ndarray:
    """Where each pass ends on the abscissa."""
    if against == "seconds":
        return np.cumsum([record.seconds for record in records])
    if against == "reads":
        return np.asarray([record.reads for record in records])
    started = [record.iteration == 0 for record in records]
    before = (np.cumsum(started) - sum(started)) * 0.03 * max(1, records[-1].iteration if records else 1)
    ends = [float(record.iteration) if record.iteration else before[i] for i, record in enumerate(records)]
    return np.asarray(ends)


def _places(records: Sequence[Record], ends: np.ndarray) -> np.ndarray:
    """Where each loss belongs: at the end of the pass that made its pair."""
    begins = np.concatenate([[0.0], ends[:-1]])
    entered = [record.loss_at in ("entry", "solved") or record.phase == "evaluation" for record in records]
    return np.where(entered, begins, ends)


def _phases(ax: Any, records: Sequence[Record], ends: np.ndarray, *, named: bool) -> None:
    """Bands of what is not an exact pass, one for each phase that follows another."""
    begin = 0.0
    if len(ends) > 1 and ends[0] <= 0:  # passes of a start, on the axis of exact passes
        begin = float(2 * ends[0] - ends[1])
    shades = {"evaluation": 0.08}
    told = set()
    for index, record in enumerate(records):
        last = index + 1 == len(records) or records[index + 1].phase != record.phase
        if not last:
            continue
        if record.phase != "exact" and ends[index] > begin:
            shade = shades.setdefault(record.phase, 0.06 + 0.10 * (len(shades) % 3))
            label = record.phase if named and record.phase not in told else None
            ax.axvspan(begin, ends[index], color="0.5", alpha=shade, lw=0, label=label)
            told.add(record.phase)
        begin = float(ends[index])


def _line(ax: Any, at: np.ndarray, values: Sequence[float | None], colour: str, label: str) -> list[float]:
    """A curve of the values that are known; these."""
    # Of two losses of one pair, that of the pass which it entered is the one without rounding.
    known = list({x: y for x, y in zip(at, values, strict=True) if y is not None and y > 0}.items())
    if known:
        marker = "o" if len(known) <= 30 else None
        ax.plot(*zip(*known, strict=True), color=colour, lw=1.6, marker=marker, ms=3.5, label=label, zorder=3)
    return [y for _, y in known]


def _range(ax: Any, values: Sequence[float]) -> None:
    """From the smallest to the largest of the values, and a little more; what is below notice is flat."""
    low, high = min(values), max(values)
    if high / low > _WIDE:
        ax.set_yscale("log")
        margin = (high / low) ** 0.06
        ax.set_ylim(low / margin, high * margin)
    else:
        middle, half = (low + high) / 2, max(0.56 * (high - low), _FLAT * high)
        ax.set_ylim(middle - half, middle + half)


def _rivals(ax: Any, records: Sequence[Record], ends: np.ndarray) -> None:
    """Objectives of the models that were given up, while they advanced beside the one that went on.

    As far as they are near: a start that is far behind would flatten the curve that matters.
    """
    compared = [index for index, record in enumerate(records) if "rival 0" in record.measures]
    if not compared:
        return
    last = records[compared[-1]].measures
    names = sorted(name for name in last if name.startswith("rival "))
    winner = min(names, key=lambda name: last[name])
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"
    limit = high * (high / low) ** 0.3 if log else high + 0.3 * (high - low)
    label, top = "other start", high
    for name in names:
        points = [(ends[i], records[i].measures.get(name, np.nan)) for i in compared]
        points = [(x, y) for x, y in points if np.isfinite(y) and y > 0]
        if name == winner or not points:
            continue
        lowest = min(y for _, y in points)
        if lowest > limit:
            told = f"other start: {lowest:.3g}, far above"
            ax.plot([], [], color=style.PINK, lw=1.2, ls="--", marker="s", ms=3, label=told)
            continue
        ax.plot(*zip(*points, strict=True), color=style.PINK, lw=1.2, ls="--", marker="s", ms=3, label=label)
        top = max(top, min(limit, max(y for _, y in points) * 1.02))
        label = "_"
    ax.set_ylim(low, top)


def _starts(ax: Any, records: Sequence[Record], ends: np.ndarray) -> list[float]:
    """A thin line for each model that shares the passes with others; the losses that are drawn."""
    lines: dict[int, dict[float, float]] = {}
    before = 0.0
    for record, end in zip(records, ends.tolist(), strict=True):
        for advance in record.models:
            if advance.loss is not None and advance.loss > 0:
                at = end if advance.loss_at == "end" else before
                lines.setdefault(advance.model, {})[at] = advance.loss
        before = end
    across: list[float] = []
    losses: list[float] = []
    for line in lines.values():
        # Most of a curve is in its first passes.
        chosen = np.unique(np.geomspace(1, len(line), _POINTS).round().astype(int)) - 1
        points = sorted(line.items())
        across += [*(points[index][0] for index in chosen), np.nan]
        losses += [*(points[index][1] for index in chosen), np.nan]
    if lines:
        ax.plot(across, losses, color=style.PALE, lw=0.6, alpha=0.7, label=f"each of {len(lines)} models")
    return [loss for loss in losses if np.isfinite(loss)]


def _close(ax: Any, records: Sequence[Record], at: np.ndarray) -> list[float]:
    """The loss of the returned pair, where a pass of its own has evaluated it."""
    last = records[-1] if records else None
    if last is None or not last.closed or last.loss is None or last.loss <= 0:
        return []
    ax.plot(at[-1:], [last.loss], "D", color=style.GREEN, ms=6, label="returned pair", zorder=4)
    return [last.loss]


def _few_ticks(ax: Any) -> None:
    """Numbers also where the loss spans less than a decade, and never on top of each other."""
    from matplotlib.ticker import (
        LogFormatterSciNotation,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        ScalarFormatter,
    )

    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        ax.yaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(ScalarFormatter(useMathText=True, useOffset=False))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.offsetText.set_fontsize(8)
