"""Pictures as text inside of a page: curves as SVG, maps as PNG. Needs matplotlib."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from typing import Any

import numpy as np

from dasknmf import plots
from dasknmf.plots import style

_INK = "#010203"
"""Stands for the colour of the text around a picture, in light and in dark pages."""


def loss_curve(run: Any) -> str:
    """The loss against exact passes."""
    figure, ax = _canvas((5.0, 3.0))
    plots.convergence(run, ax=ax)
    return f"<figure>{_svg(figure, 'loss of each pass')}</figure>"


def spectrum(row: np.ndarray, coordinate: np.ndarray | None) -> str:
    """One row of H as a curve."""
    figure, ax = _canvas((3.0, 1.5))
    plots.components(row[np.newaxis], kind="spectra", coordinate=coordinate, labels=[""], ax=ax)
    return _svg(figure, "spectrum")


def picture(values: np.ndarray, cmap: str, label: str) -> str:
    """An image from zero to its own maximum, one pixel for each value."""
    import matplotlib.image

    top = style.top_of(values)
    scaled = np.ma.masked_invalid(np.asarray(values, float) / top).clip(0, 1)
    file = io.BytesIO()
    matplotlib.image.imsave(file, style.colours(cmap)(scaled, bytes=True), format="png")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{data}">'


def _canvas(size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of no window and of no session, and its Axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    ax = figure.subplots()
    ax.patch.set_alpha(0)
    return figure, ax


def _svg(figure: Any, label: str) -> str:
    for ax in figure.axes:
        ax.tick_params(which="both", colors=_INK)
        for spine in ax.spines.values():
            spine.set_color(_INK)
        legend = ax.get_legend()
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, ax.xaxis.offsetText, ax.yaxis.offsetText]
        for text in [*texts, *(legend.get_texts() if legend else [])]:
            text.set_color(_INK)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # A page knows these already, and several pictures in it may not have the same identifiers.
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r"\n\s*", "\n", drawn).replace(_INK, "currentColor")
    drawn = drawn.replace(style.BLUE, "var(--bar)")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
