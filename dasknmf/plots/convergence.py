"""The loss of each pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from dasknmf.core.history import History, Record
from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, records_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_RATIO = 5.0
"""The ratio of the largest to the smallest loss above which the scale is logarithmic."""
_FLAT = 1e-4
"""The smallest half range of an axis relative to its values: ticks of a smaller one would be long numbers."""
_POINTS = 60
"""The largest number of points in the line of one of several models."""
_AXES = {"iteration": "exact passes", "reads": "reads of V", "seconds": "seconds"}


def convergence(
    source: History | Factorization,
    *,
    against: Literal["iteration", "reads", "seconds"] = "iteration",
    ax: style.GivenAxes = None,
) -> Axes:
    """The loss D(V | WH) of each pass, and in a second panel that of held-out entries, where there are any.

    Grey bands mark the phases other than exact passes. Where several models share the passes, each is a thin
    line, and the thick line is the lowest loss of each pass. A panel has the range of its own values, on a
    logarithmic scale where the range is wide. A pass that measures the loss of the pair (W, H) with which it
    began, as passes with β ≠ 2 do, has its point at the end of the pass before.

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
    held = [record.holdout for record in records]
    has_holdout = any(value is not None for value in held)
    panel: Axes = style.panels(1, ax, size=(6.0, 4.6 if has_holdout else 3.6))[0]
    ends = _ends(records, against)
    at = _places(records, ends)
    _phases(panel, records, ends, named=True)
    # The final pass of a sweep or a consensus makes a pair of its own, and continues no model.
    losses = [None if record.phase == "final" else record.loss for record in records]
    others = _models(panel, records, ends)
    known = _line(panel, at, losses, style.BLUE, "lowest" if others else "loss")
    known += others + _returned(panel, records, at)
    _ordinate(panel, known, "D(V | WH)")
    if known:
        _rivals(panel, records, ends)
    lowest = panel
    if has_holdout:
        # Held-out losses are sums over fewer entries, so on one axis both curves would be flat.
        lowest = style.below(panel)
        _phases(lowest, records, ends, named=False)
        _ordinate(lowest, _line(lowest, at, held, style.ORANGE, "held out"), "held out", style.ORANGE)
        panel.tick_params(axis="x", labelbottom=False)
    lowest.set_xlabel(_AXES[against], fontsize=9)
    if against == "iteration" and records:
        panel.locator_params(axis="x", nbins=8, integer=True)
    style.legend_above(panel)
    return panel


def _ends(records: Sequence[Record], against: str) -> np.ndarray:
    """The end of each pass on the abscissa."""
    if against == "seconds":
        return np.cumsum([record.seconds for record in records])
    if against == "reads":
        return np.asarray([record.reads for record in records])
    started = [record.iteration == 0 for record in records]
    before = (np.cumsum(started) - sum(started)) * 0.03 * max(1, records[-1].iteration if records else 1)
    ends = [float(record.iteration) if record.iteration else before[i] for i, record in enumerate(records)]
    return np.asarray(ends)


def _places(records: Sequence[Record], ends: np.ndarray) -> np.ndarray:
    """The abscissa of each loss: the end of the pass that computed its W and H."""
    begins = np.concatenate([[0.0], ends[:-1]])
    entered = [record.loss_at in ("entry", "solved") or record.phase == "evaluation" for record in records]
    return np.where(entered, begins, ends)


def _phases(ax: Axes, records: Sequence[Record], ends: np.ndarray, *, named: bool) -> None:
    """Draw a grey band for each sequence of passes of one phase other than "exact"."""
    begin = 0.0
    if len(ends) > 1 and ends[0] <= 0:  # passes of a start, on the axis of exact passes
        begin = float(2 * ends[0] - ends[1])
    shades = {"evaluation": 0.08}
    labelled: set[str] = set()
    for phase, passes in groupby(zip(records, ends.tolist(), strict=True), lambda each: each[0].phase):
        end = list(passes)[-1][1]
        if phase != "exact" and end > begin:
            shade = shades.setdefault(phase, 0.06 + 0.10 * (len(shades) % 3))
            label = phase if named and phase not in labelled else None
            ax.axvspan(begin, end, color="0.5", alpha=shade, lw=0, label=label)
            labelled.add(phase)
        begin = end


def _line(ax: Axes, at: np.ndarray, values: Sequence[float | None], colour: str, label: str) -> list[float]:
    """Draw a curve of the known values, and return them."""
    # Of two losses of one pair the later one is exact: the pass that began with the pair measured it.
    known = list({x: y for x, y in zip(at, values, strict=True) if y is not None and y > 0}.items())
    if known:
        marker = "o" if len(known) <= 30 else None
        ax.plot(*zip(*known, strict=True), color=colour, lw=1.6, marker=marker, ms=3.5, label=label, zorder=3)
    return [y for _, y in known]


def _ordinate(ax: Axes, values: Sequence[float], label: str, colour: str | None = None) -> None:
    """Set the label, the range of the values with a margin, and a few ticks.

    The scale is logarithmic where the range is wide; a change too small to matter looks flat.
    """
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    style.despine(ax)
    text = ax.set_ylabel(label, fontsize=9)
    if colour is not None:
        text.set_color(colour)
    if not values:
        return
    low, high = min(values), max(values)
    if high / low > _LOG_RATIO:
        ax.set_yscale("log")
        margin = (high / low) ** 0.06
        ax.set_ylim(low / margin, high * margin)
        # Below two decades also at 2 and 5, as there may be a single power of ten.
        subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        ax.yaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        middle, half = (low + high) / 2, max(0.56 * (high - low), _FLAT * high)
        ax.set_ylim(middle - half, middle + half)
        ax.locator_params(axis="y", nbins=5)
        ax.ticklabel_format(axis="y", useMathText=True, useOffset=False)
        ax.yaxis.offsetText.set_fontsize(8)


def _rivals(ax: Axes, records: Sequence[Record], ends: np.ndarray) -> None:
    """Draw the objectives of the starts that were given up.

    The range grows by at most 30 % for these curves. A curve far above the range is only in the legend.
    """
    compared = [
        (end, each.measures) for end, each in zip(ends, records, strict=True) if "rival 0" in each.measures
    ]
    if not compared:
        return
    last = compared[-1][1]
    names = sorted(name for name in last if name.startswith("rival "))
    winner = min(names, key=lambda name: last[name])
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"
    limit = high * (high / low) ** 0.3 if log else high + 0.3 * (high - low)
    label, top = "other start", high
    for name in names:
        points = [(end, measures.get(name, np.nan)) for end, measures in compared]
        points = [(x, y) for x, y in points if np.isfinite(y) and y > 0]
        if name == winner or not points:
            continue
        lowest = min(y for _, y in points)
        far = lowest > limit
        shown = f"other start: {lowest:.3g}, far above" if far else label
        ax.plot(*zip(*points, strict=True), color=style.PINK, lw=1.2, ls="--", marker="s", ms=3, label=shown)
        if not far:
            label, top = "_", max(top, min(limit, max(y for _, y in points) * 1.02))
    ax.set_ylim(low, top)


def _models(ax: Axes, records: Sequence[Record], ends: np.ndarray) -> list[float]:
    """Draw a thin line for each of several models that share passes, and return the losses of the lines."""
    lines: dict[int, dict[float, float]] = {}
    begin = 0.0
    for record, end in zip(records, ends.tolist(), strict=True):
        for advance in record.models:
            if advance.loss is not None and advance.loss > 0:
                lines.setdefault(advance.model, {})[end if advance.loss_at == "end" else begin] = advance.loss
        begin = end
    across: list[float] = []
    losses: list[float] = []
    for line in lines.values():
        # Most of a curve is in its first passes.
        chosen = np.unique(np.geomspace(1, len(line), _POINTS).round().astype(int)) - 1
        points = np.asarray([*sorted(line.items()), (np.nan, np.nan)])[[*chosen, -1]]
        across += points[:, 0].tolist()
        losses += points[:, 1].tolist()
    if lines:
        ax.plot(across, losses, color=style.PALE, lw=0.6, alpha=0.7, label=f"each of {len(lines)} models")
    return [loss for loss in losses if np.isfinite(loss)]


def _returned(ax: Axes, records: Sequence[Record], at: np.ndarray) -> list[float]:
    """Draw a mark at the loss of the returned W and H, if a pass has evaluated it, and return the loss."""
    last = records[-1] if records else None
    if last is None or not last.closed or last.loss is None or last.loss <= 0:
        return []
    ax.plot(at[-1:], [last.loss], "D", color=style.GREEN, ms=6, label="returned pair", zorder=4)
    return [last.loss]
