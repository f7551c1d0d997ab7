"""The rows of H: as bars, spectra or images."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import abscissa_of, check_image, factor_of, names_of, titles_of

_KINDS = ("bars", "spectra", "images")
_NAMED = 16
"""Features whose names fit below a panel."""


def components(
    source: Any,
    *,
    kind: Literal["bars", "spectra", "images"] = "bars",
    image_shape: tuple[int, int] | None = None,
    coordinate: Any = None,
    labels: Any = None,
    feature_names: Any = None,
    n_components: int | None = None,
    ax: Any = None,
) -> np.ndarray:
    """One panel for each component, each from zero to its own maximum.

    Parameters
    ----------
    source : array of shape (n_components, n_features), fitted model, Run, or path of a run
    kind : {"bars", "spectra", "images"}, default="bars"
    image_shape : tuple of int
        Rows and columns, for images: their product is n_features.
    coordinate : array of shape (n_features,), optional
        The abscissa of spectra, such as wavelengths or dates; that of the stack if not given, where the
        source is a run of one.
    labels : sequence of str, optional
        A title for each component of `source`.
    feature_names : sequence of str, optional
        For bars; those that the source knows if not given. Shown for up to 16 features.
    n_components : int, optional
        Only so many, the first; all if not given.
    ax : Axes or array of Axes, optional
        One for each panel.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    ValueError
        If the kind is unknown, or a shape or a length does not fit.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {list(_KINDS)}: choose one.")
    H = factor_of(source)
    titles = titles_of(labels, len(H))
    shown = len(H) if n_components is None else min(n_components, len(H))
    n_features = H.shape[1]
    if kind == "images":
        if image_shape is None:
            raise ValueError("kind='images' needs image_shape, rows and columns: give it.")
        image_shape = check_image(image_shape, n_features, "features")
    if coordinate is not None and np.shape(coordinate) != (n_features,):
        raise ValueError(
            f"coordinate has shape {np.shape(coordinate)}; each of {n_features} features needs one: "
            "give as many."
        )
    names = names_of(source, feature_names, n_features) if kind == "bars" else None
    if kind == "spectra" and coordinate is None:
        coordinate = abscissa_of(source)
    axes = style.panels(shown, ax, size=(2.2, 2.4) if kind == "images" else (2.8, 1.9))
    for component, panel in enumerate(axes):
        style.title(panel, titles[component])
        row = H[component]
        if kind == "images":
            style.image(panel, row.reshape(image_shape), style.FACES, 0.0, style.top_of(row))
            continue
        if kind == "spectra":
            style.curve(panel, coordinate, row, color=style.BLUE, lw=1.3)
        else:
            _bars(panel, row, names)
        panel.set_ylim(0, float(row.max(initial=0)) * 1.06 or 1.0)
        style.plain(panel)
        panel.locator_params(axis="y", nbins=3)
        panel.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
        panel.yaxis.offsetText.set_fontsize(7)
    return axes


def _bars(panel: Any, row: np.ndarray, names: np.ndarray | None) -> None:
    few = len(row) <= 60
    # One shape for all of them: thousands of bars are thousands of objects.
    if few:
        panel.bar(np.arange(len(row)), row, width=0.8, color=style.BLUE)
    else:
        panel.stairs(row, np.arange(len(row) + 1) - 0.5, fill=True, color=style.BLUE)
    panel.set_xlim(-0.7, len(row) - 0.3)
    if names is not None and len(names) <= _NAMED:
        style.named_ticks(panel.xaxis, np.arange(len(names)), names, rotation=90)
