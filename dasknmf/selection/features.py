"""Moments of features, and the features that vary most."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dasknmf import data
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.starts.feature_moments import MomentsPhase, MomentsState
from dasknmf.core.text import counted
from dasknmf.data.prepared import Prepared
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection.single_read import single_read

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Moments:
    """Moments of each feature over all samples.

    Parameters
    ----------
    n_samples : int
    mean, variance : ndarray of shape (n_features,), float64
        The variance is Σ (v − mean)² / n_samples, NumPy's ``ddof=0``.
    nonzeros : ndarray of shape (n_features,), int64
        Number of samples in which the feature is not zero.
    feature_names : ndarray of str or None
    """

    n_samples: int
    mean: np.ndarray
    variance: np.ndarray
    nonzeros: np.ndarray
    feature_names: np.ndarray | None = None

    @classmethod
    def of(cls, state: MomentsState, n_samples: int, feature_names: np.ndarray | None) -> Moments:
        """The moments in the state of a pass."""
        variance, nonzeros = state.feature_squares / n_samples, state.feature_nonzeros.astype(np.int64)
        return cls(n_samples, state.feature_means, variance, nonzeros, feature_names)

    def std(self, ddof: int = 1) -> np.ndarray:
        """Standard deviation of each feature, shape (n_features,).

        Parameters
        ----------
        ddof : int, default=1
            The divisor is n_samples − ddof; scanpy and cNMF use 1.

        Raises
        ------
        ValueError
            If `ddof` is not below n_samples.
        """
        divisor = self.n_samples - ddof
        if divisor < 1:
            raise ValueError(
                f"ddof is {ddof} and X has {counted(self.n_samples, 'sample')}; there must be more samples "
                "than ddof: give ddof=0."
            )
        return np.sqrt(self.variance * (self.n_samples / divisor))

    def to_dataframe(self, feature_names: ArrayLike | None = None) -> pd.DataFrame:
        """A pandas DataFrame with one row per feature and columns mean, variance and nonzeros.

        Parameters
        ----------
        feature_names : array of str of shape (n_features,), optional
            The index; by default `feature_names` of these moments, or else 0, 1, 2…
        """
        import pandas as pd

        names = self.feature_names if feature_names is None else feature_names
        columns = {"mean": self.mean, "variance": self.variance, "nonzeros": self.nonzeros}
        return pd.DataFrame(columns, index=None if names is None else pd.Index(names))


def moments(X: MatrixLike) -> Moments:
    """Mean, variance and number of nonzeros of each feature, in one read of X.

    Sums are float64. Variances are pooled from deviations, which keeps their precision where the mean is much
    larger than the spread. All schedulers of Dask give the same numbers, bit for bit.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit`, `Prepared` included.

    Returns
    -------
    moments : Moments

    Raises
    ------
    DataError
        If X holds NaN, infinities or negative values.
    MemoryLimitError
        If one slab of X and its moments do not fit in memory.

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
    state = single_read(OpenMatrix.of(source), phase, dtype=working_dtype(V.dtype))[0]
    return Moments.of(MomentsState.checked(state), V.shape[0], V.feature_names)


_LARGEST = 20
"""Number of features of largest mean, among which A is the smallest √variance / mean."""
_TRIMMED = (0.1, 0.9)
"""Quantiles of mean and F between which features take part in B²."""


def highly_variable(moments: Moments, n_top: int = 2000) -> np.ndarray:
    """The features with the largest excess of variance over the variance expected from their mean [1]_.

    The rule is that of cNMF. The Fano factor of a feature is F = variance / mean, and its expected value is
    A² mean + B²: A is the smallest √variance / mean among the 20 features with the largest mean, B² is the
    median F of the features whose mean and F both lie between their 10th and 90th percentiles. The features
    with the largest F / (A² mean + B²) are chosen.

    Parameters
    ----------
    moments : Moments
        Moments of normalised counts; cNMF uses ``moments(Prepared(X, target_sum=1e6))``.
    n_top : int, default=2000
        Number of features to choose; fewer if fewer are nonzero. Features that are zero in all samples are
        never chosen and do not count in percentiles.

    Returns
    -------
    mask : ndarray of bool of shape (n_features,)
        True for the chosen features.

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

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import highly_variable, moments
    >>> X = np.random.default_rng(0).poisson(5.0, size=(200, 30)).astype(float)
    >>> X[:100, 7] *= 4  # varies between two groups of samples
    >>> int(np.flatnonzero(highly_variable(moments(X), n_top=1))[0])
    7
    """
    if not isinstance(n_top, Integral) or n_top < 1:
        raise ValueError(f"n_top is {n_top!r}; it is a number of features: give an integer of at least 1.")
    present = np.flatnonzero(moments.mean > 0)
    mean, variance = moments.mean[present], moments.variance[present]
    fano = variance / mean
    largest = np.argsort(-mean, kind="stable")[:_LARGEST]
    A = np.min(np.sqrt(variance[largest]) / mean[largest], initial=np.inf)
    ordinary = _inside(mean) & _inside(fano)
    if not ordinary.any():
        raise ValueError(
            f"none of {len(present)} features that are not zero throughout has a mean and a variance / mean "
            f"between the {_TRIMMED[0]:.0%} and {_TRIMMED[1]:.0%} quantiles, from which the expected "
            "variance is estimated: choose features in another way."
        )
    expected = A**2 * mean + np.median(fano[ordinary])
    # Stable: of equal features the first are chosen.
    order = np.argsort(-fano / expected, kind="stable")[:n_top]
    mask = np.zeros(len(moments.mean), dtype=bool)
    mask[present[order]] = True
    return mask


def _inside(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(0, dtype=bool)
    low, high = np.quantile(values, _TRIMMED)
    return (values > low) & (values < high)
