"""How much many factorizations of one rank agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dasknmf.selection.matching import stacked, unit_rows

_SAME = 1e-13
"""One minus a cosine below which two directions are the same: the rounding of a sum of products, and an
angle of 4.5e-7."""
MOST_ROWS = 4096
"""Rows of a consensus matrix: 64 MiB of it, and as much in float64 for every pair in the hierarchy."""


def silhouettes(spectra: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean silhouette of each cluster, on the angles between components.

    (b - a) / max(a, b) of a component, with a its mean distance to the others of its cluster and b that to
    the nearest other cluster. The distance is NMFk's, arccos of the cosine, which its threshold of 0.8 is
    made for: unlike one minus the cosine it is a metric, and it is not flat where components are nearly
    parallel. A dead component is at right angles to everything, also to other dead ones: a cluster of these
    has a silhouette of zero. Holds an array of (R n_components)² float64.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)
    labels : ndarray of int of shape (R, n_components)
        As `matched` makes them: one component of each run in each cluster.

    Returns
    -------
    ndarray of shape (n_components,)
        Between -1 and 1, in the order of the clusters. 1 for a single component, which has no other cluster:
        as NMFk has it. NaN for a single run.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a cluster does not hold one component of each run.

    References
    ----------
    Rousseeuw (1987), Silhouettes, J. Comput. Appl. Math. 20, 53-65; Alexandrov et al. (2013).
    """
    H = stacked(spectra)
    runs, k = H.shape[:2]
    labels = np.asarray(labels)
    if labels.shape != (runs, k) or (np.sort(labels, axis=1) != np.arange(k)).any():
        raise ValueError(
            f"labels of shape {labels.shape} do not put one component of each of {runs} runs into each of "
            f"{k} clusters; silhouettes are of such clusters: give what matched(spectra) returns."
        )
    if runs == 1:
        return np.full(k, np.nan)
    if k == 1:
        return np.ones(1)
    # The components of a cluster side by side: a mean over a cluster is one over a block.
    order = np.argsort(labels, axis=1).T
    units = unit_rows(H)[np.arange(runs), order].reshape(k * runs, -1)
    angles = units @ units.T
    angles[angles > 1 - _SAME] = 1.0
    np.arccos(np.maximum(angles, -1.0, out=angles), out=angles)
    np.fill_diagonal(angles, 0.0)
    sums = angles.reshape(k * runs, k, runs).sum(axis=2)
    own = (np.arange(k * runs), np.repeat(np.arange(k), runs))
    a = sums[own] / (runs - 1)
    sums[own] = np.inf
    b = sums.min(axis=1) / runs
    larger = np.maximum(a, b)
    each = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    return np.asarray(each.reshape(k, runs).mean(axis=1))


def instability(spectra: Sequence[np.ndarray]) -> float:
    """The Amari-type dissimilarity of two runs, averaged over all pairs of runs.

    diss(D, D') = (2 k - Σ_j max_i C_ij - Σ_i max_j C_ij) / (2 k), with C_ij the absolute correlation
    (Pearson's, as the authors compute it) of component i of one run and j of the other. A row that is
    constant over its features, such as that of a dead component, correlates with nothing. Holds an
    array of (R n_components)² float64.

    Parameters
    ----------
    spectra : sequence of R arrays of shape (n_components, n_features)

    Returns
    -------
    float
        Between 0, the same components in all runs, and 1; NaN for a single run.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is not finite.

    References
    ----------
    Wu, Joseph, Hammonds, Celniker, Yu & Frise (2016), Stability-driven nonnegative matrix factorization to
    interpret spatial gene expression and build local gene networks, PNAS 113, 4290-4295.
    """
    H = stacked(spectra)
    runs, k, m = H.shape
    if runs == 1:
        return float("nan")
    scaled = unit_rows(H)
    centred = scaled - scaled.mean(axis=2, keepdims=True)
    # Of a constant row rounding would be left, which at length one looks like a spectrum.
    centred[np.linalg.norm(centred, axis=2) < 1e-13] = 0.0
    flat = unit_rows(centred).reshape(runs * k, m)
    C = np.abs(flat @ flat.T).reshape(runs, k, runs, k)
    # What a component has at best in another run; the other sum is this with the runs exchanged.
    best = np.minimum(C.max(axis=3), 1.0).mean(axis=1)
    pairs = ~np.eye(runs, dtype=bool)
    return float(1.0 - best[pairs].mean())


def consensus_matrix(labels: np.ndarray) -> np.ndarray:
    """The share of runs that put two rows of V into one cluster.

    Parameters
    ----------
    labels : ndarray of int of shape (R, n_rows)
        The cluster of each row in each run: the component with its largest usage (Brunet et al. 2004).
        Clusters of different runs need no common names.

    Returns
    -------
    ndarray of float32 of shape (n_rows, n_rows)

    Raises
    ------
    ValueError
        If there are no labels, or more than 4096 rows.
    """
    return _together(labels) / np.float32(len(labels))


def _together(labels: np.ndarray) -> np.ndarray:
    """How many runs put two rows into one cluster: whole numbers."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(
            f"labels have shape {labels.shape}; they are a line of clusters per run: give (runs, rows)."
        )
    n = labels.shape[1]
    if n > MOST_ROWS:
        raise ValueError(
            f"labels are of {n} rows; a consensus matrix has all pairs of them, and at most {MOST_ROWS} "
            "rows: draw so many of them."
        )
    hot = []
    for run in labels:
        names, which = np.unique(run, return_inverse=True)
        hot.append(np.eye(len(names), dtype=np.float32)[which])
    members = np.concatenate(hot, axis=1)
    return members @ members.T


def dispersion(labels: np.ndarray) -> float:
    """The dispersion coefficient of the consensus matrix: Σ_ij 4 (C_ij - 1/2)² / n².

    Parameters
    ----------
    labels : ndarray of int of shape (R, n_rows)
        As for `consensus_matrix`.

    Returns
    -------
    float
        Between 0, all pairs of rows as often together as apart, and 1, the same clusters in all runs. NaN
        for a single run, which always agrees with itself.

    Raises
    ------
    ValueError
        As `consensus_matrix`.

    References
    ----------
    Kim & Park (2007), Sparse non-negative matrix factorizations via alternating non-negativity-constrained
    least squares for microarray data analysis, Bioinformatics 23, 1495-1502.
    """
    C = consensus_matrix(labels)
    if len(labels) == 1:
        return float("nan")
    C -= np.float32(0.5)
    return float(4.0 * np.mean(np.square(C, out=C), dtype=np.float64))


def cophenetic(labels: np.ndarray) -> float:
    """The cophenetic correlation of the consensus matrix.

    The Pearson correlation of the distances 1 - C_ij of rows with the heights at which average linkage joins
    them. Of 4096 rows it takes one to three seconds and 0.3 GB.

    Parameters
    ----------
    labels : ndarray of int of shape (R, n_rows)
        As for `consensus_matrix`.

    Returns
    -------
    float
        1 for the same clusters in all runs, also where there is one cluster and no distance varies. NaN for a
        single run or row, and where all rows are equally far apart by something else.

    Raises
    ------
    ValueError
        As `consensus_matrix`.

    References
    ----------
    Brunet, Tamayo, Golub & Mesirov (2004), Metagenes and molecular pattern discovery using matrix
    factorization, PNAS 101, 4164-4169.
    """
    from scipy.cluster.hierarchy import cophenet, linkage

    counts = _together(labels)
    runs, n = np.shape(labels)
    if runs == 1 or n == 1:
        return float("nan")
    if ((counts == 0) | (counts == runs)).all():
        return 1.0
    distances = np.empty(n * (n - 1) // 2)
    end = 0
    for row in range(n - 1):
        begin, end = end, end + n - 1 - row
        # R (1 - C_ij): in whole numbers equal distances are equal, and are joined in the same order anywhere.
        np.subtract(runs, counts[row, row + 1 :], out=distances[begin:end], dtype=np.float64)
    del counts
    heights = cophenet(linkage(distances, "average"))
    # In place: as few arrays of all pairs as there can be.
    for values in (distances, heights):
        values -= values.mean()
    spread = float(np.sqrt((distances @ distances) * (heights @ heights)))
    if spread <= 1e-12 * len(distances):
        return float("nan")
    return float(np.clip(distances @ heights / spread, -1.0, 1.0))
