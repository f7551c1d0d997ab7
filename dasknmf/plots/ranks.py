"""Stability and error of each number of components."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import found_of

_STEEP = 30.0
"""Losses over hidden entries that differ by more than so many times stand on a logarithmic axis."""
_STABILITY = {
    "silhouette": ("silhouette_mean", "silhouette"),
    "instability": ("instability", "instability"),
    "dispersion": ("dispersion", "dispersion"),
    "cophenetic": ("cophenetic", "cophenetic correlation"),
}
_ERRORS = {"relative_error": "relative error", "loss": "D(V | WH)"}


def ranks(
    source: Any,
    *,
    stability: Literal["silhouette", "instability", "dispersion", "cophenetic"] = "silhouette",
    best: int | None = None,
    ax: Any = None,
) -> Any:
    """How stable each rank is, and how near to V, over the number of components.

    Stability on the left axis, the error of the best start on the right one, as cNMF draws them; below them
    the loss over hidden entries where it is known, with the standard deviation over starts.

    Parameters
    ----------
    source : RankSweep, its Run or the path of that, DataFrame, or mapping of str to sequence
        With the columns of ``RankSweep.to_dataframe()``; of a mapping "n_components" is one of them. NaN
        where a value is not known.
    stability : {"silhouette", "instability", "dispersion", "cophenetic"}, default="silhouette"
        What is drawn on the left; of silhouettes the mean and that of the worst component.
    best : int, optional
        The rank that is marked; that of the sweep if not given.
    ax : Axes, optional
        All panels share what it covers.

    Returns
    -------
    Axes
        Of the stability; those of the error and of hidden entries are in its figure.

    Raises
    ------
    ValueError
        If `stability` is something else, `best` is none of the ranks, or there is nothing to draw.
    """
    if stability not in _STABILITY:
        raise ValueError(f"stability is {stability!r}; it must be one of {list(_STABILITY)}: choose one.")
    source = found_of(source)
    table = _Table(source)
    name, label = _STABILITY[stability]
    error = next((each for each in _ERRORS if table.knows(each)), None)
    if error is None and not table.knows(name) and not table.knows("holdout"):
        raise ValueError(
            f"of {len(table.at)} ranks neither {name} nor an error is known; the picture is drawn of these: "
            "give the table of a sweep."
        )
    best = getattr(source, "best", None) if best is None else best
    if best is not None and best not in table.at:
        raise ValueError(f"best is {best}; the ranks are {table.at.tolist()}: give one of these.")
    held = table.knows("holdout")
    ax = style.panels(1, ax, size=(5.6, 4.6 if held else 3.4))[0]
    lowest = style.below(ax) if held else ax
    style.plain(ax)
    if table.knows(name):
        mean = "mean silhouette" if stability == "silhouette" else label
        _curve(ax, *table.known(name), style.BLUE, "o", mean)
        if stability == "silhouette" and table.knows("silhouette_min"):
            _curve(ax, *table.known("silhouette_min"), style.BLUE, "v", "smallest silhouette", dashed=True)
    _coloured(ax, label, style.BLUE, drawn=table.knows(name))
    if error is not None:
        other = ax.twinx()
        style.plain(other)
        other.spines["right"].set_visible(True)
        other.spines["left"].set_visible(False)
        # The stability in front: where curves cross it is what is looked at.
        ax.set_zorder(other.get_zorder() + 1)
        ax.patch.set_visible(False)
        _curve(other, *table.known(error), style.ORANGE, "s", _ERRORS[error])
        _coloured(other, _ERRORS[error], style.ORANGE)
        ax.plot([], [], color=style.ORANGE, marker="s", ms=4, lw=1.6, label=_ERRORS[error])
    if held:
        at, losses = table.known("holdout")
        spread = dict(zip(table.at.tolist(), table.column("holdout_std"), strict=True))
        bars = np.nan_to_num([spread[rank] for rank in at.tolist()])
        _curve(lowest, at, losses, style.GREEN, "D", "held out")
        if bars.any():
            lowest.errorbar(at, losses, bars, fmt="none", ecolor=style.GREEN, elinewidth=1.1, capsize=2.5)
        style.plain(lowest)
        _coloured(lowest, "held out", style.GREEN)
        if (losses > 0).all() and losses.max() > _STEEP * losses.min():
            lowest.set_yscale("log")  # too many components cost more by powers of ten
        ax.tick_params(axis="x", labelbottom=False)
    if best is not None:
        rule = getattr(source, "rule", None)
        told = f"chosen: {best}" + (f" ({rule})" if rule else "")
        ax.axvline(best, color=style.PALE, lw=1.2, ls=":", zorder=0, label=told)
        if held:
            lowest.axvline(best, color=style.PALE, lw=1.2, ls=":", zorder=0)
    _abscissa(lowest, table.at)
    style.legend_above(ax)
    return ax


class _Table:
    """Columns over ranks, in the order of the ranks."""

    def __init__(self, source: Any) -> None:
        columns = source.to_dataframe() if hasattr(source, "to_dataframe") else source
        if hasattr(source, "ranks"):  # as a run keeps them
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
        """Ranks of which it is known, and the values."""
        values = self.column(name)
        there = np.isfinite(values)
        return self.at[there], values[there]


def _ranks_of(columns: Any) -> Any:
    if hasattr(columns, "columns") and "n_components" not in columns:
        return columns.index
    if not hasattr(columns, "keys") or "n_components" not in columns:
        raise ValueError(
            f"a {type(columns).__name__} tells no ranks; the picture is drawn over n_components: give a "
            "sweep, its table, or a mapping with that column."
        )
    return columns["n_components"]


def _curve(
    ax: Any, at: np.ndarray, values: np.ndarray, colour: str, marker: str, label: str, dashed: bool = False
) -> None:
    ax.plot(
        at,
        values,
        color=colour,
        lw=1.2 if dashed else 1.6,
        ls="--" if dashed else "-",
        marker=marker,
        ms=4,
        mfc="none" if dashed else colour,
        label=label,
    )


def _coloured(ax: Any, label: str, colour: str, *, drawn: bool = True) -> None:
    """An axis in the colour of its curve; without numbers where there is no curve."""
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


def _abscissa(ax: Any, at: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(at) <= 12:
        ax.set_xticks(at)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.set_xlabel("number of components", fontsize=9)
