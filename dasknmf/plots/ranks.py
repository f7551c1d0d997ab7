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

_STEEP = 30.0
"""The ratio of held-out losses above which their axis is logarithmic."""
_STABILITY = {
    "silhouette": ("silhouette_mean", "silhouette"),
    "instability": ("instability", "instability"),
    "dispersion": ("dispersion", "dispersion"),
    "cophenetic": ("cophenetic", "cophenetic correlation"),
}
_LINE: dict[str, Any] = {"lw": 1.6, "ms": 4}
_DASHED: dict[str, Any] = {"lw": 1.2, "ms": 4, "ls": "--", "mfc": "none"}
_ERRORS = {"relative_error": "relative error", "loss": "D(V | WH)"}


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
        If `stability` is unknown, `best` is none of the numbers of components, or nothing is known of them.

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
    table = _Table(found)
    name, label = _STABILITY[stability]
    error = next((each for each in _ERRORS if table.knows(each)), None)
    if error is None and not table.knows(name) and not table.knows("holdout"):
        raise ValueError(
            f"of {len(table.at)} ranks neither {name} nor an error is known; there is nothing to draw: give "
            "the table of a sweep."
        )
    best = getattr(found, "best", None) if best is None else best
    if best is not None and best not in table.at:
        raise ValueError(f"best is {best}; the ranks are {table.at.tolist()}: give one of these.")
    held = table.knows("holdout")
    panel: Axes = style.panels(1, ax, size=(5.6, 4.6 if held else 3.4))[0]
    lowest = style.below(panel) if held else panel
    style.plain(panel)
    if table.knows(name):
        mean = "mean silhouette" if stability == "silhouette" else label
        panel.plot(*table.known(name), color=style.BLUE, marker="o", label=mean, **_LINE)
        if stability == "silhouette" and table.knows("silhouette_min"):
            smallest = table.known("silhouette_min")
            panel.plot(*smallest, color=style.BLUE, marker="v", label="smallest silhouette", **_DASHED)
    _coloured(panel, label, style.BLUE, drawn=table.knows(name))
    if error is not None:
        other = panel.twinx()
        style.plain(other)
        other.spines["right"].set_visible(True)
        other.spines["left"].set_visible(False)
        # The stability is drawn in front of the error.
        panel.set_zorder(other.get_zorder() + 1)
        panel.patch.set_visible(False)
        shown: dict[str, Any] = {"color": style.ORANGE, "marker": "s", "label": _ERRORS[error], **_LINE}
        other.plot(*table.known(error), **shown)
        _coloured(other, _ERRORS[error], style.ORANGE)
        panel.plot([], [], **shown)
    if held:
        at, losses = table.known("holdout")
        spread = dict(zip(table.at.tolist(), table.column("holdout_std"), strict=True))
        bars = np.nan_to_num([spread[rank] for rank in at.tolist()])
        lowest.plot(at, losses, color=style.GREEN, marker="D", label="held out", **_LINE)
        if bars.any():
            lowest.errorbar(at, losses, bars, fmt="none", ecolor=style.GREEN, elinewidth=1.1, capsize=2.5)
        style.plain(lowest)
        _coloured(lowest, "held out", style.GREEN)
        if (losses > 0).all() and losses.max() > _STEEP * losses.min():
            lowest.set_yscale("log")  # too many components cost more by powers of ten
        panel.tick_params(axis="x", labelbottom=False)
    if best is not None:
        rule = getattr(found, "rule", None)
        label = f"chosen: {best}" + (f" ({rule})" if rule else "")
        panel.axvline(best, color=style.PALE, lw=1.2, ls=":", zorder=0, label=label)
        if held:
            lowest.axvline(best, color=style.PALE, lw=1.2, ls=":", zorder=0)
    _abscissa(lowest, table.at)
    style.legend_above(panel)
    return panel


class _Table:
    """Columns over ranks, in the order of the ranks."""

    def __init__(self, source: Any) -> None:
        columns = source.to_dataframe() if hasattr(source, "to_dataframe") else source
        if hasattr(source, "ranks"):  # the findings of a run
            columns = vars(source) | {"n_components": source.ranks}
        at = np.asarray(_ranks_of(columns), dtype=int)
        self._order = np.argsort(at, kind="stable")
        self._columns = columns
        self.at = at[self._order]

    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            return np.full(len(self.at), np.nan)
        return np.asarray(self._columns[name], dtype=float)[self._order]

    def knows(self, name: str) -> bool:
        return bool(np.isfinite(self.column(name)).any())

    def known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The ranks for which the column has a value, and these values."""
        values = self.column(name)
        there = np.isfinite(values)
        return self.at[there], values[there]


def _ranks_of(columns: Any) -> Any:
    if hasattr(columns, "columns") and "n_components" not in columns:
        return columns.index
    if not hasattr(columns, "keys") or "n_components" not in columns:
        raise ValueError(
            f"a {type(columns).__name__} has no ranks; the abscissa is n_components: give a sweep, its "
            "table, or a mapping with that column."
        )
    return columns["n_components"]


def _coloured(ax: Axes, label: str, colour: str, *, drawn: bool = True) -> None:
    """Give an axis the colour of its curve, and no numbers where there is no curve."""
    if not drawn:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        return
    ax.set_ylabel(label, fontsize=9, color=colour)
    ax.tick_params(axis="y", labelcolor=colour)
    ax.margins(y=0.08)
    ax.locator_params(axis="y", nbins=5)
    ax.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True, useOffset=False)
    ax.yaxis.offsetText.set_fontsize(7)


def _abscissa(ax: Axes, at: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(at) <= 12:
        ax.set_xticks(at)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.set_xlabel("number of components", fontsize=9)
