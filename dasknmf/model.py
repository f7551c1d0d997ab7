"""From the model's parameters to its phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dasknmf.history import EveryTenth, RemainingGain, StopRule, Violation
from dasknmf.losses import Loss
from dasknmf.passes import Phase, State
from dasknmf.solvers import cd, mu
from dasknmf.solvers.closing import Closing
from dasknmf.solvers.inner import Inner
from dasknmf.solvers.penalty import Penalties
from dasknmf.solvers.quadratic import QuadraticPass, Solver
from dasknmf.solvers.ratio import RatioPass
from dasknmf.starts.nndsvd import Fill, Lift, Projection, RangeFinder, SignNorms, sketch_width
from dasknmf.starts.random import RandomStart
from dasknmf.starts.survey import Survey, Surveyed

Init = Literal["random", "nndsvd", "nndsvda", "nndsvdar", "custom"]

_FILLS: dict[str, Fill] = {"nndsvd": "zeros", "nndsvda": "mean", "nndsvdar": "random"}


@dataclass(frozen=True)
class Model:
    """One factorization to be made, every choice settled.

    Shape, penalties and factors are those of the roles that are worked on: V's own, or Vᵀ's where
    the roles are transposed.
    """

    shape: tuple[int, int]
    k: int
    dtype: np.dtype
    loss: Loss
    solver: Solver
    init: Init
    seed: int
    penalties: Penalties
    inner_iter: int | str
    shuffle: bool = False

    @property
    def parity(self) -> bool:
        """Whether iterates, and the rule that ends them, are scikit-learn's own."""
        return self.inner_iter == 1 and self.solver != "bpp"

    def starts(self) -> list[Phase]:
        """The phases before the first exact pass. A custom start is placed by the fit itself."""
        n_features = self.shape[1]
        survey = Survey(self.shape, self.loss)
        if self.init == "custom":
            return [survey]
        if self.init == "random":
            return [survey, RandomStart(self.seed, self.k, n_features, self.dtype)]
        fill = _FILLS[self.init]
        if self.solver == "mu" and fill == "zeros":
            fill = "floor"
        width = sketch_width(self.k, self.shape)
        finder = RangeFinder(self.seed, width, n_features, self.dtype)
        return [
            Surveyed(survey, finder),
            finder,
            Projection(self.k, width, self.dtype),
            SignNorms(self.k, self.dtype, fill, self.seed),
            Lift(self.k, fill, self.seed),
        ]

    def exact(self) -> Phase:
        """The pass that is repeated."""
        n_features = self.shape[1]
        if self.loss.quadratic:
            eagerness = cd.EAGERNESS if self.solver == "cd" else mu.EAGERNESS
            # What an exact solve leaves, another one cannot lower.
            steps = 1 if self.solver == "bpp" else self.inner_iter
            inner = Inner.chosen(steps, eagerness=eagerness, shape=self.shape, k=self.k)
            return QuadraticPass(
                self.k,
                n_features,
                self.dtype,
                self.solver,
                inner,
                self.penalties,
                self.seed if self.shuffle else None,
            )
        # A step on W costs as much as a pass over V in memory: repeat it only when asked to.
        inner = Inner.chosen(self.inner_iter, eagerness=0.0, shape=self.shape, k=self.k)
        return RatioPass(
            self.k,
            n_features,
            self.dtype,
            self.loss,
            inner,
            self.penalties,
            exact_l2=not self.parity,
        )

    def closing(self) -> Phase:
        """The read that evaluates the returned pair."""
        return Closing(self.dtype, self.loss, self.penalties)

    def stop_rule(self, tol: float, surveyed: State) -> StopRule:
        """When to end, given what the survey found."""
        if self.parity:
            return Violation(tol) if self.solver == "cd" else EveryTenth(tol)
        eps = float(np.finfo(self.dtype).eps)
        return RemainingGain(tol, floor=10 * eps * float(surveyed["scale"]))
