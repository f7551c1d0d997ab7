"""The columns of W as maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.given import check_image, matrix, titles_of


def abundances(
    W: Any,
    layout: Any,
    *,
    scale: Literal["shared", "own"] = "shared",
    labels: Any = None,
    colorbar: bool = True,
    ax: Any = None,
) -> np.ndarray:
    """One map for each component.

    W is only known up to a factor per component, which is in H: multiply W by ``H.mean(axis=1)`` before
    maps with a shared scale, or let each have its own.

    Parameters
    ----------
    W : array of shape (n_pixels, n_components)
        Held in memory whole: a Dask array is computed.
    layout : tuple of int, or Layout
        Rows and columns of the image, in the order of W's rows; or how W's rows lie in it.
    scale : {"shared", "own"}, default="shared"
        Whether all maps have one colour scale, with a bar beside them, or each goes from zero to its own
        maximum (its 99.5 % quantile).
    labels : sequence of str, optional
        A title for each component.
    colorbar : bool, default=True
        Whether a shared scale has a bar.
    ax : Axes or array of Axes, optional
        One for each component.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    ValueError
        If the scale is unknown, or a shape or a length does not fit.
    """
    if scale not in ("shared", "own"):
        raise ValueError(f"scale is {scale!r}; it must be 'shared' or 'own': choose one.")
    W = matrix(W.compute() if hasattr(W, "compute") else W, "W")
    if hasattr(layout, "images"):
        maps = np.asarray(layout.images(W))
        if maps.ndim != 3:
            raise ValueError(
                f"the samples lie along {maps.ndim - 1} dimensions; a map has two: give rows of one image."
            )
    else:
        maps = W.T.reshape(-1, *check_image(layout, len(W), "pixels"))
    titles = titles_of(labels, len(maps))
    height = 2.2 * min(2.0, max(0.4, maps.shape[1] / maps.shape[2])) + 0.25
    axes = style.panels(len(maps), ax, size=(2.5, height))
    shared = style.top_of(maps) if scale == "shared" else None
    drawn = None
    for component, panel in enumerate(axes):
        top = style.top_of(maps[component]) if shared is None else shared
        drawn = style.image(panel, maps[component], style.MAPS, 0.0, top)
        style.title(panel, titles[component])
    if shared is not None and colorbar:
        bar = axes[0].figure.colorbar(
            drawn, ax=list(axes), shrink=max(0.25, 0.9 / -(-len(maps) // 4)), pad=0.02, extend="max"
        )
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
    return axes
