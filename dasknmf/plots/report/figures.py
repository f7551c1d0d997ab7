"""Pictures of a report as HTML: curves as SVG, maps as PNG. Needs matplotlib."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from dasknmf import plots
from dasknmf.core.image_grid import Layout
from dasknmf.plots import style
from dasknmf.plots.report.models import findings_of
from dasknmf.plots.sources import coordinate_of
from dasknmf.store.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_INK = "#010203"
"""A placeholder for the colour of the page's text, in light and in dark pages."""
_CHARACTERS = 22
"""The number of characters that fit below a small panel."""


def loss_curve(run: Run) -> Markup:
    """The loss against exact passes, and that of held-out entries."""
    has_holdout = any("holdout" in record.measures for record in run.history)
    with _canvas((4.4, 4.2 if has_holdout else 2.9)) as (figure, ax):
        plots.convergence(run, ax=ax)
        return _svg(figure, "loss of each pass")


def rank_curves(run: Run) -> Markup:
    """Stability and error over the ranks of a sweep."""
    has_holdout = bool(np.isfinite(findings_of(run)["holdout"]).any())
    with _canvas((4.8, 4.4 if has_holdout else 3.2)) as (figure, ax):
        plots.ranks(run, ax=ax)
        return _svg(figure, "stability and error of each number of components")


def agreement(run: Run) -> tuple[Markup, ...]:
    """The clustergram of a consensus, and the local densities of its spectra."""
    # A figure for each: side by side on a wide page, one below the other on a narrow one.
    with _canvas((4.4, 3.7)) as (left, wide), _canvas((3.8, 3.2)) as (right, narrow):
        plots.consensus(run, ax=[wide, narrow])
        return _svg(left, "distances of spectra"), _svg(right, "densities of spectra")


def spectrum(row: np.ndarray, layout: Layout | None) -> Markup:
    """One row of H over the features of a stack, as curves or as an image; without a layout as one curve."""
    if layout is None or len(layout.feature_dims) > 2:
        with _canvas((3.0, 1.5)) as (figure, ax):
            plots.components(row[np.newaxis], kind="spectra", labels=[""], ax=ax)
            return _svg(figure, "spectrum")
    values = row.reshape(layout.feature_shape)
    dims = layout.feature_dims
    if values.ndim == 1:
        values, dims = values[np.newaxis], ("", *dims)
    elif values.shape[0] > values.shape[1]:
        values, dims = values.T, dims[::-1]
    drawn = len(values) <= len(style.LINES)
    with _canvas((3.0, (1.7 if len(values) == 1 else 2.0) if drawn else 2.2)) as (figure, ax):
        if drawn:
            _curves(ax, values, layout, *dims)
        else:
            _matrix(ax, row.reshape(layout.feature_shape), layout)
        ax.tick_params(labelsize=8)
        return _svg(figure, " × ".join(map(str, layout.feature_dims)))


def _curves(ax: Axes, values: np.ndarray, layout: Layout, lines: str, dim: str) -> None:
    """Draw a line along `dim` for each row of the values."""
    coordinate = coordinate_of(layout, dim)
    names = _names(layout, lines) if lines else [""]
    for index, (name, line) in enumerate(zip(names, values, strict=True)):
        # A name that begins with an underscore would not be in the legend.
        style.curve(ax, coordinate, line, color=style.LINES[index], lw=1.3, label=f" {name}")
    style.from_zero(ax, values)
    ax.set_xlabel(_titled(layout, dim), fontsize=8, parse_math=False)
    if coordinate is None:
        _named(ax.xaxis, layout, dim)
    if len(values) > 1:
        across = max(2, min(4, _CHARACTERS // (max(map(len, names)) + 2)))
        legend = ax.figure.legend(
            loc="outside upper left",
            ncols=across,
            fontsize=8,
            frameon=False,
            handlelength=1.0,
            handletextpad=0.2,
            columnspacing=1.0,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _matrix(ax: Axes, values: np.ndarray, layout: Layout) -> None:
    """Draw an image with a row for each element of the first feature dim."""
    style.image(ax, values, style.FACES, 0.0, style.vmax_of(values)).axes.set_aspect("auto")
    for axis, dim in zip((ax.yaxis, ax.xaxis), layout.feature_dims, strict=True):
        axis.set_label_text(_titled(layout, dim), fontsize=8, parse_math=False)
        _named(axis, layout, dim)


def _named(axis: Axis, layout: Layout, dim: str) -> None:
    """Set names at the ticks of an axis: all, or every n-th if they do not fit."""
    names = _names(layout, dim)
    longest = max(map(len, names)) + 1
    most = 8 if axis is axis.axes.yaxis else max(1, _CHARACTERS // longest)
    at = np.arange(0, len(names), -(-len(names) // most))
    style.named_ticks(axis, at, [names[index] for index in at])


def _names(layout: Layout, dim: str) -> list[str]:
    coordinate = layout.coords.get(dim)
    if coordinate is None or coordinate.dims != (dim,):
        return [str(index) for index in range(layout.feature_shape[layout.feature_dims.index(dim)])]
    values = coordinate.values
    if values.dtype.kind == "M":
        return [str(each) for each in np.datetime_as_string(values, unit="D")]
    return [f"{each:g}" if isinstance(each, float) else str(each) for each in values.tolist()]


def _titled(layout: Layout, dim: str) -> str:
    """A dim with its unit."""
    coordinate = layout.coords.get(dim)
    unit = coordinate.attrs.get("units") if coordinate is not None else None
    return f"{dim} [{unit}]" if unit else str(dim)


def picture(values: np.ndarray, cmap: str, label: str) -> Markup:
    """An image from zero to its own maximum, one pixel for each value."""
    import matplotlib.image

    top = style.vmax_of(values)
    scaled = np.ma.masked_invalid(np.asarray(values, float) / top).clip(0, 1)
    file = io.BytesIO()
    matplotlib.image.imsave(file, style.colours(cmap)(scaled, bytes=True), format="png")
    data = base64.b64encode(file.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(label, data)


@contextmanager
def _canvas(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """Context with a figure and its Axes, with text in the colour of the page; no window opens."""
    import matplotlib
    from matplotlib.figure import Figure

    ink: Any = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    )
    with matplotlib.rc_context(ink):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        yield figure, figure.subplots()


def _svg(figure: Figure, label: str) -> Markup:
    for ax in figure.axes:
        ax.patch.set_alpha(0)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # A page needs no metadata and namespaces, and its pictures may not share identifiers.
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r"\n\s*", "\n", drawn).replace(_INK, "currentColor")
    drawn = drawn.replace(style.BLUE, "var(--bar)")
    # matplotlib has escaped the text in the picture.
    return Markup(drawn.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
