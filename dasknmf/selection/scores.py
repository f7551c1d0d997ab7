"""Scores of features for programs: least squares of standardised features on usages, in one read.

Let Z have the columns z_j = (v_j − μ_j) / σ_j, with the mean μ_j and the standard deviation σ_j of the column
v_j. The coefficients B of min ‖Z − W B‖² solve the normal equations, for which one read of V is enough::

    Wᵀ W B = Wᵀ Z = (Wᵀ V − (Wᵀ 1) μ) diag(σ)⁻¹

Z is dense where V is sparse, and is never computed.
"""

from __future__ import annotations

import numpy as np

from dasknmf.data.prepared import Prepared
from dasknmf.data.source import MatrixLike
from dasknmf.selection.features import Moments
from dasknmf.selection.products import products
from dasknmf.selection.single_read import Usages

_STEADY = 1e-12
"""A standard deviation below this share of the mean is rounding."""


def scores(X: MatrixLike, usages: Usages) -> np.ndarray:
    """z-scores of features for each program: the change per unit of usage, in standard deviations.

    Ordinary least squares without an intercept: each column of X, less its mean and divided by its standard
    deviation (``ddof=0``), on the usages. These are the gene scores of cNMF [1]_. One read of X; memory does
    not grow with the number of rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit` that is stored by rows, `Prepared` included. cNMF takes TPM of all genes,
        ``Prepared(counts, target_sum=1e6)``.
    usages : ndarray, dask.array.Array or zarr.Array of shape (n_samples, n_components)
        cNMF takes the usages of the consensus spectra.

    Returns
    -------
    scores : ndarray of shape (n_components, n_features), float64
        Zero for a feature that is equal in every row. Where usages are collinear, the solution of least norm,
        with each column of usages scaled to unit length.

    Raises
    ------
    ValueError
        If usages have another number of rows than X.
    DataError, MemoryLimitError, SourceError
        As `NMF.fit`.

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.
    """
    return scored(X, usages)[0]


def scored(X: MatrixLike, usages: Usages) -> tuple[np.ndarray, Moments]:
    """The scores, and the moments of the features of X from the same read; see `scores`."""
    X = X if isinstance(X, Prepared) else Prepared(X)
    state, sums = products(X, usages)
    n_rows = X.shape[0]
    mean, variance = state.feature_means, state.feature_squares / n_rows
    std = np.sqrt(variance)
    steady = variance <= _STEADY**2 * mean**2
    cross = sums["A"] - np.outer(sums["usage"], mean)
    cross = np.divide(cross, std, out=np.zeros_like(cross), where=~steady)
    # Usages at unit length: rounding is then equal for small and large ones.
    norms = np.sqrt(sums["G"].diagonal())
    units = np.divide(1.0, norms, out=np.zeros(len(norms)), where=norms > 0)
    G = sums["G"] * units * units[:, None]
    coefficients = units[:, None] * np.linalg.lstsq(G, units[:, None] * cross, rcond=None)[0]
    return coefficients, Moments.of(state, n_rows, X.feature_names)
