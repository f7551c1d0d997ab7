"""Products of V with given usages, in one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dasknmf import data
from dasknmf.core.blocks.base import Tile
from dasknmf.core.phase import Outcome, PhaseWrapper, Rows, Tally
from dasknmf.core.starts.feature_moments import MomentsPhase, MomentsState
from dasknmf.core.state import Array1, Array2, State
from dasknmf.data.prepared import Prepared
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection.single_read import Usages, checked_usages, single_read


@dataclass(frozen=True, kw_only=True, eq=False)
class Products(MomentsState):
    """Moments of the features of V, and products of V with usages W.

    Parameters
    ----------
    A : ndarray of shape (n_components, n_features)
        Wᵀ V.
    G : ndarray of shape (n_components, n_components)
        Wᵀ W.
    usage : ndarray of shape (n_components,)
        Wᵀ 1.
    """

    A: Array2
    G: Array2
    usage: Array1


@dataclass(frozen=True)
class _ProductsPhase(PhaseWrapper):
    """A `MomentsPhase` that adds the products of V with usages."""

    k: int
    n_features: int

    name = "products"

    def tally(self) -> Tally:
        k = self.k
        products = Tally.zeros({"A": (k, self.n_features), "G": (k, k), "usage": (k,)})
        return Tally(self.phase.tally() | products)

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, inputs, tally)
        W = rows["W"]
        tile.add_cross(W, tally["A"])
        tally["G"] += W.T @ W
        tally["usage"] += W.sum(axis=0)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state, outcome = self.phase.update(tally, state)
        return Products.of(state, **{name: tally[name] for name in ("A", "G", "usage")}), outcome


def products(X: Prepared, usages: Usages) -> Products:
    """Products of X with usages, float64, in one read; see `Products`.

    Raises
    ------
    ValueError
        If usages have another number of rows than X.
    DataError, MemoryLimitError, SourceError
        As `NMF.fit`.
    """
    usages = checked_usages(usages, X.shape)
    k = int(usages.shape[1])
    phase = _ProductsPhase(MomentsPhase(X.shape, transposed=False), k, X.shape[1])
    return Products.checked(single_read(OpenMatrix.of(data.source_of(X)), phase, k=k, usages=usages)[0])
