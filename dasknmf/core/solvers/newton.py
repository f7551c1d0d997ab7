"""Newton's steps for the Kullback–Leibler divergence: second order, and they never raise the objective.

For one column h of H (rows of W likewise) with p = W h, v the column of V and s = Wᵀ 1::

    A = Wᵀ (v / p)      gradient g = s − A      Hessian T = Wᵀ diag(v / p²) W

V is read once for A and T. Since p_i changes by the factor 1 + t_i, t_i = w_i·d / p_i, which is a mean of
the d_q / h_q with the weights w_iq h_q / p_i (terms with h_q = 0 are not negative), a step d ≥ −ρ h has
t_i ≥ −ρ. There

    −log(1 + t) ≤ −t + κ t²      κ = (−log(1 − ρ) − ρ) / ρ²

as (t − log(1 + t)) / t² falls in t. Let d minimise Newton's model gᵀd + ½ dᵀTd under d ≥ −ρ h, a nonnegative
least squares problem in d + ρ h. By optimality gᵀd ≤ −dᵀTd, and so::

    D(h + d) ≤ D(h) + gᵀd + κ dᵀTd ≤ D(h) − (1 − κ) dᵀTd

ρ = 2/3 has κ = .972: the whole step is taken, without a line search or another read. An entry may leave
zero, and a step of Newton leaves it at least a third of itself. Far from the minimum the multiplicative step
can be the better one: each column takes it where the decrease that it guarantees is larger than the one that
Newton's model predicts. L1 is linear and L2 quadratic, so the model has both exactly. As elsewhere, p is at
least eps, and entries below `tiny` become 0.

Where T of all components would take too much memory, each pass has T of one group of components in turn,
and the other components rest where Newton's step is the better one.

References
----------
Hien, L. T. K., & Gillis, N. (2021). Algorithms for nonnegative matrix factorization with the
Kullback–Leibler divergence. Journal of Scientific Computing, 87(3): scalar Newton steps, with a bound of
the same kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import xlogy

from dasknmf.core.blocks.base import Ratio, Tile
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalty
from dasknmf.core.phase import Tally
from dasknmf.core.solvers import mu, nnls
from dasknmf.core.solvers.columns import mapped, parts_of
from dasknmf.core.solvers.packed_grams import (
    Packed,
    add_to_diagonals,
    lines_bytes,
    packed_products,
)
from dasknmf.core.solvers.ratio import PassInputs, RatioPass
from dasknmf.core.state import FactorState, State

_SHRINKAGE = 2 / 3
"""ρ: the largest share of itself that an entry loses in a step; κ is below 1 up to .683."""
_CURVATURE = (-math.log(1 - _SHRINKAGE) - _SHRINKAGE) / _SHRINKAGE**2
"""κ: the coefficient of t² in the bound."""
_MOST_BYTES, _MOST_COMPONENTS = 2**26, 32
"""Largest Hessians of all features in bytes, and largest group: the cost grows with its square."""
_DIVERGENCE = Loss(1.0)


def step(
    F: np.ndarray,
    A: np.ndarray,
    sums: np.ndarray,
    T: np.ndarray,
    penalty: Penalty,
    free: slice,
    eps: float,
    n_fixed: int = 0,
) -> np.ndarray:
    """The rows of a factor after one step.

    Parameters
    ----------
    F, A : ndarray of shape (n_rows, n_components)
        The factor, W or Hᵀ, and (V / P) Hᵀ or its counterpart.
    sums : ndarray of shape (n_components,) or (n_rows, n_components)
        Sums of the other factor.
    T : ndarray of shape (n_rows, size)
        Upper triangles of the Hessians of the free components.
    penalty : Penalty
        Of F.
    free : slice
        The components that Newton's step changes.
    eps : float
        Replaces a denominator of zero in the multiplicative step.
    n_fixed : int
        Number of first components that no step changes.
    """
    there = mu.step(F, A, sums, mu.Objective(_DIVERGENCE, penalty), eps)
    there[:, :n_fixed] = F[:, :n_fixed]
    costs = sums + penalty.l1
    here = F[:, free]
    gradient = (costs + penalty.l2 * F - A)[:, free]
    if penalty.l2:
        T = np.array(T, order="K")
        add_to_diagonals(T, penalty.l2)
    hessians = Packed(T)
    shifted = _SHRINKAGE * here
    target = hessians.times(shifted) - gradient
    nnls.solve(shifted, target, hessians, 0.0)
    d = shifted - _SHRINKAGE * here
    slope = -_line_sums(d * gradient)
    curved = _line_sums(d * hessians.times(d))
    falls = xlogy(A * F, np.divide(there, F, out=np.ones_like(F), where=F > 0))
    falls += costs * (F - there) + 0.5 * penalty.l2 * (F * F - there * there)
    # The second condition is the bound, for a solution that is not exact.
    better = np.flatnonzero((slope - 0.5 * curved > _line_sums(falls)) & (slope >= _CURVATURE * curved))
    # An entry that P does not depend on rests in the model: the multiplicative step knows its best value.
    moved = np.where(hessians.diagonals > 0, np.maximum(here + d, 0), there[:, free])
    there[better] = F[better]
    there[better, free] = moved[better]
    return there


def _line_sums(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.sum(axis=1, dtype=np.float64))


@dataclass(frozen=True)
class NewtonInputs(PassInputs):
    """Inputs that all tiles of a pass share."""

    block: slice
    """The components whose Hessian the pass has."""
    products: np.ndarray
    """Packed products of these rows of H, with the weights of columns, shape (n_features, size)."""


@dataclass(frozen=True)
class NewtonPass(RatioPass):
    """The exact pass with Newton's steps: one read of V, in which W is updated row by row, then H."""

    first_steps: ClassVar[int] = 2
    """Fewer than for `RatioPass`: each step needs the Hessians of the rows, which are most of its cost."""

    @property
    def block_size(self) -> int:
        """The number of components whose Hessian a pass has: as many as memory allows, in equal groups."""
        sizes = (-(-self.k // count) for count in range(1, self.k + 1))
        return next(size for size in sizes if size == 1 or self._fits(size))

    def _fits(self, size: int) -> bool:
        return size <= _MOST_COMPONENTS and lines_bytes(self.n_features, size) <= _MOST_BYTES

    @property
    def n_turns(self) -> int:
        return -(-self.k // self.block_size)

    def _block(self, state: FactorState) -> slice:
        """The components whose Hessian the next pass has: all, or groups in turn."""
        size = self.block_size
        first = state.iteration % self.n_turns * size
        last = min(first + size, self.k)
        return slice(last - size, last)

    @property
    def lines_bytes(self) -> int:
        return lines_bytes(self.n_features, self.block_size)

    def prepare(self, state: State) -> NewtonInputs:
        state = FactorState.checked(state)
        shared = super().prepare(state)
        block = self._block(state)
        products = packed_products(np.ascontiguousarray(shared.H[block].T))
        if self.column_weights is not None:
            products *= self.column_weights[:, None].astype(products.dtype)
        return NewtonInputs(**vars(shared), block=block, products=products)

    def tally(self) -> Tally:
        size = self.block_size
        T = Tally.zeros({"T": (size * (size + 1) // 2, self.n_features)})
        return Tally(super().tally() | T)

    def updated_rows(self, W: np.ndarray, ratio: Ratio, inputs: PassInputs) -> np.ndarray:
        assert isinstance(inputs, NewtonInputs)
        a, b = self.fraction(ratio, inputs)
        T = ratio.curvature_rows(inputs.products)
        there = step(W, a, b, T, self.penalties.W, inputs.block, inputs.eps)
        there[there < inputs.tiny] = 0
        return there

    def add(self, tile: Tile, W: np.ndarray, ratio: Ratio, inputs: PassInputs, tally: Tally) -> None:
        assert isinstance(inputs, NewtonInputs)
        super().add(tile, W, ratio, inputs, tally)
        products = packed_products(np.ascontiguousarray(W[:, inputs.block]))
        if tile.row_weights is not None:
            products *= tile.row_weights[:, None].astype(products.dtype)
        ratio.add_curvature(products, tally["T"])

    def updated_H(self, H: np.ndarray, tally: Tally, state: FactorState) -> np.ndarray:
        block = self._block(state)
        free = slice(max(block.start, self.n_fixed), block.stop)
        if free.start >= free.stop:
            return super().updated_H(H, tally, state)
        T = tally["T"].T
        if free != block:  # without the lines of fixed components
            t, _ = np.triu_indices(self.block_size)
            T = T[:, t >= free.start - block.start]
        A, Ht = (np.ascontiguousarray(each.T) for each in (tally["A"], H))
        sums = np.broadcast_to(tally["B"].T, A.shape)

        def updated(part: slice) -> np.ndarray:
            of = (Ht[part], A[part], sums[part], np.asfortranarray(T[part]))
            with np.errstate(all="ignore"):  # the engine's setting does not apply to other threads
                return step(*of, self.penalties.H, free, state.eps, self.n_fixed)

        parts = parts_of(len(Ht))
        with mapped(parts) as each:
            return np.concatenate(list(each(updated, parts))).T
