"""What one read tells of V's features: their moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf import engine, inputs, schedulers
from dasknmf.blocks import csr, dense
from dasknmf.features.phase import MomentsPhase
from dasknmf.inputs.prepared import Prepared
from dasknmf.losses import Loss
from dasknmf.panels import Projection
from dasknmf.starts import survey
from dasknmf.store.factors import MemoryFactors


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
    transposed = inputs.rather_transposed(V, parity=False)
    source = inputs.source_of(V, transposed=transposed)
    grid = inputs.grid_of(source)
    dtype = inputs.working_dtype(V.dtype)
    loss = Loss.named("frobenius")
    phase = survey.Surveyed(MomentsPhase(source.shape, transposed), survey.Survey(source.shape, loss))
    scheduler = schedulers.current(in_process=source.in_process)
    n_columns = source.shape[1]
    if source.sparse:
        tiles = csr.scratch_bytes(n_columns, dtype, 0, dense=False)
    else:
        tiles = dense.scratch_bytes(n_columns, dtype)
    Projection(
        baseline=scheduler.baseline,
        threads=min(scheduler.threads, len(grid)),
        slab=source.slab_bytes,
        tiles=tiles,
        rows=0,
        tally=phase.tally().nbytes,
        small=0,
        drawn=0,
        held=0,
        fan_in=engine.FAN_IN,
        staged=0,
    ).check(scheduler.memory_limit)
    one = engine.Pass("moments", (phase,), source, grid, dtype, MemoryFactors(), "", checked=False)
    with scheduler.tuned(), scheduler.mapping() as each:
        (tally,) = engine.tallied(one, scheduler.get, each)
    state, _ = phase.update(tally, {})
    # Of a mean in the range of float64: nothing is multiplied here.
    survey.check(state, loss, source.shape, np.dtype(np.float64), sparse=source.sparse)
    return Moments(
        V.shape[0],
        state["feature means"],
        state["feature squares"] / V.shape[0],
        state["feature nonzeros"].astype(np.int64),
        V.feature_names,
    )
