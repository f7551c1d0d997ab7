"""The table of solvers and their properties.

A new solver is one file, with its derivation and its step, and one row here. Every step of the Frobenius loss
takes the Gram matrices of `dasknmf.core.solvers.grams`, shared or by row: so every solver takes dense and
sparse V, masks, weights, fixed components, L1 and L2. A solver of another loss has a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dasknmf.core.history import EveryTenth, Violation
from dasknmf.core.losses import Loss
from dasknmf.core.solvers import cd, mu, newton, nnls
from dasknmf.core.solvers.grams import Gram
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.ratio import RatioPass


class Step(Protocol):
    """A step of the quadratic loss on the rows of one factor."""

    def __call__(self, W: np.ndarray, N: np.ndarray, S: Gram, steps: Steps) -> float:
        """Update the rows of W in place from N = V Hᵀ and S = H Hᵀ; returns the violation, 0 if unknown."""


@dataclass(frozen=True)
class Solver:
    """Properties of a solver.

    Parameters
    ----------
    name : str
    step : Step or None
        The step for the Frobenius loss; None if the solver does not support this loss.
    beta : float or None
        The only beta-divergence that the solver supports; None: it supports all.
    exact : bool
        Whether one step gives the minimum, so that steps are not repeated.
    moves_zeros : bool
        Whether a step can change an entry that is zero; if not, starts have no zeros.
    eagerness : float
        α of Gillis & Glineur (2012): larger values allow more steps in a pass.
    omega : float
        Factor ω by which updates are over-relaxed; 1: they are not.
    sum_to_one : bool
        Whether the solver supports rows of W that sum to one.
    stop_rule : type or None
        scikit-learn's stop rule of this solver; None if scikit-learn lacks the solver.
    ratio_pass : type
        The exact pass for β ≠ 2.
    """

    name: str
    step: Step | None
    beta: float | None = None
    exact: bool = False
    moves_zeros: bool = True
    eagerness: float = 0.0
    omega: float = 1.0
    sum_to_one: bool = False
    stop_rule: type[Violation | EveryTenth] | None = None
    ratio_pass: type[RatioPass] = RatioPass

    def takes(self, loss: Loss) -> bool:
        """Whether the solver has a step for a loss."""
        return self.beta in (None, loss.beta)


SOLVERS: dict[str, Solver] = {
    each.name: each
    for each in (
        Solver(
            "cd",
            cd.move,
            beta=2.0,
            eagerness=cd.EAGERNESS,
            omega=cd.OMEGA,
            sum_to_one=True,
            stop_rule=Violation,
        ),
        Solver("bpp", nnls.move, beta=2.0, exact=True, sum_to_one=True),
        Solver("mu", mu.move, moves_zeros=False, eagerness=mu.EAGERNESS, stop_rule=EveryTenth),
        Solver("newton", None, beta=1.0, ratio_pass=newton.NewtonPass),
    )
}


def default_solver(loss: Loss, *, plain: bool) -> str:
    """The solver for ``"auto"``; with `plain`, a solver of scikit-learn."""
    if loss.quadratic:
        return "cd"
    return "newton" if loss.beta == 1 and not plain else "mu"
