"""The exact pass for the quadratic loss ½ ‖V − WH‖²: V is needed once, for N = V Hᵀ and A = Wᵀ V.

::

    N = V Hᵀ,  S = H Hᵀ                  cross
    W ← steps given N, S                 move (needs no V: repeated as often as it pays)
    A += Wᵀ V,  G += Wᵀ W                tally, V still in cache
    H ← steps given A, G                 update
    D = ½ (‖V‖² − 2⟨A, H⟩ + ⟨G, H Hᵀ⟩)   the loss of the new pair, for free

A start that gives H alone is *cold*: the first move is then the exact solution W(V, H).

The rows of W depend on V only through their own panel, so W-then-H is exact Gauss–Seidel whatever
the panels: with one step of ``"cd"`` or ``"mu"`` it is scikit-learn's iteration. ``"bpp"`` puts the exact
minimisers in place of steps: alternating nonnegative least squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dasknmf.blocks.base import Tile
from dasknmf.passes import Outcome, Rows, State, Tally, finite
from dasknmf.solvers import cd, cold, mu, nnls
from dasknmf.solvers.inner import Inner
from dasknmf.solvers.penalty import Penalties, Penalty

_GRAM_FLOOR = 500
"""Below D = 500 eps ‖V‖² the Gram identity has lost its digits: the residual is summed instead."""

Solver = Literal["cd", "bpp", "mu"]

_W_STREAM, _H_STREAM = 0, 1


@dataclass(frozen=True)
class Small:
    """What every tile of one pass needs."""

    H: np.ndarray
    Ht: np.ndarray
    S: np.ndarray
    order: np.ndarray
    eps: float
    residual: bool
    cold: bool


@dataclass(frozen=True)
class QuadraticPass:
    """One read of V: W moves row by row, then H."""

    k: int
    n_features: int
    dtype: np.dtype
    solver: Solver
    inner: Inner
    penalties: Penalties = Penalties()
    shuffle_seed: int | None = None
    """Seed of the order of coordinates; None: the natural order."""

    name = "exact"
    reads_data = True

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k}

    def prepare(self, state: State) -> Small:
        state = cold.entered(state)
        H = state["H"].astype(self.dtype, copy=False)
        H64 = state["H"].astype(np.float64)
        S = H64 @ H64.T
        S[np.diag_indices(self.k)] += self.penalties.W.l2
        return Small(
            H=H,
            Ht=np.ascontiguousarray(H.T),
            # Factorizations need the digits that sweeps do not.
            S=S if self.solver == "bpp" or cold.is_cold(state) else S.astype(self.dtype),
            order=self._order(_iteration(state), _W_STREAM),
            eps=float(state["eps"]),
            residual=_residual(state) or self._told_at_start(state),
            cold=cold.is_cold(state),
        )

    def tally(self) -> Tally:
        k, m = self.k, self.n_features
        return Tally.zeros({"A": (k, m), "G": (k, k), "usage": (k,), "violation": (), "entry": (3,)})

    def tile(self, tile: Tile, rows: Rows, small: Small, tally: Tally) -> None:
        W = rows["W"]
        N = tile.cross(small.Ht)
        if small.cold:
            cold.solve(W, N, small.S, self.penalties.W.l1, positive=self.solver == "mu")
        if small.residual:
            residual = tile.residual(W, small.H)
            W64 = W.astype(np.float64)
            tally["entry"] += (residual, W64.sum(), (W64 * W64).sum())
        if not small.cold:
            tally["violation"] += self._move(
                W, N, small.S, self.penalties.W, small.order, self.inner.rows, small.eps
            )
        tile.add_cross(W, tally["A"])
        tally["G"] += W.T @ W
        tally["usage"] += np.ones(len(W), W.dtype) @ W

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state = cold.entered(state)
        A, G, squares = tally["A"], tally["G"], float(state["squares"])
        iteration = _iteration(state)
        H, violation = self._moved_H(state, A, G)
        H64 = H.astype(np.float64)
        gram = 0.5 * (squares - 2.0 * np.vdot(A, H64) + np.vdot(G, H64 @ H64.T))
        gram = max(float(gram), 0.0)
        eps = float(np.finfo(self.dtype).eps)

        imprecise = gram < _GRAM_FLOOR * eps * squares
        measures = {
            "violation": float(tally["violation"]) + violation,
            "imprecise": float(imprecise),
        }
        entered, total, total_squares = (float(part) for part in tally["entry"])
        if _residual(state):
            loss, loss_at = entered, "solved" if cold.is_cold(state) else "entry"
            H_in = state["H"].astype(np.float64)
            W_in = (total, total_squares)
        else:
            loss, loss_at = gram, "end"
            H_in = H64
            W_in = (float(tally["usage"].sum()), float(np.trace(G)))
        if self._told_at_start(state):
            measures["loss_at_start"] = entered
        objective = loss + self.penalties.value(W_in, H_in)
        after = cold.warmed(state) | {
            "H": finite(H),
            "iteration": np.asarray(iteration + 1),
            "residual": np.asarray(_residual(state) or imprecise),
            "usage": tally["usage"],
        }
        return after, Outcome(loss, objective, loss_at, measures)

    def _told_at_start(self, state: State) -> bool:
        """Whether scikit-learn's rule for "mu", which compares with it, needs the loss of the start."""
        return self.solver == "mu" and _iteration(state) == 0 and not cold.is_cold(state)

    def _moved_H(self, state: State, A: np.ndarray, G: np.ndarray) -> tuple[np.ndarray, float]:
        """H after its steps, in V's dtype, and the violation met by the first of them.

        The same step as for W, on Hᵀ; one δ rule for the whole of H.
        """
        Ht = state["H"].T.astype(np.float64, order="C")
        At = np.ascontiguousarray(A.T)
        S = G.copy()
        S[np.diag_indices(self.k)] += self.penalties.H.l2
        order = self._order(_iteration(state), _H_STREAM)
        eps = float(state["eps"])
        if self.inner.columns == 1:
            violation = self._move(Ht, At, S, self.penalties.H, order, 1, eps)
            return np.ascontiguousarray(Ht.T).astype(self.dtype, copy=False), violation
        violation = first_moved = 0.0
        for step in range(self.inner.columns):
            before = Ht.copy()
            met = self._move(Ht, At, S, self.penalties.H, order, 1, eps)
            moved = float(((Ht - before) ** 2).sum())
            if step == 0:
                violation, first_moved = met, moved
            if moved <= self.inner.delta**2 * first_moved:
                break
        return np.ascontiguousarray(Ht.T).astype(self.dtype, copy=False), violation

    def _move(
        self,
        F: np.ndarray,
        cross: np.ndarray,
        gram: np.ndarray,
        penalty: Penalty,
        order: np.ndarray,
        count: int,
        eps: float,
    ) -> float:
        """Move the rows of one factor in place; the violation met, for coordinate descent."""
        if self.solver == "cd":
            return cd.move(F, cross, gram, penalty.l1, order, count, self.inner.delta)
        if self.solver == "bpp":
            nnls.solve(F, cross, gram, penalty.l1)
            return 0.0
        mu.move(F, cross, gram, penalty.l1, count, self.inner.delta, eps)
        return 0.0

    def _order(self, iteration: int, stream: int) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(self.k)
        seed = np.random.SeedSequence([self.shuffle_seed, iteration, stream])
        return np.random.default_rng(seed).permutation(self.k)


def _iteration(state: State) -> int:
    """Exact passes before this one; a start leaves none."""
    return int(state.get("iteration", 0))


def _residual(state: State) -> bool:
    """Whether the loss is so small that it has to be summed entry by entry."""
    return bool(state.get("residual", False))
