"""What one read tells of V's features: their moments."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from dasknmf import data
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.starts.feature_moments import MomentsPhase, MomentsState
from dasknmf.data.prepared import Prepared
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection.single_read import single_read


@dataclass(frozen=True)
class Moments:
    """Moments of each feature over all samples.

    Parameters
    ----------
    n_samples : int
    mean, variance : ndarray of shape (n_features,), float64
        The variance is that of the samples themselves: Σ (v − mean)² / n_samples, NumPy's ``ddof=0``.
    nonzeros : ndarray of shape (n_features,), int64
        Samples in which the feature is not zero.
    feature_names : ndarray of str or None
    """

    n_samples: int
    mean: np.ndarray
    variance: np.ndarray
    nonzeros: np.ndarray
    feature_names: np.ndarray | None = None

    def std(self, ddof: int = 1) -> np.ndarray:
        """Standard deviation of each feature, shape (n_features,).

        Parameters
        ----------
        ddof : int, default=1
            What is taken off n_samples in the divisor: 1 is what scanpy and cNMF scale with.
        """
        left = self.n_samples - ddof
        if left < 1:
            raise ValueError(
                f"ddof is {ddof} and there are {self.n_samples} samples; more samples than that are needed: "
                "give ddof=0."
            )
        return np.sqrt(self.variance * (self.n_samples / left))

    def to_dataframe(self, feature_names: Any = None) -> Any:
        """One row per feature with columns mean, variance and nonzeros, as a pandas DataFrame.

        Parameters
        ----------
        feature_names : array of str of shape (n_features,), optional
            The index; by default `feature_names` of these moments, or else 0, 1, 2…
        """
        import pandas as pd

        names = self.feature_names if feature_names is None else feature_names
        columns = {"mean": self.mean, "variance": self.variance, "nonzeros": self.nonzeros}
        return pd.DataFrame(columns, index=None if names is None else pd.Index(names))


def moments(X: Any) -> Moments:
    """Mean, variance and nonzeros of each feature, in one read of X by the scheduler that Dask uses.

    Sums are float64 and pooled from deviations, so that features whose mean is large beside their
    spread keep their variance. The same numbers, bit for bit, on any scheduler.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Whatever `NMF.fit` takes, `Prepared` included.

    Returns
    -------
    moments : Moments

    Raises
    ------
    DataError
        If X holds NaN, infinities or negative values.
    MemoryLimitError
        If what is read at a time will not fit in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import moments
    >>> moments(np.array([[0.0, 1.0], [2.0, 1.0]])).variance
    array([1., 0.])
    """
    V = X if isinstance(X, Prepared) else Prepared(X)
    transposed = data.rather_transposed(V, parity=False)
    source = data.source_of(V, transposed=transposed)
    phase = MomentsPhase(source.shape, transposed)
    state = MomentsState.checked(single_read(OpenMatrix.of(source), phase, dtype=working_dtype(V.dtype))[0])
    return Moments(
        V.shape[0],
        state.feature_means,
        state.feature_squares / V.shape[0],
        state.feature_nonzeros.astype(np.int64),
        V.feature_names,
    )


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
