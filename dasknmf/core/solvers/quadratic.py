"""The exact pass for the quadratic loss ½ ‖V − WH‖²: one read of V, for V Hᵀ and Wᵀ V.

With V of n rows and m columns, W n × k and H k × m::

    N = V Hᵀ,   n × k      S = H Hᵀ,   k × k      products of V and H, tile by tile
    W ← steps given N and S                       the update of W, repeated as often as it pays
    A = Wᵀ V,   k × m      G = Wᵀ W,   k × k      sums over tiles, each of which is still in cache
    H ← steps given A and G                       the update of H
    D = ½ (‖V‖² − 2⟨A, H⟩ + ⟨G, H Hᵀ⟩)            the loss of the new pair, without another read

Both updates may be over-relaxed (`dasknmf.core.solvers.over_relaxation`). After a start that gives H alone,
the first update of W is the exact solution for H.

With weights a of rows, b of columns and Ω of entries, N = (Ω ∘ V) diag(b) Hᵀ, A = Wᵀ diag(a) (Ω ∘ V), and
the Gram matrices S and G are those of `dasknmf.core.solvers.grams`; the loss needs no other read either.
Where rows of W are to sum to one, V and H get a further column, of δ everywhere, in the update of W only:
N + δ² and S + δ² 1 1ᵀ [1]_.

A row of W depends only on its own panel, so updating W, then H, is exact Gauss–Seidel for any panels:
with one step of ``"cd"`` or ``"mu"`` it is scikit-learn's iteration. ``"bpp"`` replaces steps by exact
solutions: alternating nonnegative least squares.

References
----------
.. [1] Heinz, D. C., & Chang, C.-I. (2001). Fully constrained least squares linear spectral mixture
   analysis method for material quantification in hyperspectral imagery. IEEE Transactions on Geoscience
   and Remote Sensing, 39(3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.history import EveryTenth
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Batching, Outcome, Phase, Rows, Tally, finite
from dasknmf.core.solvers import first_W, over_relaxation
from dasknmf.core.solvers.batched import Batched
from dasknmf.core.solvers.columns import mapped, parts_of
from dasknmf.core.solvers.grams import Gram, Grams, sum_gap, totals, weighted_rows, without_fixed
from dasknmf.core.solvers.inner_steps import Inner, Steps
from dasknmf.core.solvers.packed_grams import Packed
from dasknmf.core.solvers.table import SOLVERS, Solver, Step
from dasknmf.core.state import FactorState, State

_GRAM_FLOOR = 500
"""Below D = 500 eps ‖V‖² rounding dominates the loss by Gram matrices: residuals are summed instead."""

SUM_WEIGHT = 1000.0
"""δ² in units of the mean squared norm of a row of V: sums of rows of W are then near one."""

_PART_ENTRIES = 2**16
"""Entries of H in the part that a thread updates: smaller parts cost more than they save."""
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
    grams: Grams = Grams()
    column_weights: np.ndarray | None = None
    n_fixed: int = 0
    """Number of first rows of H that are not updated."""
    sum_to_one: bool = False
    precise: bool = False
    """Whether tallies are products in float64, also for a V in float32."""
    recomputed: bool = False
    """Whether W is not stored, and each pass solves it for its initial H."""

    name = "exact"

    @property
    def widths(self) -> Mapping[str, int]:
        return {} if self.recomputed else {"W": self.k}

    @property
    def properties(self) -> Solver:
        """Properties of the solver, from the table of solvers."""
        return SOLVERS[self.solver]

    @property
    def _step(self) -> Step:
        step = self.properties.step
        assert step is not None  # as the solver supports the Frobenius loss
        return step

    @property
    def _exact_rows(self) -> bool:
        """Whether updates of W are exact: single steps hardly change a row whose sum is nearly one."""
        return self.properties.exact or self.sum_to_one or self.recomputed

    @property
    def first_W_is_exact(self) -> bool:
        """Whether the first W is the exact solution for H."""
        return self._exact_rows or first_W.exact_pays(self.k, self.n_features)

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
            # Exact solutions need S in float64, single steps do not.
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

    def tile(self, tile: Tile, rows: Rows, inputs: PassInputs, tally: Tally) -> None:
        if self.recomputed:
            rows["W"] = np.zeros((tile.n_rows, self.k), self.dtype)
        W = rows["W"]
        N, S = self.system(tile, inputs)
        # If W is not stored, the pair at the start of the pass is H with the W solved for this H.
        solved_first = inputs.needs_first_W or self.recomputed
        if solved_first:
            self._solved(tile, W, N, S)
        if inputs.residual:
            tally["entry"] += (tile.residual(W, inputs.H), *totals(tile, W), self.gap(tile, W))
        if not solved_first:
            tally["violation"] += self.update_rows(tile, W, N, S, inputs)
        self.add(tile, W, tally)

    def solved(self, tile: Tile, inputs: PassInputs) -> np.ndarray:
        """The exact W of a tile's rows for the H at the start of the pass."""
        W = np.zeros((tile.n_rows, self.k), self.dtype)
        self._solved(tile, W, *self.system(tile, inputs))
        return W

    def system(self, tile: Tile, inputs: PassInputs) -> tuple[np.ndarray, Gram]:
        """N and S of a tile's rows."""
        N = tile.cross(inputs.Ht)
        if inputs.sum_to_one_weight:
            N = N + np.float64(inputs.sum_to_one_weight)
        return N, self.grams.of_rows(tile, inputs.S)

    def update_rows(self, tile: Tile, W: np.ndarray, N: np.ndarray, S: Gram, inputs: PassInputs) -> float:
        """Update a tile's rows of W in place; returns their violation of optimality before the update."""
        if self._exact_rows:
            self._solved(tile, W, N, S)
            return 0.0
        steps = Steps(self.penalties.W.l1, inputs.order, self.inner.rows, self.inner.delta, inputs.eps)
        before = W.copy() if self.inner.omega > 1 else W
        violation = self._step(W, N, S, steps)
        if self.inner.omega > 1:
            over_relaxation.extend(W, before, N, S, self.penalties.W.l1, self.inner.omega)
        self._clear_empty(tile, W)
        return violation

    def _solved(self, tile: Tile, W: np.ndarray, N: np.ndarray, S: Gram) -> None:
        # Zeros of a recomputed W may stay: no multiplicative step follows.
        positive = not (self.properties.moves_zeros or self.recomputed)
        first_W.solve(W, N, S, self.penalties.W.l1, exact=self.first_W_is_exact, positive=positive)
        self._clear_empty(tile, W)

    def _clear_empty(self, tile: Tile, W: np.ndarray) -> None:
        """Set W to zero in rows without observed entries."""
        if self.grams.by_row and not tile.complete:
            W[~tile.nonempty_rows()] = 0

    def add(self, tile: Tile, W: np.ndarray, tally: Tally) -> None:
        """Add the share of a tile's rows to the sums for the update of H."""
        wide = W.astype(np.float64) if self.precise else W
        aW = weighted_rows(tile, wide)
        self.grams.add(tile, wide, aW, tally["G"])
        tally["usage"] += np.ones(len(W), wide.dtype) @ aW
        if self.grams.by_row or self.sum_to_one:
            tally["end"] += (totals(tile, W)[1], self.gap(tile, W))
        tile.add_cross(aW, tally["A"])

    def gap(self, tile: Tile, W: np.ndarray, observed: np.ndarray | None = None) -> float:
        """Σ a_i (1 − Σ_t w_it)² over rows with observed entries; 0 if sums of rows of W are free."""
        if not self.sum_to_one:
            return 0.0
        if observed is None and self.grams.by_row and not tile.complete:
            observed = tile.nonempty_rows()
        return sum_gap(tile, W, observed)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state = FactorState.checked(state)
        A, G, squares = tally["A"], tally["G"], state.squares
        H, violation = self._updated_H(state, A, G)
        H64 = H.astype(np.float64)
        b = self.column_weights
        inner = np.vdot(A, H64 if b is None else H64 * b)
        gram = max(float(0.5 * (squares - 2.0 * inner + self.grams.product(G, H64, b))), 0.0)
        imprecise = gram < _GRAM_FLOOR * float(np.finfo(self.dtype).eps) * squares
        measures = {"violation": float(tally["violation"]) + violation, "imprecise": float(imprecise)}
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
        """Whether the stop rule compares later losses with that of the start, as scikit-learn's for "mu"."""
        return self.properties.stop_rule is EveryTenth and state.iteration == 0 and not state.needs_first_W

    def _updated_H(self, state: FactorState, A: np.ndarray, G: np.ndarray) -> tuple[np.ndarray, float]:
        """The updated H, in V's dtype, and the violation of optimality before the update.

        Steps are those of W, on Hᵀ; the δ rule of `dasknmf.core.solvers.inner_steps` is for H as a whole.
        """
        Ht = state.entering_H.T.astype(np.float64, order="C")
        At = np.ascontiguousarray(A.T)
        order = self._order(state.iteration, _H_STREAM)
        order = order[order >= self.n_fixed]
        steps = Steps(self.penalties.H.l1, order, 1, self.inner.delta, state.eps)
        violation = first_moved = 0.0
        if not len(order):
            return state.entering_H, violation
        initial = Ht.copy()
        parts = list(self._parts(At, G))

        def stepped(part: tuple[np.ndarray, np.ndarray, Gram]) -> np.ndarray:
            columns, cross, S = part
            before = Ht[columns]
            some = before.copy()
            with np.errstate(all="ignore"):  # the engine's setting does not apply to other threads
                met = self._step_columns(some, cross, S, steps)
                Ht[columns] = some
                some -= before
                return np.array([met, np.vdot(some, some)])

        def extended(part: tuple[np.ndarray, np.ndarray, Gram]) -> None:
            columns, cross, S = part
            some = Ht[columns]
            over_relaxation.extend(some, initial[columns], cross, S, steps.l1, self.inner.omega)
            Ht[columns] = some

        with mapped(parts) as each:
            for step in range(self.inner.columns):
                met, moved = np.sum(list(each(stepped, parts)), axis=0).tolist()
                if step == 0:
                    violation, first_moved = met, moved
                if moved <= self.inner.delta**2 * first_moved:
                    break
            # No over-relaxation in the first pass: the fit may end with this H, the best H for its W.
            if self.inner.omega > 1 and not state.needs_first_W:
                list(each(extended, parts))
        if state.observed is not None:
            Ht[state.observed == 0, self.n_fixed :] = 0
        return np.ascontiguousarray(Ht.T).astype(self.dtype, copy=False), violation

    def _parts(self, At: np.ndarray, G: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, Gram]]:
        """Columns of H in parts: their numbers, the rows of Aᵀ, and their Gram matrix."""
        for columns, S in self.grams.of_columns(G, self.penalties.H.l2):
            numbers = np.arange(len(At))[columns]
            for part in parts_of(len(numbers), _PART_ENTRIES, self.k):
                yield numbers[part], At[numbers[part]], S.at(part) if isinstance(S, Packed) else S

    def _step_columns(self, Ht: np.ndarray, At: np.ndarray, S: Gram, steps: Steps) -> float:
        """One step of Hᵀ in place, except for fixed rows of H; returns the violation before the step."""
        if not self.properties.exact or not self.n_fixed:
            fixed = Ht[:, : self.n_fixed].copy()
            violation = self._step(Ht, At, S, steps)
            # Multiplicative steps change the fixed rows too.
            Ht[:, : self.n_fixed] = fixed
            return violation
        cross, gram = without_fixed(Ht, At, S, self.n_fixed)
        free = np.ascontiguousarray(Ht[:, self.n_fixed :])
        self._step(free, np.ascontiguousarray(cross), gram, steps)
        Ht[:, self.n_fixed :] = free
        return 0.0

    def _order(self, iteration: int, stream: int) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(self.k)
        seed = np.random.SeedSequence([self.shuffle_seed, iteration, stream])
        return np.random.default_rng(seed).permutation(self.k)
