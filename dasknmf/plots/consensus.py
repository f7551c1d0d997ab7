"""The agreement of many starts: the distances of their spectra, and the local densities."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from dasknmf.plots import style
from dasknmf.plots.sources import selection_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dasknmf.selection.result import Consensus
    from dasknmf.store.run import Run

_NAMED = 24
"""Clusters that are numbered beside the strip."""
_MOST_RATIO = 4.0
"""The ratio of the threshold to the largest density above which the threshold is not drawn, only named."""


def consensus(source: Consensus | Run | str | os.PathLike[str], *, ax: style.GivenAxes = None) -> np.ndarray:
    """The clustergram of the spectra of all starts, and the histogram of their local densities.

    Both are drawn as in cNMF [1]_. The clustergram shows the Euclidean distances between the spectra that the
    density filter kept, each scaled to length 1; a strip marks their clusters, and within a cluster they are
    in the order of hierarchical clustering (average linkage). The histogram has the densities of all spectra
    and the threshold of the filter. Starts agree where dark blocks are sharp and only a tail of the
    histogram lies above the threshold.

    Parameters
    ----------
    source : Consensus, Run of a consensus, or path of the run
        Or any object with the attributes `stack`, of shape (n_spectra, n_features), and, of length
        n_spectra, `kept`, `labels` and `density`, and the number `density_threshold`.
    ax : array of Axes, optional
        Two.

    Returns
    -------
    axes : ndarray of Axes, of shape (2,)
        The clustergram and the histogram.

    Raises
    ------
    ValueError
        If fewer Axes are given, or the run has no consensus yet.

    References
    ----------
    .. [1] Kotliar, D. et al. "Identifying gene expression programs of cell-type identity and cellular
       activity with single-cell RNA-Seq." eLife 8 (2019), e43803.
    """
    found = selection_of(source)
    wide, narrow = style.panels(2, ax, across=2, size=(4.2, 3.5))
    if ax is None:
        narrow.set_box_aspect(0.9)  # beside a square that has a strip and a bar
    kept = np.asarray(found.kept, dtype=bool)
    labels = np.asarray(found.labels)[kept]
    rows = np.asarray(found.stack)[kept]
    order = _order(rows, labels)
    distances = _distances(rows[order])
    drawn = style.image(wide, distances, style.MAPS, 0.0, style.vmax_of(distances))
    drawn.set_interpolation("antialiased")  # a thousand starts are more rows than there are dots
    _strips(wide, labels[order])
    style.colorbar(drawn, wide, shrink=0.6, pad=0.03).set_label("Euclidean distance", fontsize=8)
    _histogram(narrow, np.asarray(found.density, dtype=float), kept, float(found.density_threshold))
    return np.asarray([wide, narrow], dtype=object)


def _distances(rows: np.ndarray) -> np.ndarray:
    squares = np.einsum("im,im->i", rows, rows)
    between = squares[:, None] + squares[None, :] - 2.0 * (rows @ rows.T)
    np.fill_diagonal(between, 0.0)
    return np.sqrt(np.maximum(between, 0.0, out=between), out=between)


def _order(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The order of rows by cluster, with similar rows side by side within a cluster."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    order = []
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        if len(members) > 2:
            members = members[leaves_list(linkage(rows[members], "average"))]
        order.append(members)
    return np.concatenate(order) if order else np.empty(0, dtype=int)


def _strips(ax: Axes, labels: np.ndarray) -> None:
    """Draw the colours of the clusters left of the image and above it, with the numbers on the left."""
    from matplotlib.colors import to_rgb

    clusters, first, counts = np.unique(labels, return_index=True, return_counts=True)
    colours = np.asarray([to_rgb(colour) for colour in style.LINES])
    strip = colours[np.searchsorted(clusters, labels) % len(colours)]
    left = ax.inset_axes((-0.05, 0, 0.035, 1))
    above = ax.inset_axes((0, 1.015, 1, 0.035))
    left.imshow(strip[:, None], aspect="auto", interpolation="nearest")
    above.imshow(strip[None], aspect="auto", interpolation="nearest")
    for each in (left, above):
        style.remove_frame(each)
    step = -(-len(clusters) // _NAMED)
    middles = first + (counts - 1) / 2
    style.named_ticks(left.yaxis, middles[::step], clusters[::step], fontsize=7)
    left.tick_params(axis="y", length=0, pad=2)


def _histogram(ax: Axes, density: np.ndarray, kept: np.ndarray, threshold: float) -> None:
    known = np.isfinite(density)
    edges = np.histogram_bin_edges(density[known], bins=40).tolist() if known.any() else 10
    parts = [density[known & kept], density[known & ~kept]]
    names = [f"kept: {int(kept.sum())}", f"filtered: {int((~kept).sum())}"]
    ax.hist(parts, bins=edges, stacked=True, color=[style.BLUE, style.ORANGE], label=names)
    # Spectra of length 1 are less than 2 apart: a threshold from 2 on filters none.
    if threshold < 2:
        farthest = float(density[known].max(initial=0.0))
        beyond = 0 < _MOST_RATIO * farthest < threshold
        label = f"threshold: {threshold:g}" + (", not shown" if beyond else "")
        ax.axvline(threshold, color=style.PALE, lw=1.3, ls="--", label=label)
        if beyond:  # otherwise all densities would be at the left edge
            ax.set_xlim(0, 1.1 * farthest)
    style.despine(ax)
    ax.locator_params(axis="both", nbins=5)
    ax.set_xlabel("mean distance to the nearest spectra", fontsize=9)
    ax.set_ylabel("spectra", fontsize=9)
    style.legend_above(ax)
