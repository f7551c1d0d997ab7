"""The loss of each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dasknmf.core.history import History, Record
from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, records_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 5.0
"""The ratio of the largest to the smallest loss above which the scale is logarithmic."""
_FLAT = 1e-4
"""The relative range of a curve below which the axis zooms in no further: ticks would be rows of digits."""
_POINTS = 60
"""The most points of the line of one of several starts."""
_AXES = {"iteration": "exact passes", "reads": "reads of V", "seconds": "seconds"}


def convergence(
    source: History | Factorization,
    *,
    against: Literal["iteration", "reads", "seconds"] = "iteration",
    ax: style.GivenAxes = None,
) -> Axes:
    """The loss D(V | WH) of each pass, and in a second panel that of held-out entries, where there are any.

    Bands in grey mark the phases that are no exact passes. Of several starts each is a thin line, and the
    lowest of them, pass by pass, the thick one. A panel has the range of its own values, on a logarithmic
    scale where the range is wide. A pass that measures the loss of the pair (W, H) with which it began, as
    passes with β ≠ 2 do, has its point at the end of the pass before.

    Parameters
    ----------
    source : History, fitted model, Run, or path of a run
    against : {"iteration", "reads", "seconds"}, default="iteration"
        The abscissa: exact passes (with the passes of the start left of 0), reads of V, or wall time in
        seconds.
    ax : Axes, optional
        Two panels divide the area of these Axes.

    Returns
    -------
    ax : Axes
        The panel of the loss; that of held-out entries is ``ax.figure.axes[-1]``.

    Raises
    ------
    ValueError
        If `against` is none of these.
    TypeError
        If the source has no history.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import NMF, plots
    >>> V = np.random.default_rng(0).random((60, 8))
    >>> model = NMF(2, random_state=0, tol=0, max_iter=5).fit(V)
    >>> ax = plots.convergence(model)
    >>> ax.get_ylabel()
    'D(V | WH)'
    """
    if against not in _AXES:
        raise ValueError(f"against is {against!r}; it must be one of {list(_AXES)}: choose one.")
    records = records_of(source)
    held = [record.measures.get("holdout") for record in records]
    parted = any(value is not None for value in held)
    panel: Axes = style.panels(1, ax, size=(6.0, 4.6 if parted else 3.6))[0]
    ends = _ends(records, against)
    at = _places(records, ends)
    _phases(panel, records, ends, named=True)
    # The final pass of many factorizations makes a pair of its own, and is a step of none of them.
    losses = [None if record.phase == "final" else record.loss for record in records]
    others = _starts(panel, records, ends)
    drawn = _line(panel, at, losses, style.BLUE, "lowest" if others else "loss")
    closed = _close(panel, records, at)
    if drawn:
        _range(panel, drawn + others + closed)
        _rivals(panel, records, ends)
        _few_ticks(panel)
    style.plain(panel)
    panel.set_ylabel("D(V | WH)", fontsize=9)
    lowest = panel
    if parted:
        # These are sums over fewer entries: on one axis both curves would be flat.
        lowest = style.below(panel)
        _phases(lowest, records, ends, named=False)
        drawn = _line(lowest, at, held, style.ORANGE, "held out")
        if drawn:
            _range(lowest, drawn)
            _few_ticks(lowest)
        style.plain(lowest)
        lowest.set_ylabel("held out", fontsize=9, color=style.ORANGE)
        panel.tick_params(axis="x", labelbottom=False)
    lowest.set_xlabel(_AXES[against], fontsize=9)
    if against == "iteration" and len(ends):
        last = max(int(ends[-1]), 1)
        step = max(1, -(-last // 8))
        step = next(nice for nice in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**9) if nice >= step)
        panel.set_xticks(np.arange(0, last + 1, step))
    style.legend_above(panel)
    return panel


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


def _phases(ax: Axes, records: Sequence[Record], ends: np.ndarray, *, named: bool) -> None:
    """Grey bands, one for each sequence of passes of one phase other than "exact"."""
    begin = 0.0
    if len(ends) > 1 and ends[0] <= 0:  # passes of a start, on the axis of exact passes
        begin = float(2 * ends[0] - ends[1])
    shades = {"evaluation": 0.08}
    labelled: set[str] = set()
    for index, record in enumerate(records):
        last = index + 1 == len(records) or records[index + 1].phase != record.phase
        if not last:
            continue
        if record.phase != "exact" and ends[index] > begin:
            shade = shades.setdefault(record.phase, 0.06 + 0.10 * (len(shades) % 3))
            label = record.phase if named and record.phase not in labelled else None
            ax.axvspan(begin, ends[index], color="0.5", alpha=shade, lw=0, label=label)
            labelled.add(record.phase)
        begin = float(ends[index])


def _line(ax: Axes, at: np.ndarray, values: Sequence[float | None], colour: str, label: str) -> list[float]:
    """Draw a curve of the known values, and return these."""
    # Of two losses of one pair the later one, of the pass that began with the pair, has no rounding.
    known = list({x: y for x, y in zip(at, values, strict=True) if y is not None and y > 0}.items())
    if known:
        marker = "o" if len(known) <= 30 else None
        ax.plot(*zip(*known, strict=True), color=colour, lw=1.6, marker=marker, ms=3.5, label=label, zorder=3)
    return [y for _, y in known]


def _range(ax: Axes, values: Sequence[float]) -> None:
    """Set the range of the values with a margin; a change too small to matter looks flat."""
    low, high = min(values), max(values)
    if high / low > _WIDE:
        ax.set_yscale("log")
        margin = (high / low) ** 0.06
        ax.set_ylim(low / margin, high * margin)
    else:
        middle, half = (low + high) / 2, max(0.56 * (high - low), _FLAT * high)
        ax.set_ylim(middle - half, middle + half)


def _rivals(ax: Axes, records: Sequence[Record], ends: np.ndarray) -> None:
    """Draw the objectives of the starts that were given up.

    A start far above the others is named only: its line would flatten the curve of the lowest.
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
            far = f"other start: {lowest:.3g}, far above"
            ax.plot([], [], color=style.PINK, lw=1.2, ls="--", marker="s", ms=3, label=far)
            continue
        ax.plot(*zip(*points, strict=True), color=style.PINK, lw=1.2, ls="--", marker="s", ms=3, label=label)
        top = max(top, min(limit, max(y for _, y in points) * 1.02))
        label = "_"
    ax.set_ylim(low, top)


def _starts(ax: Axes, records: Sequence[Record], ends: np.ndarray) -> list[float]:
    """Draw a thin line for each of several models that share passes, and return the losses in them."""
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


def _close(ax: Axes, records: Sequence[Record], at: np.ndarray) -> list[float]:
    """Mark the loss of the returned pair, where a pass has evaluated it, and return it."""
    last = records[-1] if records else None
    if last is None or not last.closed or last.loss is None or last.loss <= 0:
        return []
    ax.plot(at[-1:], [last.loss], "D", color=style.GREEN, ms=6, label="returned pair", zorder=4)
    return [last.loss]


def _few_ticks(ax: Axes) -> None:
    """A few ticks with numbers, also where the loss spans less than a decade."""
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
