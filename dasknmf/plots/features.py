"""The features with the largest entries of each row of H."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import Factorization, factor_of, names_of, titles_of


def top_features(
    source: Factorization,
    n: int = 10,
    feature_names: Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    n_components: int | None = None,
    ax: style.GivenAxes = None,
) -> np.ndarray:
    """The leading features of each component: horizontal bars of the largest entries of its row of H.

    Parameters
    ----------
    source : array of shape (n_components, n_features), fitted model, Run, or path of a run
        H, or a source of H.
    n : int, default=10
        The number of features in a panel; fewer where fewer entries are above zero.
    feature_names : sequence of str, optional
        By default the names of the source, or else the indices of the features.
    labels : sequence of str, optional
        A title for each component of `source`.
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
        If n is below 1, or a length does not fit.

    Examples
    --------
    >>> from dasknmf import plots
    >>> (ax,) = plots.top_features([[0.1, 0.4, 0.9]], 2, ["blue", "green", "red"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['red', 'green']
    """
    if n < 1:
        raise ValueError(f"n is {n}; a panel shows n features: give at least 1.")
    H = factor_of(source)
    names = names_of(source, feature_names, H.shape[1])
    names = np.arange(H.shape[1]) if names is None else names
    shown = list(zip(titles_of(labels, len(H)), H, strict=True))[:n_components]
    axes = style.panels(len(shown), ax, size=(2.8, 0.5 + 0.19 * n))
    for panel, (title, row) in zip(axes, shown, strict=True):
        leading = leading_of(row, n)
        panel.barh(np.arange(len(leading)), row[leading], color=style.BLUE, height=0.7)
        style.named_ticks(panel.yaxis, np.arange(len(leading)), names[leading])
        # The same number of places in every panel, so that bars are equally thick; the largest bar on top.
        panel.set_ylim(min(n, H.shape[1]) - 0.4, -0.6)
        style.title(panel, title)
        style.despine(panel)
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
        style.short_numbers(panel, "x")
    return axes


def leading_of(row: np.ndarray, n: int) -> np.ndarray:
    """Indices of the largest positive entries in descending order; among equal entries the first."""
    order = np.argsort(-row, kind="stable")[:n]
    return order[row[order] > 0]
