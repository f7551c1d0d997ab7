"""The rows of H: as bars, spectra or images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, abscissa_of, check_image, names_of, spectra_of, titles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = ("bars", "spectra", "images")
_NAMED = 16
"""Features whose names fit below a panel."""


def components(
    source: Factorization,
    *,
    kind: Literal["bars", "spectra", "images"] = "bars",
    image_shape: tuple[int, int] | None = None,
    coordinate: npt.ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    n_components: int | None = None,
    ax: style.GivenAxes = None,
) -> np.ndarray:
    """The rows of H, one panel for each component, each on a scale from 0 to its own maximum.

    Parameters
    ----------
    source : array of shape (n_components, n_features), fitted model, Run, or path of a run
        H, or a source of H.
    kind : {"bars", "spectra", "images"}, default="bars"
    image_shape : tuple of int, optional
        Rows and columns of ``kind="images"``, which needs them: their product is n_features.
    coordinate : array of shape (n_features,), optional
        The abscissa of ``kind="spectra"``: wavelengths or dates, for example. By default the coordinate of
        the stack, where the source is the run of a stack with one feature dim; else the feature's index.
    labels : sequence of str, optional
        A title for each component of `source`.
    feature_names : sequence of str, optional
        The names below the bars, shown for up to 16 features. By default those of the source.
    n_components : int, optional
        The number of components that are drawn, from the first on. By default all.
    ax : Axes or array of Axes, optional
        One for each panel.

    Returns
    -------
    axes : ndarray of Axes, of shape (n_components,)

    Raises
    ------
    ValueError
        If the kind is unknown, or a shape or a length does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import plots
    >>> H = np.array([[0.1, 0.4, 0.9], [0.8, 0.3, 0.1]])
    >>> (ax, _) = plots.components(H, kind="spectra", coordinate=[490, 560, 665])
    >>> ax.get_lines()[0].get_xdata()
    array([490, 560, 665])
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {list(_KINDS)}: choose one.")
    H = spectra_of(source)
    n_features = H.shape[1]
    if kind == "images":
        if image_shape is None:
            raise ValueError("kind='images' needs image_shape: give image_shape=(rows, columns).")
        image_shape = check_image(image_shape, n_features, "features")
    if coordinate is not None and np.shape(coordinate) != (n_features,):
        raise ValueError(
            f"coordinate has shape {np.shape(coordinate)}; each of {n_features} features needs a value: give "
            f"shape ({n_features},)."
        )
    names = names_of(source, feature_names, n_features) if kind == "bars" else None
    if kind == "spectra" and coordinate is None:
        coordinate = abscissa_of(source)
    shown = list(zip(titles_of(labels, len(H)), H, strict=True))[:n_components]
    axes = style.panels(len(shown), ax, size=(2.2, 2.4) if kind == "images" else (2.8, 1.9))
    for panel, (title, row) in zip(axes, shown, strict=True):
        style.title(panel, title)
        if kind == "images":
            style.image(panel, row.reshape(image_shape), style.FACES, 0.0, style.vmax_of(row))
            continue
        if kind == "spectra":
            style.curve(panel, coordinate, row, color=style.BLUE, lw=1.3)
        else:
            _bars(panel, row, names)
        style.from_zero(panel, row)
    return axes


def _bars(panel: Axes, row: np.ndarray, names: np.ndarray | None) -> None:
    # One shape for many bars: thousands of bars are thousands of objects.
    if len(row) <= 60:
        panel.bar(np.arange(len(row)), row, width=0.8, color=style.BLUE)
    else:
        panel.stairs(row, np.arange(len(row) + 1) - 0.5, fill=True, color=style.BLUE)
    panel.set_xlim(-0.7, len(row) - 0.3)
    if names is not None and len(names) <= _NAMED:
        style.named_ticks(panel.xaxis, np.arange(len(names)), names, rotation=90)
