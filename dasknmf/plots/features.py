"""The features with the largest entries of each row of H."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import factor_of, names_of, titles_of


def top_features(
    source: Any,
    n: int = 10,
    feature_names: Any = None,
    *,
    labels: Any = None,
    n_components: int | None = None,
    ax: Any = None,
) -> np.ndarray:
    """Horizontal bars of the leading features, one panel for each component.

    Parameters
    ----------
    source : array of shape (n_components, n_features), fitted model, Run, or path of a run
    n : int, default=10
        Features in each panel; fewer where fewer are above zero.
    feature_names : sequence of str, optional
        Those that the source knows if not given, else numbers.
    labels : sequence of str, optional
        A title for each component of `source`.
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
        If n is below 1, or a length does not fit.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a panel needs one feature or more: give at least 1.")
    H = factor_of(source)
    names = names_of(source, feature_names, H.shape[1])
    names = np.arange(H.shape[1]) if names is None else names
    titles = titles_of(labels, len(H))
    shown = len(H) if n_components is None else min(n_components, len(H))
    axes = style.panels(shown, ax, size=(2.8, 0.5 + 0.19 * n))
    for component, panel in enumerate(axes):
        leading = leading_of(H[component], n)
        panel.barh(np.arange(len(leading)), H[component][leading], color=style.BLUE, height=0.7)
        style.named_ticks(panel.yaxis, np.arange(len(leading)), names[leading])
        # As many places in every panel, so that bars are equally thick; the largest on top.
        panel.set_ylim(min(n, H.shape[1]) - 0.4, -0.6)
        style.title(panel, titles[component])
        style.plain(panel)
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.locator_params(axis="x", nbins=3)
        panel.ticklabel_format(axis="x", scilimits=(-2, 4), useMathText=True)
        panel.xaxis.offsetText.set_fontsize(7)
    return axes


def leading_of(row: np.ndarray, n: int) -> np.ndarray:
    """Features with the largest entries above zero, the largest first; of equal ones the first."""
    order = np.argsort(-row, kind="stable")[:n]
    return order[row[order] > 0]
