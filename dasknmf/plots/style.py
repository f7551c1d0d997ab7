"""What the pictures share: colours, panels, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Of Okabe and Ito: told apart by colour-blind readers, and in grey."""
PALE = "0.55"
"""Of what stands behind the data; visible on white and on black."""
LINES = (BLUE, ORANGE, GREEN, PINK, "#e69f00", PALE)
"""Of curves in one panel."""
MAPS, FACES, RESIDUALS = "viridis", "gray", "PuOr"
_NOT_THERE = "0.75"
"""Pixels without a value."""


def panels(count: int, ax: Any, *, across: int = 4, size: tuple[float, float] = (2.6, 2.0)) -> np.ndarray:
    """So many Axes: those given, or of a new figure.

    Raises
    ------
    ValueError
        If fewer are given.
    """
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) < count:
            raise ValueError(f"ax has {len(given)} Axes and there are {count} panels; give one for each.")
        return given[:count]
    import matplotlib.pyplot as plt

    across = max(1, min(across, count))
    down = -(-count // across)
    _, grid = plt.subplots(
        down,
        across,
        figsize=(size[0] * across, size[1] * down),
        layout="constrained",
        squeeze=False,
    )
    flat: np.ndarray = grid.ravel()
    for spare in flat[count:]:
        spare.set_axis_off()
    return flat[:count]


def below(ax: Any) -> Any:
    """New Axes in the lower part of what these cover, with their abscissa."""
    place = ax.get_subplotspec()
    if place is not None:
        upper, lower = place.subgridspec(2, 1, height_ratios=(3, 2))
        ax.set_subplotspec(upper)
        return ax.figure.add_subplot(lower, sharex=ax)
    left, bottom, width, height = ax.get_position().bounds
    ax.set_position((left, bottom + 0.48 * height, width, 0.52 * height))
    return ax.figure.add_axes((left, bottom, width, 0.36 * height), sharex=ax)


def title(ax: Any, text: str) -> None:
    """Above a panel; a "$" is a dollar, whoever named it."""
    ax.set_title(text, fontsize=9, parse_math=False)


def legend_above(ax: Any) -> None:
    """Above the panel, where it covers nothing: there also the power of ten of the axis has its place."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        above = ax.transAxes + ScaledTranslation(0, 10 / 72, ax.figure.dpi_scale_trans)
        ax.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            bbox_transform=above,
            ncols=2,
            frameon=False,
            fontsize=8,
            borderaxespad=0,
            columnspacing=1.2,
        )


def plain(ax: Any) -> None:
    """Only the axes that carry numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def without_ticks(ax: Any) -> None:
    ax.set_xticks([])
    ax.set_yticks([])


def named_ticks(axis: Any, at: Any, names: Any, **options: Any) -> None:
    """Ticks with names as they are: strangers' names are no mathematics."""
    axis.set_ticks(at)
    for label in axis.set_ticklabels([str(name) for name in names], **options):
        label.set_parse_math(False)


def curve(ax: Any, coordinate: Any, values: np.ndarray, **options: Any) -> None:
    """Values along a coordinate, in its order; along their numbers where there is none."""
    x = np.arange(len(values)) if coordinate is None else np.asarray(coordinate)
    order = np.argsort(x, kind="stable")
    ax.plot(x[order], values[order], **options)
    ax.margins(x=0.02)
    if x.dtype.kind == "M":
        dated(ax)


def dated(ax: Any) -> None:
    """Few ticks on an axis of dates, each as short as it can be told."""
    from matplotlib import dates

    locator = dates.AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.xaxis.get_offset_text().set_fontsize(7)


def colours(name: str) -> Any:
    """A colour map in which pixels without a value are grey."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=_NOT_THERE)


def image(ax: Any, values: np.ndarray, cmap: str, low: float, high: float) -> Any:
    """An image without ticks; returns what a colour bar is made of."""
    drawn = ax.imshow(values, cmap=colours(cmap), vmin=low, vmax=high, interpolation="nearest")
    without_ticks(ax)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return drawn


def top_of(values: np.ndarray) -> float:
    """The end of a colour scale: a few bright pixels would leave the rest of a map dark."""
    seen = values[np.isfinite(values)]
    return (float(np.quantile(seen, 0.995)) or float(seen.max(initial=0)) or 1.0) if seen.size else 1.0
