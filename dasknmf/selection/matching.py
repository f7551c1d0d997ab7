"""Which components of many factorizations are the same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

_MOST = 1000
"""Rounds of the clustering; a handful is usual, and each raises what it maximizes."""


def matched(spectra: Sequence[np.ndarray]) -> np.ndarray:
    """Clusters that hold exactly one component of each run.

    The clustering of NMFk: each run is matched one to one with the centroids, by cosine; a centroid is the
    mean of its components at length one; both in turn until no assignment changes. NMFk matches greedily,
    here the sum of the cosines is the largest there is. The first centroids are the components of the first
    run: give the best run there. The same spectra make the same clusters.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)
        H of each run. Rows of zeros, dead components, have cosine 0 with everything: they take what
        is left over, and do not move a centroid.

    Returns
    -------
    ndarray of int64 of shape (R, n_components)
        The cluster of each row of each run; a row of this is a permutation.

    Raises
    ------
    ValueError
        If there is no run, a value is not finite, or the shapes differ.

    References
    ----------
    Alexandrov, Nik-Zainal, Wedge, Campbell & Stratton (2013), Deciphering signatures of mutational processes
    operative in human cancer, Cell Reports 3, 246-259. Nebgen et al. (2021), A neural network for
    determination of latent dimensionality in non-negative matrix factorization, Machine Learning: Science
    and Technology 2.
    """
    units = unit_rows(stacked(spectra))
    labels: np.ndarray = np.empty((0, 0), dtype=np.int64)
    centres, before = units[0], -np.inf
    for _ in range(_MOST):
        found = np.empty(units.shape[:2], dtype=np.int64)
        reached = 0.0
        for run, cosines in enumerate(centres @ units.transpose(0, 2, 1)):
            cluster, row = linear_sum_assignment(cosines, maximize=True)
            found[run, row] = cluster
            reached += float(cosines[cluster, row].sum())
        # Neither step lowers the sum: what does not raise it is a tie, which could change places for ever.
        if np.array_equal(found, labels) or reached <= before:
            break
        labels, before = found, reached
        centres = unit_rows(_ordered(units, labels).sum(axis=0))
    return labels


def _ordered(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows of each run in the order of their clusters."""
    return np.take_along_axis(rows, np.argsort(labels, axis=1)[..., None], axis=1)


def centroids(
    spectra: Sequence[np.ndarray], labels: np.ndarray, *, average: Literal["mean", "median"] = "mean"
) -> np.ndarray:
    """One spectrum for each cluster.

    A component of a run is known up to a factor, which its column of W takes: rows are brought to length
    one, averaged, and the average is given the median length of its rows. Dead components are left out.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)
    labels : ndarray of int of shape (R, n_components)
        The cluster of each row, from 0; -1 where a row is in none.
    average : {"mean", "median"}, default="mean"
        Of each feature. The mean is NMFk's; the median, cNMF's, bears strangers in a cluster.

    Returns
    -------
    ndarray of shape (n_clusters, n_features)
        Zero where all of a cluster are dead.

    Raises
    ------
    ValueError
        If the average is unknown, or the labels do not fit.
    """
    if average not in ("mean", "median"):
        raise ValueError(f"average is {average!r}; it must be 'mean' or 'median': choose one.")
    H = stacked(spectra)
    labels = np.asarray(labels)
    if labels.shape != H.shape[:2]:
        raise ValueError(
            f"labels have shape {labels.shape} and there are {H.shape[0]} runs of {H.shape[1]} components; "
            "each component needs one: give an array of that shape."
        )
    lengths = np.linalg.norm(H, axis=2)
    units = unit_rows(H)
    made = np.zeros((int(labels.max()) + 1, H.shape[2]))
    for cluster, row in enumerate(made):
        inside = (labels == cluster) & (lengths > 0)
        if not inside.any():
            continue
        row[:] = getattr(np, average)(units[inside], axis=0)
        length = float(np.linalg.norm(row))
        if length > 0:  # of features that are nowhere in half of the rows the median is zero
            row *= np.median(lengths[inside]) / length
    return made


def matched_cosines(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """How well two H agree: cosines of the one-to-one matching of their rows with the largest sum.

    Parameters
    ----------
    A, B : ndarray of shape (n_components, n_features)

    Returns
    -------
    ndarray of shape (n_components,)
        In the order of the rows of `A`; 0 for a dead component.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is not finite.
    """
    first, second = unit_rows(stacked([A, B]))
    cosines = first @ second.T
    return cosines[linear_sum_assignment(cosines, maximize=True)]


def stacked(spectra: Sequence[np.ndarray]) -> np.ndarray:
    """The runs as one float64 array of shape (R, n_components, n_features).

    Raises
    ------
    ValueError
    """
    if len(spectra) == 0:
        raise ValueError("there is no run; components are compared between runs: give one or more H.")
    shapes = sorted({np.shape(each) for each in spectra})
    if len(shapes) > 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(
            f"spectra have the shapes {shapes}; every run has one H (n_components, n_features), all of one "
            "shape: compare runs of one rank on the same features."
        )
    runs = np.asarray(spectra, dtype=np.float64)
    if not np.isfinite(runs).all():
        bad = np.flatnonzero(~np.isfinite(runs).all(axis=(1, 2))).tolist()
        raise ValueError(
            f"spectra of the runs {bad} hold NaN or infinity; cosines need numbers: leave them out."
        )
    return runs


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows, along the last axis, at length one; zeros stay."""
    # By the largest entry first: squares of float64 leave its range at 1e154.
    top = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = rows / np.where(top > 0, top, 1.0)
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))
