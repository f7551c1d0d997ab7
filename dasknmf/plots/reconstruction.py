"""Rows of V beside their reconstruction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, check_image, factor_of


def reconstruction(
    original: npt.ArrayLike,
    W: npt.ArrayLike,
    source: Factorization,
    *,
    image_shape: tuple[int, int] | None = None,
    coordinate: npt.ArrayLike | None = None,
    ax: style.GivenAxes = None,
) -> np.ndarray:
    """Rows of V, their reconstruction WH and the residual V - WH, side by side.

    Parameters
    ----------
    original : array of shape (n_features,) or (n_rows, n_features)
        Rows of V, NaN where a value is missing.
    W : array of shape (n_components,) or (n_rows, n_components)
        The rows of W that belong to `original`.
    source : array of shape (n_components, n_features), fitted model, Run, or path of a run
        H, or a source of H.
    image_shape : tuple of int, optional
        The numbers of rows and columns, where each row of V is an image. By default rows of V are curves.
    coordinate : array of shape (n_features,), optional
        The abscissa of curves. By default the feature's index.
    ax : Axes or array of Axes, optional
        One for each panel.

    Returns
    -------
    axes : ndarray of Axes
        Of images, of shape (n_rows, 3): original, WH, residual. Of curves, of shape (n_rows, 2): original
        and WH together, residual.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import plots
    >>> H = np.array([[0.1, 0.4, 0.9], [0.8, 0.3, 0.1]])
    >>> plots.reconstruction([0.5, 0.4, 0.5], [0.5, 0.5], H).shape
    (1, 2)
    """
    H = factor_of(source)
    V, W = np.atleast_2d(np.asarray(original, dtype=float)), np.atleast_2d(np.asarray(W))
    if W.shape != (len(V), len(H)) or V.shape[1] != H.shape[1]:
        raise ValueError(
            f"the shapes of original {V.shape}, W {W.shape} and H {H.shape} do not fit; original and WH have "
            "the same shape: give the rows of W that belong to original."
        )
    made = W @ H
    if image_shape is None:
        return _lines(V, made, coordinate, ax)
    image_shape = check_image(image_shape, V.shape[1], "features")
    axes = style.panels(3 * len(V), ax, across=3, size=(2.3, 2.5)).reshape(len(V), 3)
    for row, panels in enumerate(axes):
        top = style.vmax_of(V[row])
        style.image(panels[0], V[row].reshape(image_shape), style.FACES, 0.0, top)
        style.image(panels[1], made[row].reshape(image_shape), style.FACES, 0.0, top)
        rest = (V[row] - made[row]).reshape(image_shape)
        most = style.vmax_of(np.abs(rest))
        drawn = style.image(panels[2], rest, style.RESIDUALS, -most, most)
        style.colorbar(drawn, panels[2], shrink=0.7, pad=0.03)
        for panel, text in zip(panels, ("original", "WH", "residual"), strict=True):
            style.title(panel, text if row == 0 else "")
    return axes


def _lines(
    V: np.ndarray, made: np.ndarray, coordinate: npt.ArrayLike | None, ax: style.GivenAxes
) -> np.ndarray:
    axes = style.panels(2 * len(V), ax, across=2, size=(3.6, 2.2)).reshape(len(V), 2)
    x = np.arange(V.shape[1]) if coordinate is None else np.asarray(coordinate)
    for row, (both, rest) in enumerate(axes):
        both.plot(x, V[row], color="0.45", lw=2.2, label="original")
        both.plot(x, made[row], color=style.BLUE, lw=1.2, label="WH")
        rest.plot(x, V[row] - made[row], color=style.ORANGE, lw=1.1)
        rest.axhline(0, color=style.PALE, lw=0.8)
        for panel in (both, rest):
            style.despine(panel)
            panel.margins(x=0.02)
        if row == 0:
            both.legend(frameon=False, fontsize=8)
            style.title(rest, "residual")
    return axes
