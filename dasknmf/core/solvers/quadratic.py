"""The exact pass for the quadratic loss ½ ‖V − WH‖²: V is needed once, for N = V Hᵀ and A = Wᵀ V.

::

    N = V Hᵀ,  S = H Hᵀ                  cross
    W ← steps given N, S                 move (needs no V: repeated as often as it pays)
    A += Wᵀ V,  G += Wᵀ W                tally, V still in cache
    H ← steps given A, G                 update
    D = ½ (‖V‖² − 2⟨A, H⟩ + ⟨G, H Hᵀ⟩)   the loss of the new pair, for free

After a start that gives H alone, the first move is the exact solution W(V, H).

With weights a of rows, b of columns and Ω of entries, N = (Ω ∘ V) diag(b) Hᵀ, A = Wᵀ diag(a) (Ω ∘ V), and
the Grams are those of `core.solvers.grams`; the loss stays free. Rows of W that are to sum to one meet
a further column of V, of δ everywhere, with δ in H's: N + δ², S + δ² 1 1ᵀ, in W's move alone [1]_.

The rows of W depend on V only through their own panel, so W-then-H is exact Gauss–Seidel whatever
the panels: with one step of ``"cd"`` or ``"mu"`` it is scikit-learn's iteration. ``"bpp"`` puts the exact
minimisers in place of steps: alternating nonnegative least squares.

References
----------
.. [1] Heinz, D. C., & Chang, C.-I. (2001). Fully constrained least squares linear spectral mixture
   analysis method for material quantification in hyperspectral imagery. IEEE Transactions on Geoscience
   and Remote Sensing, 39(3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.history import EveryTenth
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Batching, Outcome, Phase, Rows, Tally, finite
from dasknmf.core.solvers import first_W
from dasknmf.core.solvers.batched import Batched
from dasknmf.core.solvers.grams import Gram, Grams, Shared, sum_gap, totals, weighted_rows, without_fixed
from dasknmf.core.solvers.inner_steps import Inner, Steps
from dasknmf.core.solvers.table import SOLVERS, Solver
from dasknmf.core.state import FactorState, State

_GRAM_FLOOR = 500
"""Below D = 500 eps ‖V‖² the Gram identity has lost its digits: the residual is summed instead."""

SUM_WEIGHT = 1000.0
"""δ² in units of the mean squared norm of a row: sums are then one to about a thousandth of the misfit."""

_W_STREAM, _H_STREAM = 0, 1


@dataclass(frozen=True)
class PassInputs:
    """Inputs that all tiles of a pass share."""

    H: np.ndarray
    Ht: np.ndarray
    S: np.ndarray
    order: np.ndarray
    eps: float
    residual: bool
    needs_first_W: bool
    sum_to_one_weight: float
    """Weight δ² of the penalty that draws sums of rows of W to one; 0: no penalty."""


@dataclass(frozen=True)
class QuadraticPass(Phase):
    """The exact pass: one read of V, in which W is updated row by row, then H."""

    k: int
    n_features: int
    dtype: np.dtype
    solver: str
    inner: Inner
    penalties: Penalties = Penalties()
    shuffle_seed: int | None = None
    """Seed of the order of coordinates; None: the natural order."""
    grams: Grams = Shared()
    column_weights: np.ndarray | None = None
    n_fixed: int = 0
    """Number of first rows of H that are not updated."""
    sum_to_one: bool = False
    precise: bool = False
    """Whether tallies are products in float64, whatever V's dtype."""
    recomputed: bool = False
    """Whether W is not stored, and each pass solves it for its initial H."""

    name = "exact"

    @property
    def widths(self) -> Mapping[str, int]:
        return {} if self.recomputed else {"W": self.k}

    @property
    def facts(self) -> Solver:
        """Properties of the solver, from the table of solvers."""
        return SOLVERS[self.solver]

    @property
    def _exact_rows(self) -> bool:
        """Whether W is solved: sweeps crawl along the plane on which sums are one."""
        return self.facts.exact or self.sum_to_one or self.recomputed

    def prepare(self, state: State) -> PassInputs:
        state = FactorState.checked(state)
        H = state.entering_H.astype(self.dtype, copy=False)
        H64 = state.entering_H.astype(np.float64)
        b = self.column_weights
        sum_to_one_weight = state.sum_to_one_weight if self.sum_to_one else 0.0
        S = self.grams.of_H(H64, b, self.penalties.W.l2, sum_to_one_weight)
        return PassInputs(
            H=H,
            Ht=np.ascontiguousarray(H.T if b is None else (H64 * b).astype(self.dtype).T),
            # Factorizations need the digits that sweeps do not.
            S=S if self._exact_rows or state.needs_first_W else S.astype(self.dtype),
            order=self._order(state.iteration, _W_STREAM),
            eps=state.eps,
            residual=state.residual or self._needs_start_loss(state),
            needs_first_W=state.needs_first_W,
            sum_to_one_weight=sum_to_one_weight,
        )

    def tally(self) -> Tally:
        k, m = self.k, self.n_features
        shapes: dict[str, tuple[int, ...]] = {
            "A": (k, m),
            "G": self.grams.shape(k, m),
            "usage": (k,),
            "violation": (),
            "entry": (4,),
            "end": (2,),
        }
        return Tally.zeros(shapes)

    @property
    def batching(self) -> Batching:
        return Batched

    def tile(self, tile: Tile, rows: Rows, small: PassInputs, tally: Tally) -> None:
        if self.recomputed:
            rows["W"] = np.zeros((tile.n_rows, self.k), self.dtype)
        W = rows["W"]
        N, S = self.system(tile, small)
        # W that is kept nowhere is what the H that entered makes of it: the two are the pair that entered.
        solved_first = small.needs_first_W or self.recomputed
        if solved_first:
            self._solved(tile, W, N, S)
        if small.residual:
            tally["entry"] += (tile.residual(W, small.H), *totals(tile, W), self.gap(tile, W))
        if not solved_first:
            tally["violation"] += self.moved(tile, W, N, S, small)
        self.add(tile, W, tally)

    def solved(self, tile: Tile, small: PassInputs) -> np.ndarray:
        """W of a tile's rows for the H that entered, exactly."""
        W = np.zeros((tile.n_rows, self.k), self.dtype)
        self._solved(tile, W, *self.system(tile, small))
        return W

    def system(self, tile: Tile, small: PassInputs) -> tuple[np.ndarray, Gram]:
        """N and S of a tile's rows."""
        N = tile.cross(small.Ht)
        if small.sum_to_one_weight:
            N = N + np.float64(small.sum_to_one_weight)
        return N, self.grams.of_rows(tile, small.S)

    def moved(self, tile: Tile, W: np.ndarray, N: np.ndarray, S: Gram, small: PassInputs) -> float:
        """Move a tile's rows in place; the violation met."""
        if self._exact_rows:
            self._solved(tile, W, N, S)
            return 0.0
        steps = Steps(self.penalties.W.l1, small.order, self.inner.rows, self.inner.delta, small.eps)
        violation = self.facts.step(W, N, S, steps)
        self._rest(tile, W)
        return violation

    def _solved(self, tile: Tile, W: np.ndarray, N: np.ndarray, S: Gram) -> None:
        # W that is recomputed meets no step which could not move its zeros.
        positive = not (self.facts.moves_zeros or self.recomputed)
        first_W.solve(W, N, S, self.penalties.W.l1, positive=positive)
        self._rest(tile, W)

    def _rest(self, tile: Tile, W: np.ndarray) -> None:
        if self.grams.by_row and not tile.complete:
            W[~tile.nonempty_rows()] = 0

    def add(self, tile: Tile, W: np.ndarray, tally: Tally) -> None:
        """Add the share of a tile's rows in the sums that the update of H needs."""
        wide = W.astype(np.float64) if self.precise else W
        aW = weighted_rows(tile, wide)
        self.grams.add(tile, wide, aW, tally["G"])
        tally["usage"] += np.ones(len(W), wide.dtype) @ aW
        if self.grams.by_row or self.sum_to_one:
            tally["end"] += (totals(tile, W)[1], self.gap(tile, W))
        tile.add_cross(aW, tally["A"])

    def gap(self, tile: Tile, W: np.ndarray, observed: np.ndarray | None = None) -> float:
        """Σ a_i (1 − Σ_t w_it)² over rows with something observed; 0 where sums may be anything."""
        if not self.sum_to_one:
            return 0.0
        if observed is None and self.grams.by_row and not tile.complete:
            observed = tile.nonempty_rows()
        return sum_gap(tile, W, observed)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state = FactorState.checked(state)
        A, G, squares = tally["A"], tally["G"], state.squares
        H, violation = self._moved_H(state, A, G)
        H64 = H.astype(np.float64)
        b = self.column_weights
        inner = np.vdot(A, H64 if b is None else H64 * b)
        gram = max(float(0.5 * (squares - 2.0 * inner + self.grams.product(G, H64, b))), 0.0)
        eps = float(np.finfo(self.dtype).eps)

        imprecise = gram < _GRAM_FLOOR * eps * squares
        measures = {
            "violation": float(tally["violation"]) + violation,
            "imprecise": float(imprecise),
        }
        entered, total, total_squares, gap = (float(part) for part in tally["entry"])
        if state.residual:
            loss, loss_at = entered, "solved" if state.needs_first_W else "entry"
            H_in = state.entering_H.astype(np.float64)
            W_in = (total, total_squares)
        else:
            loss, loss_at = gram, "end"
            H_in = H64
            end, gap = (float(part) for part in tally["end"])
            summed = self.grams.by_row or self.sum_to_one
            W_in = (float(tally["usage"].sum()), end if summed else float(np.trace(G)))
        if self._needs_start_loss(state):
            measures["loss_at_start"] = entered
        objective = loss + self.penalties.value(W_in, H_in, b)
        if self.sum_to_one:
            objective += 0.5 * state.sum_to_one_weight * gap
        after = FactorState.of(
            state,
            H=finite(H),
            pending_H=None,
            usage=tally["usage"],
            iteration=state.iteration + 1,
            residual=bool(state.residual or imprecise),
        )
        return after, Outcome(loss, objective, loss_at, measures)

    def _needs_start_loss(self, state: FactorState) -> bool:
        """Whether scikit-learn's rule for "mu", which compares with it, needs the loss of the start."""
        return self.facts.stop_rule is EveryTenth and state.iteration == 0 and not state.needs_first_W

    def _moved_H(self, state: FactorState, A: np.ndarray, G: np.ndarray) -> tuple[np.ndarray, float]:
        """H after its steps, in V's dtype, and the violation met by the first of them.

        The same step as for W, on Hᵀ; one δ rule for the whole of H.
        """
        Ht = state.entering_H.T.astype(np.float64, order="C")
        At = np.ascontiguousarray(A.T)
        parts = self.grams.of_columns(G, self.penalties.H.l2)
        order = self._order(state.iteration, _H_STREAM)
        order = order[order >= self.n_fixed]
        steps = Steps(self.penalties.H.l1, order, 1, self.inner.delta, state.eps)
        violation = first_moved = 0.0
        if not len(order):
            return state.entering_H, violation
        for step in range(self.inner.columns):
            before = Ht.copy() if self.inner.columns > 1 else None
            met = 0.0
            for columns, S in parts:
                some = Ht[columns]
                met += self._moved_columns(some, At[columns], S, steps)
                Ht[columns] = some
            if before is None:  # the first step
                violation = met
                break
            moved = float(((Ht - before) ** 2).sum())
            if step == 0:
                violation, first_moved = met, moved
            if moved <= self.inner.delta**2 * first_moved:
                break
        if state.observed is not None:
            Ht[state.observed == 0, self.n_fixed :] = 0
        return np.ascontiguousarray(Ht.T).astype(self.dtype, copy=False), violation

    def _moved_columns(self, Ht: np.ndarray, At: np.ndarray, S: Gram, steps: Steps) -> float:
        """One step of the rows of H that may move."""
        if not self.facts.exact or not self.n_fixed:
            fixed = Ht[:, : self.n_fixed].copy()
            violation = self.facts.step(Ht, At, S, steps)
            # A step of "mu" moves each entry by itself: of those that are fixed, back.
            Ht[:, : self.n_fixed] = fixed
            return violation
        cross, gram = without_fixed(Ht, At, S, self.n_fixed)
        free = np.ascontiguousarray(Ht[:, self.n_fixed :])
        self.facts.step(free, np.ascontiguousarray(cross), gram, steps)
        Ht[:, self.n_fixed :] = free
        return 0.0

    def _order(self, iteration: int, stream: int) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(self.k)
        seed = np.random.SeedSequence([self.shuffle_seed, iteration, stream])
        return np.random.default_rng(seed).permutation(self.k)
