"""Variants of a fit: masks, weights, fixed rows of H, rows of W that sum to one, hidden entries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Phase
from dasknmf.core.solvers.evaluation import EvaluationPhase
from dasknmf.core.solvers.grams import ByGroup, ByRow, Grams
from dasknmf.core.solvers.held_out import HeldOut
from dasknmf.core.solvers.imputed import ImputedPass, by_rows_pays
from dasknmf.core.solvers.packed_grams import MOST_BYTES, lines_bytes
from dasknmf.core.solvers.quadratic import QuadraticPass
from dasknmf.core.solvers.ratio import RatioPass
from dasknmf.core.solvers.resampled import ResampledPhase, Resampling

_FILLS = 2
"""Updates of W in a pass that imputes missing entries. On Indian Pines, 30 % missing, k = 20, the objective
after 10 passes from random factors was 2.0 with one, 1.63 with two, 1.62 with eight (in 10⁹)."""
_FEW = 2**20
"""Entries of V up to which rounding in products does not average out: in float32 the Gram identity is off by
0.36 eps ‖V‖² for 2400 x 48, 7e-4 of the smallest loss computed by it, and by 0.03 for 21 025 x 200."""
_IN_MEMORY = 2
"""Factor by which Grams by row may cost more than imputation if rows are in memory: there further passes
need no read of V, but imputed passes gain less."""


@dataclass(frozen=True)
class Variant:
    """Properties of a fit, apart from its loss, on which its passes depend.

    Parameters
    ----------
    masked : bool
        Whether entries have weights, or are missing or hidden.
    groups : int or None
        Approximate number of groups of features with a common mask; None: unknown.
    hidden : bool
        Whether entries are hidden from the fit, which then has the loss over them.
    hidden_columns : ndarray of bool of shape (n_features,) or None
        Columns of the hidden block of a sparse V.
    column_weights : ndarray of shape (n_features,) or None
    fixed : ndarray of shape (n_fixed, n_features) or None
        The first rows of H, which are not updated.
    sum_to_one : bool
    in_memory : bool
        Whether the rows are a sample in memory.
    resampling : Resampling or None
        The version of V that the fit sees.
    """

    masked: bool = False
    groups: int | None = None
    hidden: bool = False
    hidden_columns: np.ndarray | None = None
    column_weights: np.ndarray | None = None
    fixed: np.ndarray | None = None
    sum_to_one: bool = False
    in_memory: bool = False
    resampling: Resampling | None = None

    @property
    def n_fixed(self) -> int:
        return 0 if self.fixed is None else len(self.fixed)

    @property
    def of_sample(self) -> Variant:
        """The variant for rows in memory, with NaN where entries are missing or hidden, 0 in sparse rows.

        Sampled entries already contain noise, and each sampled row has weight 1.
        """
        sparse = self.hidden_columns is not None
        masked = self.masked and not sparse
        return replace(
            self, masked=masked, hidden=False, hidden_columns=None, in_memory=True, resampling=None
        )

    def by_rows(self, k: int, n_features: int) -> bool:
        """Whether a quadratic pass has a Gram matrix for each row."""
        if self.hidden_columns is not None:
            return True
        patience = _IN_MEMORY if self.in_memory else 1
        return self.masked and by_rows_pays(k, n_features, self.groups, patience)

    def lines_bytes(self, k: int, n_features: int) -> int:
        """Bytes of the packed products of all features, if Grams by row may be computed from them."""
        nbytes = lines_bytes(n_features, k)
        return nbytes if self.masked and self.hidden_columns is None and nbytes <= MOST_BYTES else 0

    def quadratic(self, phase: QuadraticPass, n_rows: int) -> QuadraticPass | ImputedPass:
        """The exact pass of this variant for the Frobenius loss and a V of `n_rows` rows."""
        by_rows = self.by_rows(phase.k, phase.n_features)
        phase = replace(
            phase,
            grams=self._grams(by_row=by_rows),
            column_weights=self.column_weights,
            n_fixed=self.n_fixed,
            sum_to_one=self.sum_to_one,
            precise=n_rows * phase.n_features <= _FEW,
        )
        return ImputedPass(phase, _FILLS) if self.masked and not by_rows else phase

    def _grams(self, *, by_row: bool) -> Grams:
        if self.hidden_columns is not None:
            return ByGroup(self.hidden_columns)
        return ByRow() if by_row else Grams()

    def ratio(self, phase: RatioPass) -> RatioPass:
        """The exact pass of this variant for any other loss."""
        return replace(
            phase,
            by_row=self.masked,
            column_weights=self.column_weights,
            n_fixed=self.n_fixed,
            grams=self._grams(by_row=self.lines_bytes(phase.k, phase.n_features) > 0),
        )

    def evaluation(
        self, dtype: np.dtype, loss: Loss, penalties: Penalties, exact: QuadraticPass | None = None
    ) -> Phase:
        """The phase that evaluates the returned W and H; a W that is not stored is solved for by `exact`."""
        phase = EvaluationPhase(dtype, loss, penalties, self.column_weights, self.sum_to_one, exact)
        return self.with_holdout(phase, loss)

    def with_holdout(self, phase: Phase, loss: Loss) -> Phase:
        """A pass over the model's version of V, with the loss over hidden entries if there are any."""
        phase = self.seen(phase)
        return HeldOut(phase, loss) if self.hidden else phase

    def seen(self, phase: Phase) -> Phase:
        """A pass over the model's version of V."""
        if self.resampling is None or not phase.reads_data:
            return phase
        return ResampledPhase(phase, self.resampling)
