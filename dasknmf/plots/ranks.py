"""Stability and error over the number of components."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dasknmf.plots import style
from dasknmf.plots.sources import selection_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from dasknmf.selection.sweep import RankSweep
    from dasknmf.store.run import Run

Sweep: TypeAlias = "RankSweep | Run | str | os.PathLike[str] | DataFrame | Mapping[str, npt.ArrayLike]"

_LOG_RATIO = 30.0
"""The ratio of the largest to the smallest held-out loss above which their axis is logarithmic."""
_STABILITY = {
    "silhouette": ("silhouette_mean", "silhouette"),
    "instability": ("instability", "instability"),
    "dispersion": ("dispersion", "dispersion"),
    "cophenetic": ("cophenetic", "cophenetic correlation"),
}
_LINE: dict[str, Any] = {"lw": 1.6, "ms": 4}
_DASHED: dict[str, Any] = {"lw": 1.2, "ms": 4, "ls": "--", "mfc": "none"}
_ERRORS = {"relative_error": "relative error", "loss": "D(V | WH)"}
"""The errors, the first of which that is known is drawn."""
_COLUMNS = ("silhouette_min", *(name for name, _ in _STABILITY.values()), *_ERRORS, "holdout", "holdout_std")


def ranks(
    source: Sweep,
    *,
    stability: Literal["silhouette", "instability", "dispersion", "cophenetic"] = "silhouette",
    best: int | None = None,
    ax: style.GivenAxes = None,
) -> Axes:
    """Stability and error over the number of components, as cNMF draws them.

    The left axis has the stability, the right axis the error of the best start. A second panel has the loss
    of held-out entries, where it is known: mean and standard deviation over the starts.

    Parameters
    ----------
    source : RankSweep, Run of a sweep, path of the run, DataFrame, or mapping of str to sequence
        The columns of ``RankSweep.to_dataframe()``, NaN where a value is unknown; a mapping has
        "n_components" among them.
    stability : {"silhouette", "instability", "dispersion", "cophenetic"}, default="silhouette"
        The measure on the left axis. Two curves show the silhouette: the mean, and that of the worst
        component.
    best : int, optional
        The number of components that is marked. By default the choice of the sweep.
    ax : Axes, optional
        All panels divide the area of these Axes.

    Returns
    -------
    ax : Axes
        The panel of the stability; ``ax.figure.axes`` has the others.

    Raises
    ------
    ValueError
        If `stability` is unknown, `best` is not among the numbers of components, or there is nothing to draw.

    Examples
    --------
    >>> from dasknmf import plots
    >>> table = {"n_components": [2, 3, 4], "silhouette_mean": [0.9, 0.95, 0.4], "loss": [9.0, 5.0, 4.8]}
    >>> ax = plots.ranks(table, best=3)
    >>> ax.get_xlabel()
    'number of components'
    """
    if stability not in _STABILITY:
        raise ValueError(f"stability is {stability!r}; it must be one of {list(_STABILITY)}: choose one.")
    found = selection_of(source)
    at, known = _table_of(found)
    name, label = _STABILITY[stability]
    error = next((each for each in _ERRORS if each in known), None)
    if error is None and name not in known and "holdout" not in known:
        raise ValueError(
            f"neither {name} nor an error is known for any of {len(at)} ranks; there is nothing to draw: "
            "give the table of a sweep."
        )
    best = getattr(found, "best", None) if best is None else best
    if best is not None and best not in at:
        raise ValueError(f"best is {best}; the ranks are {at.tolist()}: give one of these.")
    held = "holdout" in known
    panel: Axes = style.panels(1, ax, size=(5.6, 4.6 if held else 3.4))[0]
    lowest = style.below(panel) if held else panel
    style.despine(panel)
    if name in known:
        mean = "mean silhouette" if stability == "silhouette" else label
        panel.plot(*known[name], color=style.BLUE, marker="o", label=mean, **_LINE)
        if stability == "silhouette" and "silhouette_min" in known:
            smallest = known["silhouette_min"]
            panel.plot(*smallest, color=style.BLUE, marker="v", label="smallest silhouette", **_DASHED)
        _coloured(panel, label, style.BLUE)
    else:
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
    if error is not None:
        other = panel.twinx()
        style.despine(other)
        other.spines["right"].set_visible(True)
        other.spines["left"].set_visible(False)
        # The stability is drawn in front of the error.
        panel.set_zorder(other.get_zorder() + 1)
        panel.patch.set_visible(False)
        shown: dict[str, Any] = {"color": style.ORANGE, "marker": "s", "label": _ERRORS[error], **_LINE}
        other.plot(*known[error], **shown)
        _coloured(other, _ERRORS[error], style.ORANGE)
        panel.plot([], [], **shown)
    if held:
        tried, losses = known["holdout"]
        stds = dict(zip(*known.get("holdout_std", ((), ())), strict=True))
        bars = [stds.get(rank, 0.0) for rank in tried]
        lowest.plot(tried, losses, color=style.GREEN, marker="D", label="held out", **_LINE)
        if any(bars):
            lowest.errorbar(tried, losses, bars, fmt="none", ecolor=style.GREEN, elinewidth=1.1, capsize=2.5)
        style.despine(lowest)
        _coloured(lowest, "held out", style.GREEN)
        if (losses > 0).all() and losses.max() > _LOG_RATIO * losses.min():
            lowest.set_yscale("log")  # too many components cost powers of ten
        panel.tick_params(axis="x", labelbottom=False)
    if best is not None:
        rule = getattr(found, "rule", None)
        label = f"chosen: {best}" + (f" ({rule})" if rule else "")
        for each in {panel, lowest}:
            each.axvline(best, color=style.PALE, lw=1.2, ls=":", zorder=0, label=label)
    lowest.set_xlabel("number of components", fontsize=9)
    if len(at) <= 12:
        lowest.set_xticks(at)
    else:
        lowest.locator_params(axis="x", nbins=10, integer=True)
    style.legend_above(panel)
    return panel


def _table_of(source: Any) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The ascending ranks, and for each column with known values the ranks and the values where it is known.

    Raises
    ------
    ValueError
        If the source has no ranks.
    """
    table = source.to_dataframe() if hasattr(source, "to_dataframe") else source
    if hasattr(source, "ranks"):  # the findings of a run
        table = vars(source) | {"n_components": source.ranks}
    elif hasattr(table, "rename_axis") and "n_components" not in table:
        table = table.rename_axis("n_components").reset_index()
    if not hasattr(table, "keys") or "n_components" not in table:
        raise ValueError(
            f"{type(table).__name__} has no column n_components, the abscissa: give a sweep, its table, or a "
            "mapping with this column."
        )
    at = np.asarray(table["n_components"], dtype=int)
    order = np.argsort(at, kind="stable")
    at, known = at[order], {}
    for name in _COLUMNS:
        if name in table:
            values = np.asarray(table[name], dtype=float)[order]
            there = np.isfinite(values)
            if there.any():
                known[name] = (at[there], values[there])
    return at, known


def _coloured(ax: Axes, label: str, colour: str) -> None:
    """Set the label of the ordinate and the colour of its curve."""
    ax.set_ylabel(label, fontsize=9, color=colour)
    ax.tick_params(axis="y", labelcolor=colour)
    ax.margins(y=0.08)
    style.short_numbers(ax, "y", n_ticks=5)
