"""The columns of W as maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import images_of, titles_of


def abundances(
    W: Any,
    layout: Any = None,
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
    W : array of shape (n_pixels, n_components), DataArray, StackNMF, Run, or path of a run
        Held in memory whole: a Dask array is computed. A DataArray has the dims component, rows, columns.
    layout : tuple of int, or Layout, optional
        Rows and columns of the image, in the order of W's rows; or how W's rows lie in it. Models and runs
        of stacks know.
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
    maps = images_of(W, layout)
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
