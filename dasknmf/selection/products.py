"""Products of V with given usages, in one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dasknmf import data
from dasknmf.core.blocks.base import Tile
from dasknmf.core.phase import PhaseWrapper, Rows, Tally
from dasknmf.core.starts.feature_moments import MomentsPhase, MomentsState
from dasknmf.data.prepared import Prepared
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection.single_read import Usages, checked_usages, single_read


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


def products(X: Prepared, usages: Usages) -> tuple[MomentsState, Tally]:
    """Moments of the features of X, and products of X with usages W, in one read.

    Returns
    -------
    moments : MomentsState
    products : Tally
        In float64: "A", Wᵀ X of shape (n_components, n_features); "G", Wᵀ W; "usage", Wᵀ 1.

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
    state, _, tally = single_read(OpenMatrix.of(data.source_of(X)), phase, k=k, usages=usages)
    return MomentsState.checked(state), tally
