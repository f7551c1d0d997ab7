"""What many starts agree on: their spectra beside each other, and how dense they lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import found_of

_NAMED = 24
"""Clusters that are numbered beside the strip."""


_FAR = 4.0
"""A threshold that many times the largest density is named and not drawn."""


def consensus(source: Any, *, ax: Any = None) -> np.ndarray:
    """The clustergram of the spectra of all starts, and the histogram of their local densities.

    The clustergram has the distances of the spectra that were kept, at length one, by cluster and within each
    by hierarchy (average linkage), with a strip of the clusters. The histogram is of all of them, with the
    density threshold. Both as cNMF draws them: sharp dark blocks, and a threshold in the tail, are a
    consensus.

    Parameters
    ----------
    source : Consensus, its Run or the path of that
        Or what has its attributes `stack`, `kept`, `labels`, `density`, `density_threshold`.
    ax : array of Axes, optional
        Two.

    Returns
    -------
    ndarray of two Axes
        The clustergram and the histogram.

    Raises
    ------
    ValueError
        If fewer Axes are given.
    """
    source = found_of(source)
    wide, narrow = style.panels(2, ax, across=2, size=(4.2, 3.5))
    if ax is None:
        narrow.set_box_aspect(0.9)  # beside a square that has a strip and a bar
    kept = np.asarray(source.kept, dtype=bool)
    labels = np.asarray(source.labels)[kept]
    rows = np.asarray(source.stack)[kept]
    order = _order(rows, labels)
    distances = _distances(rows[order])
    drawn = style.image(wide, distances, style.MAPS, 0.0, style.top_of(distances))
    drawn.set_interpolation("antialiased")  # a thousand starts are more rows than there are dots
    _strips(wide, labels[order])
    bar = wide.figure.colorbar(drawn, ax=wide, shrink=0.6, pad=0.03)
    bar.set_label("Euclidean distance", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    _histogram(narrow, np.asarray(source.density, dtype=float), kept, float(source.density_threshold))
    return np.asarray([wide, narrow], dtype=object)


def _distances(rows: np.ndarray) -> np.ndarray:
    squares = np.einsum("im,im->i", rows, rows)
    between = squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T)
    np.fill_diagonal(between, 0.0)
    return np.sqrt(np.maximum(between, 0.0, out=between), out=between)


def _order(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows by cluster, and within each so that near ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    order = []
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        if len(members) > 2:
            members = members[leaves_list(linkage(rows[members], "average"))]
        order.append(members)
    return np.concatenate(order) if order else np.empty(0, dtype=int)


def _strips(ax: Any, labels: np.ndarray) -> None:
    """Colours of the clusters, in turn, left of the image and above it; their numbers on the left."""
    from matplotlib.colors import to_rgb

    clusters, first, counts = np.unique(labels, return_index=True, return_counts=True)
    colours = np.asarray([to_rgb(colour) for colour in style.LINES])
    strip = colours[np.searchsorted(clusters, labels) % len(colours)]
    left = ax.inset_axes((-0.05, 0, 0.035, 1))
    above = ax.inset_axes((0, 1.015, 1, 0.035))
    left.imshow(strip[:, None], aspect="auto", interpolation="nearest")
    above.imshow(strip[None], aspect="auto", interpolation="nearest")
    for each in (left, above):
        style.without_ticks(each)
        each.spines[:].set_visible(False)
    step = -(-len(clusters) // _NAMED)
    middles = first + (counts - 1) / 2
    style.named_ticks(left.yaxis, middles[::step], clusters[::step], fontsize=7)
    left.tick_params(axis="y", length=0, pad=2)


def _histogram(ax: Any, density: np.ndarray, kept: np.ndarray, threshold: float) -> None:
    known = np.isfinite(density)
    edges = np.histogram_bin_edges(density[known], bins=40) if known.any() else 10
    parts = [density[known & kept], density[known & ~kept]]
    names = [f"kept: {int(kept.sum())}", f"filtered: {int((~kept).sum())}"]
    ax.hist(parts, bins=edges, stacked=True, color=[style.BLUE, style.ORANGE], label=names)
    # From 2 on nothing is filtered: no two spectra are as far apart.
    if threshold < 2:
        farthest = float(density[known].max(initial=0.0))
        beyond = 0 < _FAR * farthest < threshold
        label = f"threshold: {threshold:g}" + (", beyond the right edge" if beyond else "")
        ax.axvline(threshold, color=style.PALE, lw=1.3, ls="--", label=label)
        if beyond:  # else what there is to be seen would be a hair at the left one
            ax.set_xlim(0, 1.1 * farthest)
    style.plain(ax)
    ax.locator_params(axis="both", nbins=5)
    ax.set_xlabel("mean distance to the nearest spectra", fontsize=9)
    ax.set_ylabel("spectra", fontsize=9)
    style.legend_above(ax)
