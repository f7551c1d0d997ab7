"""Which features vary more than their mean explains."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from dasknmf.features.moments import Moments

_LARGEST = 20
"""Features of largest mean, the steadiest of which tells how much all samples vary together."""
_TRIMMED = (0.1, 0.9)
"""Quantiles of means and of Fano factors between which features are ordinary."""


def highly_variable(moments: Moments, n_top: int = 2000) -> np.ndarray:
    """The features that vary most beyond what their mean explains, by the rule of cNMF [1]_.

    With the Fano factor F = variance / mean of each feature, A the smallest √variance / mean among the
    20 features of largest mean, and B² the median F of features whose mean and F both lie inside their
    10th and 90th percentiles, F is expected to be A² mean + B²: noise in proportion to the mean, and what
    varies with whole samples. The features of largest F / expected F are taken.

    Parameters
    ----------
    moments : Moments
        Of normalised counts: cNMF's are ``moments(Prepared(X, target_sum=1e6))``.
    n_top : int, default=2000
        How many to take. Features that are zero throughout are never taken, nor do they count in
        percentiles; where fewer are left, all of these are taken.

    Returns
    -------
    mask : ndarray of bool of shape (n_features,)

    Raises
    ------
    ValueError
        If `n_top` is below 1, or no feature lies inside the percentiles.

    Notes
    -----
    cNMF then factorizes the chosen columns of the counts, each divided by its standard deviation::

        chosen = highly_variable(moments(Prepared(X, target_sum=1e6)), 2000)
        V = Prepared(X, columns=chosen, scale=moments(X).std()[chosen])

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.
    """
    if not isinstance(n_top, Integral) or n_top < 1:
        raise ValueError(f"n_top is {n_top!r}; it must be a whole number of features: give 1 or more.")
    present = np.flatnonzero(moments.mean > 0)
    mean, variance = moments.mean[present], moments.variance[present]
    fano = variance / mean
    largest = np.argsort(-mean, kind="stable")[:_LARGEST]
    A = np.min(np.sqrt(variance[largest]) / mean[largest], initial=np.inf)
    ordinary = _inside(mean) & _inside(fano)
    if not ordinary.any():
        raise ValueError(
            f"none of {len(present)} features that are not zero throughout has its mean and its variance / "
            f"mean inside the {_TRIMMED[0]:.0%} to {_TRIMMED[1]:.0%} quantiles of all; the expected variance "
            "cannot be told from so few: choose features in another way."
        )
    expected = A**2 * mean + np.median(fano[ordinary])
    # Stable, so that of equal features the first are taken.
    order = np.argsort(-fano / expected, kind="stable")[:n_top]
    mask = np.zeros(len(moments.mean), dtype=bool)
    mask[present[order]] = True
    return mask


def _inside(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(0, dtype=bool)
    low, high = np.quantile(values, _TRIMMED)
    return (values > low) & (values < high)
