"""The columns of W as maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dasknmf.core.image_grid import Layout
from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, images_of, titles_of

if TYPE_CHECKING:
    from xarray import DataArray


def abundances(
    W: Factorization | DataArray,
    layout: tuple[int, int] | Layout | None = None,
    *,
    scale: Literal["shared", "own"] = "shared",
    labels: Sequence[str] | None = None,
    colorbar: bool = True,
    ax: style.GivenAxes = None,
) -> np.ndarray:
    """Abundance maps: the columns of W as images, one for each component.

    The scale of a component is arbitrary: any factor can move from its column of W to its row of H.
    Multiply W by ``H.mean(axis=1)`` to compare maps on a shared scale, or give each map its own scale.

    Parameters
    ----------
    W : array of shape (n_pixels, n_components), DataArray, StackNMF, Run, or path of a run
        The abundances, which must fit in memory: a Dask array is computed. A DataArray has the dims
        component, rows and columns.
    layout : tuple of int, or Layout, optional
        The image of an array: its numbers of rows and columns, with the pixels in raster order, or its
        Layout. Models and runs of stacks have a layout.
    scale : {"shared", "own"}, default="shared"
        One colour scale for all maps, or one for each map. A scale goes from 0 to the 99.5 % quantile.
    labels : sequence of str, optional
        A title for each component.
    colorbar : bool, default=True
        Whether a shared scale has a colour bar.
    ax : Axes or array of Axes, optional
        One for each component.

    Returns
    -------
    axes : ndarray of Axes, of shape (n_components,)

    Raises
    ------
    ValueError
        If the scale is unknown, or a shape or a length does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import plots
    >>> W = np.random.default_rng(0).random((12, 2))
    >>> [ax.get_title() for ax in plots.abundances(W, (3, 4))]
    ['component 0', 'component 1']
    """
    if scale not in ("shared", "own"):
        raise ValueError(f"scale is {scale!r}; it must be 'shared' or 'own': choose one.")
    maps = images_of(W, layout)
    titles = titles_of(labels, len(maps))
    height = 2.2 * min(2.0, max(0.4, maps.shape[1] / maps.shape[2])) + 0.25
    axes = style.panels(len(maps), ax, size=(2.5, height))
    shared = style.vmax_of(maps) if scale == "shared" else None
    for component, panel in enumerate(axes):
        top = style.vmax_of(maps[component]) if shared is None else shared
        drawn = style.image(panel, maps[component], style.MAPS, 0.0, top)
        style.title(panel, titles[component])
    if shared is not None and colorbar:
        shrink = max(0.25, 0.9 / -(-len(maps) // 4))
        style.colorbar(drawn, list(axes), shrink=shrink, pad=0.02, extend="max").ax.tick_params(labelsize=8)
    return axes
