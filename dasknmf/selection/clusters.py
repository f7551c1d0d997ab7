"""Steps of consensus NMF: local density, filter, clusters and medians of spectra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import threadpoolctl
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from dasknmf.errors import DataError
from dasknmf.selection.matching import unit_rows

NO_FILTER = 2.0
"""A threshold that filters nothing: the distance of nonnegative spectra of unit length is at most √2."""


def stacked(spectra: Sequence[np.ndarray]) -> np.ndarray:
    """The spectra of all starts in one array, each scaled to unit length; rows of zeros remain zero.

    Returns
    -------
    stack : ndarray of shape (n_spectra, n_features), float64
    """
    return unit_rows(np.concatenate([np.asarray(each, np.float64) for each in spectra]))


def local_density(stack: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Mean Euclidean distance of each spectrum to its nearest neighbours.

    Parameters
    ----------
    stack : ndarray of shape (n_spectra, n_features)
        Spectra as returned by `stacked`.
    n_neighbors : int

    Returns
    -------
    density : ndarray of shape (n_spectra,), float64
        Infinite for a spectrum of zeros, which is no neighbour of others.

    Raises
    ------
    DataError
        If at most `n_neighbors` spectra are not zero.
    """
    alive = np.flatnonzero(stack.any(axis=1))
    if len(alive) <= n_neighbors:
        raise DataError(
            f"{len(alive)} of {len(stack)} spectra are not zero throughout, and their density is the mean "
            f"distance to {n_neighbors} others: fit fewer components, or give a smaller "
            "local_neighborhood_size."
        )
    density = np.full(len(stack), np.inf)
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute", metric="euclidean")
    density[alive] = search.fit(stack[alive]).kneighbors()[0].mean(axis=1)
    return density


def clustered(stack: np.ndarray, density: np.ndarray, threshold: float, k: int) -> np.ndarray:
    """The cluster of each spectrum by k-means, −1 for filtered spectra.

    Parameters
    ----------
    stack : ndarray of shape (n_spectra, n_features)
    density : ndarray of shape (n_spectra,)
    threshold : float
        Spectra whose density is not below this are filtered.
    k : int

    Returns
    -------
    labels : ndarray of int of shape (n_spectra,)

    Raises
    ------
    DataError
        If fewer than k spectra are left, or fewer than k differ.
    """
    alive = np.isfinite(density)
    kept = alive if threshold >= NO_FILTER else alive & (density < threshold)
    n_kept = int(kept.sum())
    remedy = "fit fewer components"
    if threshold < NO_FILTER:
        remedy = f"give a larger density_threshold ({NO_FILTER:g} keeps all spectra) or {remedy}"
    if n_kept < k:
        raise DataError(
            f"{n_kept} of {len(stack)} spectra have a density below density_threshold={threshold:g}, and {k} "
            f"programs need {k} or more; densities are {_quantiles(density[alive])}: {remedy}."
        )
    labels = np.full(len(stack), -1)
    means = KMeans(k, n_init=10, random_state=1)
    # One thread: k-means joins its threads after each of some hundred short steps. On busy cores 800 x 2000
    # took 3.5 s with two threads and 0.3 s with one.
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        # The number of distinct spectra is checked below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels[kept] = means.fit(stack[kept]).labels_
    n_found = len(np.unique(labels[kept]))
    if n_found < k:
        raise DataError(
            f"the {n_kept} spectra below density_threshold={threshold:g} make {n_found} clusters, and {k} "
            f"programs need {k}; densities are {_quantiles(density[alive])}: {remedy}."
        )
    return labels


def _quantiles(density: np.ndarray) -> str:
    least, *quartiles, most = np.quantile(density, [0, 0.25, 0.5, 0.75, 1])
    return f"{least:.3g} to {most:.3g} with quartiles {', '.join(f'{each:.3g}' for each in quartiles)}"


def medians(stack: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The median of each cluster, feature by feature, scaled to a sum of one.

    Returns
    -------
    spectra : ndarray of shape (k, n_features), float64

    Raises
    ------
    DataError
        If the median of a cluster is zero throughout.
    """
    spectra = np.array([np.median(stack[labels == cluster], axis=0) for cluster in range(k)])
    totals = spectra.sum(axis=1, keepdims=True)
    if not totals.all():
        sizes = np.bincount(labels[labels >= 0], minlength=k)
        raise DataError(
            f"the median of {int(sizes[int(np.argmin(totals))])} spectra in one of {k} clusters is zero "
            "throughout, as they share no feature: give a smaller density_threshold or fewer components."
        )
    return spectra / totals


def silhouette(stack: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Euclidean) of the clustered spectra; NaN for one cluster, or one spectrum in each."""
    kept = labels >= 0
    if not 1 < len(np.unique(labels[kept])) < kept.sum():
        return float("nan")
    return float(silhouette_score(stack[kept], labels[kept]))
