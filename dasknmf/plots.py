"""Pictures of a factorization. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def abundances(W: np.ndarray, shape: tuple[int, int], H: np.ndarray) -> Figure:
    """One map per component, each from zero to its own maximum, above its spectrum.

    W and H are only known up to a factor per component: a component's share of the signal, by which
    the maps are ordered, is the sum of its part of WH.

    Parameters
    ----------
    W : ndarray of shape (n_pixels, n_components)
    shape : tuple of int
        Rows and columns of the image, in the order of W's rows.
    H : ndarray of shape (n_components, n_bands)

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    k = W.shape[1]
    maps = (W * H.mean(axis=1)).T.reshape(k, *shape)
    order = np.argsort(-maps.mean(axis=(1, 2)))
    across = min(4, k)
    down = -(-k // across)
    figure = Figure(figsize=(3.1 * across, 3.6 * down), layout="constrained")
    grid = figure.subplots(2 * down, across, squeeze=False, gridspec_kw={"height_ratios": [4, 1] * down})
    share = maps.sum(axis=(1, 2)) / max(float(maps.sum()), np.finfo(float).tiny)
    for place in range(down * across):
        row, column = divmod(place, across)
        above, below = grid[2 * row][column], grid[2 * row + 1][column]
        if place >= k:
            above.set_axis_off()
            below.set_axis_off()
            continue
        component = int(order[place])
        # A few bright pixels would leave the rest of a map dark.
        top = float(np.quantile(maps[component], 0.995)) or 1.0
        above.imshow(maps[component], cmap="viridis", vmin=0, vmax=top)
        above.set_title(f"component {component}   {share[component]:.0%} of the signal", fontsize=9)
        above.set_xticks([])
        above.set_yticks([])
        below.plot(H[component] / max(float(H[component].max()), np.finfo(float).tiny), lw=1)
        below.set_ylim(0, 1.05)
        below.set_yticks([])
        below.tick_params(labelsize=7)
        below.set_xlabel("band", fontsize=7)
    return figure
