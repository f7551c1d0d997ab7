"""Colours, panels and labels of all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage

GivenAxes: TypeAlias = "Axes | Sequence[Axes] | np.ndarray | None"
"""The Axes to draw into; None: those of a new figure."""

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Colours of Okabe and Ito, which colour-blind readers can distinguish; also distinct in grey."""
PALE = "0.55"
"""The grey of lines behind the data, visible on white and on black."""
LINES = (BLUE, ORANGE, GREEN, PINK, "#e69f00", PALE)
"""The colours of curves in one panel, in turn."""
MAPS, FACES, RESIDUALS = "viridis", "gray", "PuOr"
_MISSING = "0.75"
"""The grey of pixels without a value."""


def panels(
    count: int, ax: GivenAxes, *, across: int = 4, size: tuple[float, float] = (2.6, 2.0)
) -> np.ndarray:
    """`count` Axes: the first of those given, or a grid in a new figure.

    Raises
    ------
    ValueError
        If fewer Axes are given.
    """
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) < count:
            raise ValueError(f"ax has {len(given)} Axes and there are {count} panels: give one for each.")
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


def below(ax: Axes) -> Axes:
    """New Axes in the lower part of the area of `ax`, with the same abscissa."""
    place = ax.get_subplotspec()
    if place is not None:
        grid = place.subgridspec(2, 1, height_ratios=(3, 2))
        ax.set_subplotspec(grid[0])
        return ax.figure.add_subplot(grid[1], sharex=ax)
    left, bottom, width, height = ax.get_position().bounds
    ax.set_position((left, bottom + 0.48 * height, width, 0.52 * height))
    return ax.figure.add_axes((left, bottom, width, 0.36 * height), sharex=ax)


def title(ax: Axes, text: str) -> None:
    """Set the title above a panel; a "$" does not begin a formula."""
    ax.set_title(text, fontsize=9, parse_math=False)


def legend_above(ax: Axes) -> None:
    """Place the legend above the panel, where it covers no data, with room for the axis' power of ten."""
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


def despine(ax: Axes) -> None:
    """Remove the top and the right spine."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def short_numbers(ax: Axes, axis: Literal["x", "y"], *, n_ticks: int = 3) -> None:
    """Set a few ticks on an axis, with a common power of ten where numbers are long."""
    ax.locator_params(axis=axis, nbins=n_ticks)
    ax.ticklabel_format(axis=axis, scilimits=(-2, 4), useMathText=True, useOffset=False)
    (ax.xaxis if axis == "x" else ax.yaxis).get_offset_text().set_fontsize(7)


def from_zero(ax: Axes, values: np.ndarray) -> None:
    """Set the ordinate from zero to a little above the largest value."""
    ax.set_ylim(0, float(np.fmax.reduce(values, axis=None, initial=0)) * 1.06 or 1.0)
    despine(ax)
    short_numbers(ax, "y")


def remove_frame(ax: Axes) -> None:
    """Remove ticks and spines."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def named_ticks(axis: Axis, at: npt.ArrayLike, names: Sequence[str] | np.ndarray, **options: Any) -> None:
    """Set ticks with names, in which a "$" does not begin a formula."""
    axis.set_ticks(np.asarray(at).tolist())
    for label in axis.set_ticklabels([str(name) for name in names], **options):
        label.set_parse_math(False)


def curve(ax: Axes, coordinate: npt.ArrayLike | None, values: np.ndarray, **options: Any) -> None:
    """Draw values over an ascending coordinate or, without a coordinate, over their indices."""
    x = np.arange(len(values)) if coordinate is None else np.asarray(coordinate)
    order = np.argsort(x, kind="stable")
    ax.plot(x[order], values[order], **options)
    ax.margins(x=0.02)
    if x.dtype.kind == "M":
        dated(ax)


def dated(ax: Axes) -> None:
    """Set a few ticks with short labels on an axis of dates."""
    from matplotlib import dates

    locator = dates.AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.xaxis.get_offset_text().set_fontsize(7)


def colours(name: str) -> Colormap:
    """A colour map in which pixels without a value are grey."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=_MISSING)


def image(ax: Axes, values: np.ndarray, cmap: str, low: float, high: float) -> AxesImage:
    """Draw an image without ticks."""
    drawn = ax.imshow(values, cmap=colours(cmap), vmin=low, vmax=high, interpolation="nearest")
    remove_frame(ax)
    return drawn


def colorbar(drawn: AxesImage, beside: Axes | list[Axes], **options: Any) -> Colorbar:
    """Draw a colour bar without a frame beside one or several panels."""
    bar = drawn.axes.figure.colorbar(drawn, ax=beside, **options)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar


def vmax_of(values: np.ndarray) -> float:
    """The upper end of a colour scale: the 99.5 % quantile, as a few bright pixels would darken the map."""
    seen = values[np.isfinite(values)]
    return (float(np.quantile(seen, 0.995)) or float(seen.max(initial=0)) or 1.0) if seen.size else 1.0
