"""Clusters of the components of several factorizations, each with one component of each factorization.

The spectra of a factorization are the rows of its H.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

_MOST_ROUNDS = 1000
"""Bound on the rounds of the clustering. A handful is usual, and each raises the sum of cosines."""


def matched(spectra: Sequence[np.ndarray]) -> np.ndarray:
    """Clusters that hold exactly one component of each factorization, as in NMFk [1]_ [2]_.

    Two steps alternate until no label changes. The components of each factorization are assigned one to one
    to the centroids, by the largest sum of cosines; NMFk assigns greedily. Each centroid becomes the mean of
    its components, scaled to unit length. The first centroids are the components of the first factorization,
    which should be the best. Equal spectra give equal clusters: no random numbers are used.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)
        H of each factorization. A row of zeros has cosine 0 with every centroid: it is assigned to a cluster
        without another row of the same H, and does not change the centroid.

    Returns
    -------
    ndarray of int64 of shape (R, n_components)
        The cluster of each component; each row is a permutation.

    References
    ----------
    .. [1] Alexandrov, L. B., Nik-Zainal, S., Wedge, D. C., Campbell, P. J., & Stratton, M. R. (2013).
       Deciphering signatures of mutational processes operative in human cancer. Cell Reports, 3(1).
    .. [2] Nebgen, B. T., Vangara, R., Hombrados-Herrera, M. A., Kuksova, S., & Alexandrov, B. S. (2021). A
       neural network for determination of latent dimensionality in non-negative matrix factorization.
       Machine Learning: Science and Technology, 2(2).
    """
    units = unit_rows(np.asarray(spectra, np.float64))
    labels: np.ndarray = np.empty((0, 0), dtype=np.int64)
    centres, last_total = units[0], -np.inf
    for _ in range(_MOST_ROUNDS):
        assigned = np.empty(units.shape[:2], dtype=np.int64)
        total = 0.0
        for index, cosines in enumerate(centres @ units.transpose(0, 2, 1)):
            cluster, row = linear_sum_assignment(cosines, maximize=True)
            assigned[index, row] = cluster
            total += float(cosines[cluster, row].sum())
        # Neither step lowers the total. Equal totals are a tie, which could alternate for ever.
        if np.array_equal(assigned, labels) or total <= last_total:
            break
        labels, last_total = assigned, total
        by_cluster = np.take_along_axis(units, np.argsort(labels, axis=1)[..., None], axis=1)
        centres = unit_rows(by_cluster.sum(axis=0))
    return labels


def centroids(spectra: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """One spectrum for each cluster: the mean of its spectra at unit length, scaled to their median length.

    The length of a spectrum is arbitrary, as its column of W may hold any factor. Rows of zeros are left out.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)
    labels : ndarray of int of shape (R, n_components)
        The cluster of each component, as `matched` returns it.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        Zero for a cluster of rows of zeros.
    """
    H = np.asarray(spectra, np.float64)
    lengths = np.linalg.norm(H, axis=2)
    units = unit_rows(H)
    means = np.zeros(H.shape[1:])
    for cluster, mean in enumerate(means):
        inside = (labels == cluster) & (lengths > 0)
        if inside.any():
            mean[:] = units[inside].mean(axis=0)
            mean *= np.median(lengths[inside]) / float(np.linalg.norm(mean))
    return means


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows, along the last axis, scaled to unit length; rows of zeros remain zero."""
    # Scaled by the largest entry first, as squares overflow float64 from 1e154 on.
    top = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = rows / np.where(top > 0, top, 1.0)
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))
