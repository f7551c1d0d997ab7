"""The exact pass for the quadratic loss where missing entries are imputed from the factors.

With Ω the weights of entries, at most 1, and W, H the current pair::

    V̂ = Ω ∘ V + (1 − Ω) ∘ W H

½ ‖V̂ − W' H'‖² is an upper bound of the weighted loss of any W', H', and equal to the loss at W, H: a step
that lowers the bound lowers the loss [1]_. A step on V̂ needs one Gram matrix for all rows; without
imputation it needs one for each row, whose cost grows with k². The more entries are missing, the less a step
on V̂ lowers the loss; V̂ is computed again before each update of W, while V is in cache.

The loss at the start of the pass comes from the first WH; the loss at its end would need another read of V.

References
----------
.. [1] Zhang, S., Wang, W., Ford, J., & Makedon, F. (2006). Learning from incomplete ratings using
   non-negative matrix factorization. SIAM International Conference on Data Mining.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.phase import Outcome, PhaseWrapper, Rows, Tally
from dasknmf.core.solvers import first_W
from dasknmf.core.solvers.grams import ByRow, totals
from dasknmf.core.solvers.packed_grams import MOST_BYTES, lines_bytes
from dasknmf.core.solvers.quadratic import PassInputs, QuadraticPass
from dasknmf.core.state import FactorState, State

MOST_COMPONENTS = 17
"""k + 1 above which a Gram matrix for each row, at m k (k + 1) flops, costs more than imputation."""


def by_rows_pays(k: int, n_features: int, groups: int | None, patience: int = 1) -> bool:
    """Whether a Gram matrix for each row is cheaper than imputation.

    Parameters
    ----------
    k, n_features : int
    groups : int or None
        Number of groups of features with a common mask; None: each feature may have its own.
    patience : int
        Factor by which Gram matrices by row may cost more.
    """
    pays = (k + 1) * (groups or n_features) <= patience * MOST_COMPONENTS * n_features
    return pays and lines_bytes(n_features, k) <= MOST_BYTES


@dataclass(frozen=True)
class ImputedPass(PhaseWrapper):
    """One read of V: a few updates of W, missing entries being imputed before each, then one of H.

    Parameters
    ----------
    phase : QuadraticPass
        The pass over V̂.
    fills : int
        Number of updates of W, before each of which V̂ is computed.
    """

    phase: QuadraticPass
    fills: int

    def prepare(self, state: State) -> tuple[PassInputs, np.ndarray | None]:
        """Inputs of the pass over V̂ and, for a first W, packed products of H or means of features."""
        inputs = self.phase.prepare(state)
        if not inputs.needs_first_W:
            return inputs, None
        if not self._by_row_once:
            return inputs, state.fill.astype(self.phase.dtype)
        H = FactorState.checked(state).entering_H.astype(np.float64)
        return inputs, ByRow().of_H(
            H, self.phase.column_weights, self.phase.penalties.W.l2, inputs.sum_to_one_weight
        )

    @property
    def _by_row_once(self) -> bool:
        """Whether a first W uses a Gram matrix for each row; otherwise missing entries are column means."""
        return lines_bytes(self.phase.n_features, self.phase.k) <= MOST_BYTES

    def tally(self) -> Tally:
        return Tally(self.phase.tally() | {"imputed": np.zeros(4)})

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        inner, extra = inputs
        phase, W = self.phase, rows["W"]
        observed = tile.nonempty_rows()
        if inner.needs_first_W:
            # Without a W to impute from, a Gram matrix for each row is worth its cost once.
            if self._by_row_once:
                N, _ = phase.system(tile, inner)
                gram = ByRow().of_rows(tile, extra)
            else:
                P = np.broadcast_to(extra, (tile.n_rows, tile.n_features))
                N, gram = phase.system(tile.imputed_from(P), inner)
            exact, positive = phase.first_W_is_exact, not phase.properties.moves_zeros
            first_W.solve(W, N, gram, phase.penalties.W.l1, exact=exact, positive=positive)
        W[~observed] = 0
        entered = (tile.residual(W, inner.H), *totals(tile, W), phase.gap(tile, W, observed))
        tally["imputed"] += entered
        if not inner.needs_first_W:
            for _ in range(self.fills):
                filled = tile.imputed(W, inner.H)
                tally["violation"] += phase.update_rows(filled, W, *phase.system(filled, inner), inner)
                W[~observed] = 0
        phase.add(tile.imputed(W, inner.H), W, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        loss, total, squares, gap = (float(part) for part in tally["imputed"])
        after, surrogate = self.phase.update(tally, state)
        state = FactorState.checked(state)
        H = state.entering_H.astype(np.float64)
        objective = loss + self.phase.penalties.value((total, squares), H, self.phase.column_weights)
        if self.phase.sum_to_one:
            objective += 0.5 * state.sum_to_one_weight * gap
        outcome = replace(
            surrogate,
            loss=loss,
            objective=objective,
            loss_at="solved" if state.needs_first_W else "entry",
            measures={"violation": surrogate.measures["violation"]},
        )
        return FactorState.of(after, residual=False), outcome
