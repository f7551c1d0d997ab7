"""Which features mark a program: least squares of standardised features on usages, in one read.

With z_j the column v_j less its mean μ_j and divided by its standard deviation σ_j, the coefficients of
min ‖Z − W B‖² are those of the normal equations, for which one read of V is enough::

    Wᵀ W B = Wᵀ Z = (Wᵀ V − (Wᵀ 1) μ) diag(σ)⁻¹

Z, which has no zeros, is never made: neither the matrix nor a tile of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf import data
from dasknmf.core.blocks.base import Tile
from dasknmf.core.phase import Outcome, PhaseWrapper, Rows, Tally
from dasknmf.core.starts.feature_moments import MomentsPhase, MomentsState
from dasknmf.core.state import Array1, Array2, State
from dasknmf.data.prepared import Prepared
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection.features import Moments
from dasknmf.selection.single_read import Usages, checked_usages, single_read

_STEADY = 1e-12
"""A standard deviation below this share of the mean is rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScoresState(MomentsState):
    """Moments of V's features, A = Wᵀ V, G = Wᵀ W and Wᵀ 1."""

    A: Array2
    G: Array2
    usage: Array1


@dataclass(frozen=True)
class _ScoresPhase(PhaseWrapper):
    """The moments of V's features, and their products with usages."""

    k: int
    n_features: int

    def tally(self) -> Tally:
        shapes: dict[str, tuple[int, ...]] = {
            "A": (self.k, self.n_features),
            "G": (self.k, self.k),
            "usage": (self.k,),
        }
        return Tally(self.phase.tally() | Tally.zeros(shapes))

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, inputs, tally)
        W = rows["W"]
        tile.add_cross(W, tally["A"])
        tally["G"] += W.T @ W
        tally["usage"] += W.sum(axis=0)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state, outcome = self.phase.update(tally, state)
        return _ScoresState.of(state, **{name: tally[name] for name in ("A", "G", "usage")}), outcome


def scores(X: MatrixLike, usages: Usages) -> np.ndarray:
    """z-scores of features for each program: by how many standard deviations a unit of usage moves them.

    Ordinary least squares, without an intercept, of X's columns, each less its mean and divided by its
    standard deviation (``ddof=0``), on the usages: the gene scores of cNMF [1]_. One read of X, whose
    rows stay sparse where they are; memory does not grow with the number of rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Whatever `NMF.fit` takes, `Prepared` included, except for what is stored by columns. cNMF's is TPM
        of all genes, ``Prepared(counts, target_sum=1e6)``.
    usages : ndarray, dask.array.Array or zarr.Array of shape (n_samples, n_components)
        cNMF's are those of the consensus spectra, as they are.

    Returns
    -------
    scores : ndarray of shape (n_components, n_features), float64
        Zero for a feature that is the same in every row; where usages are collinear, those of least norm in
        units of each usage's own.

    Raises
    ------
    ValueError
        If usages are not of X's rows.
    DataError, MemoryLimitError, SourceError
        As `NMF.fit`.

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.
    """
    return scored(X, usages)[0]


def scored(X: MatrixLike, usages: Usages) -> tuple[np.ndarray, Moments]:
    """The scores, and the moments of X's features, from the same read; see `scores`."""
    X = X if isinstance(X, Prepared) else Prepared(X)
    usages = checked_usages(usages, X.shape)
    n_rows, n_features = X.shape
    k = int(usages.shape[1])
    phase = _ScoresPhase(MomentsPhase(X.shape, transposed=False), k, n_features)
    V = OpenMatrix.of(data.source_of(X))
    state = _ScoresState.checked(single_read(V, phase, k=k, usages=usages)[0])
    mean, variance = state.feature_means, state.feature_squares / n_rows
    std = np.sqrt(variance)
    steady = variance <= _STEADY**2 * mean**2
    cross = state.A - np.outer(state.usage, mean)
    cross = np.divide(cross, std, out=np.zeros_like(cross), where=~steady)
    # Programs in units of their own norm: rounding is then the same for large and small.
    norms = np.sqrt(state.G.diagonal())
    units = np.divide(1.0, norms, out=np.zeros(k), where=norms > 0)
    G = state.G * units * units[:, None]
    found = units[:, None] * np.linalg.lstsq(G, units[:, None] * cross, rcond=None)[0]
    nonzeros = state.feature_nonzeros.astype(np.int64)
    return found, Moments(n_rows, mean, variance, nonzeros, X.feature_names)
