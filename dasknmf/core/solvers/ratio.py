"""The exact pass for β ≠ 2: multiplicative steps, whose sums over V depend on W as well.

::

    P = W H;   W ← step(a = (V ∘ P^{β−2}) Hᵀ, b = P^{β−1} Hᵀ)      each step costs 4 n m k flops
    P = W H;   A += Wᵀ (V ∘ P^{β−2}),  B += Wᵀ P^{β−1}
    H ← step(A, B)

Of n × m entries and k components, a and b are n × k, A and B k × m. For β = 1, b and B are the sums of H and
of W, over observed entries only if entries have weights. The loss of the pair at the *start* of the pass
comes from the first P; the loss after the update of H would need another read of V, so the history has the
loss at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dasknmf.core.blocks.base import Ratio, Tile
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Outcome, Phase, Rows, Tally, finite
from dasknmf.core.solvers import first_W, mu
from dasknmf.core.solvers.grams import Grams, totals, weighted_rows
from dasknmf.core.solvers.inner_steps import Inner
from dasknmf.core.state import FactorState, State


@dataclass(frozen=True)
class PassInputs:
    """Inputs that all tiles of a pass share."""

    H: np.ndarray
    Ht: np.ndarray
    sums: np.ndarray
    """ΣH over features, shape (k,): the denominator for β = 1."""
    eps: float
    tiny: float
    guess: first_W.Guess | None
    """Matrices for the guess of the first W; None if W exists."""


@dataclass(frozen=True)
class RatioPass(Phase):
    """The exact pass: one read of V, in which W is updated row by row, then H."""

    k: int
    n_features: int
    dtype: np.dtype
    loss: Loss
    inner: Inner
    penalties: Penalties = Penalties()
    exact_l2: bool = True
    """Whether updates with an l2 penalty never increase the objective (False: scikit-learn's form)."""
    by_row: bool = False
    """Whether entries have weights."""
    column_weights: np.ndarray | None = None
    n_fixed: int = 0
    """Number of first rows of H that are not updated."""
    grams: Grams = Grams()
    """The Gram matrices of the quadratic guess of the first W."""

    name = "exact"
    first_steps: ClassVar[int] = first_W.STEPS
    """Number of steps from the guess to the first W."""

    @property
    def n_turns(self) -> int:
        """The number of passes in which every component has its turn: 1 unless blocks take turns."""
        return 1

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k}

    def prepare(self, state: State) -> PassInputs:
        state = FactorState.checked(state)
        H = state.entering_H.astype(self.dtype, copy=False)
        b = self.column_weights
        bH = H if b is None else (H * b).astype(self.dtype)
        guess = first_W.Guess.of(H, self.loss, self.grams, b) if state.needs_first_W else None
        return PassInputs(
            H=H,
            Ht=np.ascontiguousarray(bH.T),
            sums=bH.sum(axis=1, dtype=np.float64).astype(self.dtype),
            eps=state.eps,
            tiny=state.tiny,
            guess=guess,
        )

    @property
    def _summed(self) -> bool:
        """Whether denominators are sums of the other factor."""
        return self.loss.beta == 1 and not self.by_row

    def tally(self) -> Tally:
        k, m = self.k, self.n_features
        B = (k,) if self._summed else (k, m)
        return Tally.zeros({"A": (k, m), "B": B, "usage": (k,), "entry": (3,)})

    def tile(self, tile: Tile, rows: Rows, inputs: PassInputs, tally: Tally) -> None:
        W = rows["W"]
        beta = self.loss.beta
        if inputs.guess is not None:
            inputs.guess(W, tile)
            for _ in range(self.first_steps):
                W[:] = self.updated_rows(W, tile.ratio(W, inputs.H, beta, inputs.eps), inputs)
        ratio = tile.ratio(W, inputs.H, beta, inputs.eps)
        tally["entry"] += (ratio.loss(), *totals(tile, W))
        first_moved = np.zeros(0)
        going = np.ones(len(W), bool)
        for step in range(self.inner.rows):
            there = self.updated_rows(W, ratio, inputs)
            moved = ((there - W) ** 2).sum(axis=1, dtype=np.float64)
            W[going] = there[going]
            if step == 0:
                first_moved = moved
            going &= (moved > 0) & (moved >= self.inner.delta**2 * first_moved)
            ratio = tile.ratio(W, inputs.H, beta, inputs.eps)
            if not going.any():
                break
        self.add(tile, W, ratio, inputs, tally)

    def add(self, tile: Tile, W: np.ndarray, ratio: Ratio, inputs: PassInputs, tally: Tally) -> None:
        """Add a tile's share to the sums for the update of H, from its updated rows and their ratio."""
        aW = weighted_rows(tile, W)
        ratio.add_numerator(aW, tally["A"])
        usage = (np.ones(len(W), W.dtype) @ aW).astype(np.float64)
        tally["usage"] += usage
        if self._summed:
            tally["B"] += usage
        else:
            ratio.add_denominator(aW, tally["B"])

    def fraction(self, ratio: Ratio, inputs: PassInputs) -> tuple[np.ndarray, np.ndarray]:
        """a and b of a tile's rows; b has one row if all share it."""
        b = inputs.sums if self._summed else ratio.denominator_rows(inputs.Ht)
        return ratio.numerator_rows(inputs.Ht), b

    def updated_rows(self, W: np.ndarray, ratio: Ratio, inputs: PassInputs) -> np.ndarray:
        """The rows of W after one step."""
        a, b = self.fraction(ratio, inputs)
        there = mu.step(W, a, b, mu.Objective(self.loss, self.penalties.W, self.exact_l2), inputs.eps)
        if self.loss.beta < 1:
            there[there < inputs.tiny] = 0
        return there

    def updated_H(self, H: np.ndarray, tally: Tally, state: FactorState) -> np.ndarray:
        """H after one step, float64."""
        B = tally["B"][:, None] if self._summed else tally["B"]
        objective = mu.Objective(self.loss, self.penalties.H, self.exact_l2)
        return mu.step(H, tally["A"], B, objective, state.eps)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        beta = self.loss.beta
        state = FactorState.checked(state)
        H_in = state.entering_H.astype(np.float64)
        H = self.updated_H(H_in, tally, state)
        if beta <= 1:
            H[state.tiny > H] = 0
        H[: self.n_fixed] = H_in[: self.n_fixed]
        if state.observed is not None:
            H[self.n_fixed :, state.observed == 0] = 0
        divergence, *W_in = (float(part) for part in tally["entry"])
        loss = divergence + state.constant
        value = loss + self.penalties.value((W_in[0], W_in[1]), H_in, self.column_weights)
        after = FactorState.of(
            state,
            H=finite(H.astype(self.dtype)),
            pending_H=None,
            usage=tally["usage"],
            iteration=state.iteration + 1,
        )
        return after, Outcome(loss, value, "solved" if state.needs_first_W else "entry")
