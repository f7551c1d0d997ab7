"""Nonnegative double SVD, its randomized SVD made of passes: three reads of V in all.

Reads one and two are power iterations of a range finder [2]_, Y = Vᵀ(V Ω) and Q = qr(Y); read three
projects, R = V Q. The small Gram RᵀR = Z S² Zᵀ gives V ≈ (R Z S⁻¹) S (Q Z)ᵀ. Each pair of singular
vectors is split into its positive and negative parts, and the larger pair is kept [1]_.

References
----------
.. [1] Boutsidis, C., & Gallopoulos, E. (2008). SVD based initialization: A head start for
   nonnegative matrix factorization. Pattern Recognition, 41(4).
.. [2] Halko, N., Martinsson, P.-G., & Tropp, J. A. (2011). Finding structure with randomness.
   SIAM Review, 53(2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dasknmf.core.blocks.base import RowRange, Tile
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Outcome, Phase, Rows, Tally, finite
from dasknmf.core.starts import random_start
from dasknmf.core.state import BasisState, FactorState, ProjectionState, SingularState, State

Fill = Literal["zeros", "mean", "random", "floor"]
"""The replacement of zeros: none (nndsvd), V's mean (nndsvda), small random numbers (nndsvdar), or a
hundredth of the mean (nndsvd for multiplicative updates, under which zeros stay zero)."""

_CUTOFF = 1e-6  # scikit-learn's: smaller entries are zeros


def sketch_width(k: int, shape: tuple[int, int]) -> int:
    """Number of columns of the sketch: twice the rank plus twenty, at most as V has."""
    return min(2 * k + 20, *shape)


@dataclass(frozen=True)
class RangeFinder(Phase):
    """One power iteration: Y = Vᵀ(V Ω), orthonormalised."""

    seed: int
    width: int
    n_features: int
    dtype: np.dtype

    name = "range finder"

    def prepare(self, state: State) -> np.ndarray:
        if isinstance(state, BasisState):
            return state.Q.astype(self.dtype)
        omega = random_start.normal_rows(
            self.seed, random_start.OMEGA_STREAM, np.arange(self.n_features), self.width
        )
        return np.ascontiguousarray(omega).astype(self.dtype)

    def tally(self) -> Tally:
        return Tally.zeros({"Yt": (self.width, self.n_features)})

    def tile(self, tile: Tile, rows: Rows, inputs: np.ndarray, tally: Tally) -> None:
        tile.add_cross(tile.cross(inputs), tally["Yt"])

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        return BasisState.of(state, Q=np.linalg.qr(finite(tally["Yt"]).T)[0]), Outcome()


@dataclass(frozen=True)
class Projection(Phase):
    """The third read: R = V Q by rows, and the small Gram that gives the singular values."""

    k: int
    width: int
    dtype: np.dtype

    name = "projection"

    @property
    def widths(self) -> Mapping[str, int]:
        return {"R": self.width}

    def prepare(self, state: State) -> np.ndarray:
        return BasisState.checked(state).Q.astype(self.dtype)

    def tally(self) -> Tally:
        return Tally.zeros({"gram": (self.width, self.width)})

    def tile(self, tile: Tile, rows: Rows, inputs: np.ndarray, tally: Tally) -> None:
        R = rows["R"]
        R[:] = tile.cross(inputs)
        R64 = R.astype(np.float64)
        tally["gram"] += R64.T @ R64

    def update(self, tally: Tally, state: State) -> tuple[ProjectionState, Outcome]:
        values, vectors = np.linalg.eigh(finite(tally["gram"]))
        Z = vectors[:, ::-1][:, : self.k]
        S = np.sqrt(np.maximum(values[::-1][: self.k], 0.0))
        positive = S[0] * 1e-12 < S if S[0] > 0 else np.zeros(self.k, bool)
        inverse = np.divide(1.0, S, out=np.zeros_like(S), where=positive)
        Q = BasisState.checked(state).Q
        return ProjectionState.of(state, to_U=Z * inverse, S=S * positive, Vt=(Q @ Z).T), Outcome()


@dataclass(frozen=True)
class SignNorms(Phase):
    """Norms of the positive and negative parts of the left singular vectors; reads R, not V."""

    k: int
    dtype: np.dtype
    fill: Fill
    seed: int

    name = "singular vectors"
    reads_data = False

    def prepare(self, state: State) -> np.ndarray:
        return ProjectionState.checked(state).to_U

    def tally(self) -> Tally:
        return Tally.zeros({"positive": (self.k,), "negative": (self.k,)})

    def tile(self, tile: RowRange, rows: Rows, inputs: np.ndarray, tally: Tally) -> None:
        U = rows["R"] @ inputs
        tally["positive"] += (np.maximum(U, 0.0) ** 2).sum(axis=0)
        tally["negative"] += (np.minimum(U, 0.0) ** 2).sum(axis=0)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state = ProjectionState.checked(state)
        S, Vt = state.S, state.Vt
        u_norms = np.sqrt(np.stack([tally["positive"], tally["negative"]]))
        v_parts = np.stack([np.maximum(Vt, 0.0), np.maximum(-Vt, 0.0)])
        v_norms = np.sqrt((v_parts**2).sum(axis=2))
        weights = u_norms * v_norms
        # Ties go to the negative part, as in scikit-learn.
        kept = np.where(weights[0] > weights[1], 0, 1)
        each = np.arange(self.k)
        scale = np.sqrt(S * weights[kept, each])
        u_norm, v_norm = u_norms[kept, each], v_norms[kept, each]
        H = v_parts[kept, each] * _over(scale, v_norm)[:, None]
        # The first pair has one sign only, so absolute values are used.
        H[0] = np.sqrt(S[0]) * np.abs(Vt[0])
        H = filled(H, self.fill, state.mean, self.seed, random_start.FILL_H_STREAM, np.arange(self.k))
        after = SingularState.of(
            state,
            signs=np.where(kept == 0, 1.0, -1.0),
            scales=_over(scale, u_norm),
            start_H=H.astype(self.dtype),
        )
        return after, Outcome()


@dataclass(frozen=True)
class Lift(Phase):
    """W from R: the kept parts of the left singular vectors, scaled; does not read V."""

    k: int
    fill: Fill
    seed: int
    rows: PixelIndex = InOrder()

    name = "start"
    reads_data = False

    @property
    def widths(self) -> Mapping[str, int]:
        return {"W": self.k}

    def prepare(self, state: State) -> SingularState:
        return SingularState.checked(state)

    def tile(self, tile: RowRange, rows: Rows, inputs: SingularState, tally: Tally) -> None:
        U = rows["R"] @ inputs.to_U
        W = np.maximum(U * inputs.signs, 0.0) * inputs.scales
        W[:, 0] = np.sqrt(inputs.S[0]) * np.abs(U[:, 0])
        places = self.rows.places(tile.first, tile.first + len(W))
        rows["W"][:] = filled(W, self.fill, inputs.mean, self.seed, random_start.FILL_W_STREAM, places)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        return FactorState.of(state, H=SingularState.checked(state).start_H), Outcome()


def filled(F: np.ndarray, fill: Fill, mean: float, seed: int, stream: int, places: np.ndarray) -> np.ndarray:
    """F with entries below scikit-learn's cutoff replaced as `fill` says; `places` are those of F's rows."""
    F[F < _CUTOFF] = 0.0
    zeros = F == 0.0
    if fill == "mean":
        F[zeros] = mean
    elif fill == "floor":
        F[zeros] = mean / 100
    elif fill == "random":
        drawn = np.abs(mean * random_start.normal_rows(seed, stream, places, F.shape[1]) / 100)
        F[zeros] = drawn[zeros]
    return F


def _over(values: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
