"""One factorization with all of its parameters, and the phases of its passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dasknmf.core.history import SmallGains, StopRule, exact_loss
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import Phase
from dasknmf.core.solvers.inner_steps import Inner
from dasknmf.core.solvers.quadratic import QuadraticPass
from dasknmf.core.solvers.ratio import RatioPass
from dasknmf.core.solvers.table import SOLVERS, Solver
from dasknmf.core.solvers.variant import Variant
from dasknmf.core.starts.nndsvd import Fill, Lift, Projection, RangeFinder, SignNorms, sketch_width
from dasknmf.core.starts.random_start import RandomStart
from dasknmf.core.starts.sample import Audited, Chosen, Draw
from dasknmf.core.starts.sketch import Sketch
from dasknmf.core.starts.survey import MeanFilled, Pinned, Survey, Surveyed
from dasknmf.core.starts.trial import Trial
from dasknmf.core.state import State

Init = Literal["sketch", "sample", "random", "nndsvd", "nndsvda", "nndsvdar", "custom"]
PhaseSet = tuple[Phase, ...]
"""The phases of one model in one pass: one, or those of the starts that compete."""

SAMPLE_BYTES = 2**26
"""Default size in bytes of the rows that ``init="sample"`` draws."""

_COMPETING_PASSES = 2
"""Number of exact passes of both a fitted and a plain start; then only the one of lower objective goes on."""

_FILLS: dict[str, Fill] = {"nndsvd": "zeros", "nndsvda": "mean", "nndsvdar": "random"}


@dataclass(frozen=True)
class Model:
    """One factorization with all of its parameters.

    Shape, penalties and factors are those of V, the matrix that is read: X or Xᵀ.
    """

    shape: tuple[int, int]
    k: int
    dtype: np.dtype
    loss: Loss
    solver: str
    init: Init
    seed: int
    penalties: Penalties
    inner_iter: int | str
    row_bytes: float
    """Mean bytes of a row of V in memory: dense, or its nonzeros."""
    shuffle: bool = False
    sample_bytes: int = SAMPLE_BYTES
    streamed: bool = True
    """Whether V is read from outside this process's memory."""
    variant: Variant = Variant()
    rows: PixelIndex = InOrder()
    """Index of each row of V, by which rows are drawn and seeded."""
    drops_W: bool = False
    """Whether W need not be kept between passes: of many models, W would be most of what a pass transfers."""

    def reseeded(self, seed: int) -> Model:
        """The same model with another seed, of its start and of its perturbation of V, if it has one."""
        version = self.variant.resampling
        if version is None:
            return replace(self, seed=seed)
        variant = replace(self.variant, resampling=replace(version, seed=seed))
        return replace(self, seed=seed, variant=variant)

    @property
    def properties(self) -> Solver:
        """The row of the solver in the table."""
        return SOLVERS[self.solver]

    @property
    def parity(self) -> bool:
        """Whether iterates and stop rule are those of scikit-learn."""
        return self.inner_iter == 1 and self.properties.stop_rule is not None and not self.fitted_start

    @property
    def fitted_start(self) -> bool:
        """Whether H is fitted to a part of V before the first exact pass."""
        return self.init in ("sketch", "sample")

    @property
    def recomputed(self) -> bool:
        """Whether each pass solves W from H alone: W is not kept, and the solve needs no earlier W."""
        masked_beyond = self.variant.masked and not self.variant.by_rows(self.k, self.shape[1])
        return self.drops_W and self.loss.quadratic and not masked_beyond

    @property
    def surveyed_alone(self) -> bool:
        """Whether the first pass is only the survey of V, so that one read serves all models."""
        # A sample is drawn in the same read, and each model fits its own H to the sample.
        alone = self.variant.masked and self.init != "sample"
        return (alone or self.init in ("random", "custom")) and self.variant.resampling is None

    def starts(self) -> list[PhaseSet]:
        """The phases of each pass before the first exact pass. The fit itself writes a custom start."""
        fixed = self.variant.fixed
        starts = [tuple(map(self.variant.seen, phases)) for phases in self._starts()]
        if fixed is None:
            return starts
        return [tuple(Pinned(phase, fixed) for phase in phases) for phases in starts]

    def _starts(self) -> list[PhaseSet]:
        survey = Survey(self.shape, self.loss, self.variant.masked)
        if self.init == "custom":
            return [(survey,)]
        drawn = RandomStart(
            self.seed, self.k, self.shape[1], self.dtype, self.rows, draws_rows=not self.recomputed
        )
        if self.init == "random":
            return [(survey,), (drawn,)]
        if self.init == "sample":
            plain = () if self._draw().whole else (drawn,)
            return [(Surveyed(self._draw(), survey),), (Chosen(), *plain)]
        fill = _FILLS.get(self.init, "mean")
        if fill == "zeros" and not self.properties.moves_zeros:
            fill = "floor"
        width = sketch_width(self.k, self.shape)
        finder = RangeFinder(self.seed, width, self.shape[1], self.dtype)
        projection = Projection(self.k, width, self.dtype)
        lift = Lift(self.k, fill, self.seed, self.rows)
        signs = SignNorms(self.k, self.dtype, fill, self.seed)
        if self.variant.masked:  # means are known after a read of their own
            filled = [(MeanFilled(phase),) for phase in (finder, finder, projection)]
            return [(survey,), *filled, (signs,), (lift,)]
        fitted = self.init == "sketch"
        return [
            (Surveyed(finder, survey),),
            (finder,),
            (Sketch(projection, self._trial(), self.rows) if fitted else projection,),
            (signs,),
            (Chosen(), lift) if fitted else (lift,),
        ]

    def exact_phases(self, iteration: int) -> PhaseSet:
        """The phases of an exact pass: two while a fitted start and a plain start compete."""
        exact = self.exact()
        if not self.fitted_start or iteration >= _COMPETING_PASSES:
            return (exact,)
        if self.init == "sample" and self._draw().whole:
            return (exact,)  # the trial has compared starts on all of V
        if iteration == 0 and self.init == "sample":
            audited = Audited(self._exact(), self._draw())
            return (self.variant.with_holdout(audited, self.loss), exact)
        return (exact, exact)

    def _draw(self) -> Draw:
        n, m = self.shape
        share = min(1.0, self.sample_bytes / self.row_bytes / n)
        return Draw(self._trial(), m, share, self.row_bytes, self.rows)

    def _trial(self) -> Trial:
        return Trial(
            self.k,
            self.dtype,
            self.loss,
            self.penalties,
            self.seed,
            self.shape[0],
            self.properties,
            variant=self.variant.of_sample,
        )

    def exact(self) -> Phase:
        """The phase of the exact passes."""
        return self.variant.with_holdout(self._exact(), self.loss)

    def _exact(self) -> Phase:
        n_features = self.shape[1]
        if self.loss.quadratic:
            # Repeating an exact solve does not lower the objective.
            steps = 1 if self.properties.exact else self.inner_iter
            inner = Inner.chosen(
                steps,
                eagerness=self.properties.eagerness,
                omega=self.properties.omega,
                shape=self.shape,
                k=self.k,
            )
            quadratic = QuadraticPass(
                self.k, n_features, self.dtype, self.solver, inner, self.penalties, recomputed=self.recomputed
            )
            if self.shuffle:
                quadratic = replace(quadratic, shuffle_seed=self.seed)
            return self.variant.quadratic(quadratic, self.shape[0])
        inner = Inner.between_reads(
            self.inner_iter, itemsize=self.dtype.itemsize, k=self.k, streamed=self.streamed
        )
        ratio = self.properties.ratio_pass(
            self.k, n_features, self.dtype, self.loss, inner, self.penalties, not self.parity
        )
        return self.variant.ratio(ratio)

    @property
    def lines_bytes(self) -> int:
        """Bytes of the packed Gram matrices of all features; 0 where no pass makes any."""
        always = self.loss.quadratic and self.variant.by_rows(self.k, self.shape[1])
        own = self.variant.lines_bytes(self.k, self.shape[1]) if always or self.fitted_start else 0
        return max(own, self._exact().lines_bytes or 0)

    def evaluation(self) -> Phase:
        """The phase that evaluates the loss of the returned W and H."""
        exact = self._exact()
        solver = exact if self.recomputed and isinstance(exact, QuadraticPass) else None
        return self.variant.evaluation(self.dtype, self.loss, self.penalties, solver)

    def stop_rule(self, tol: float, surveyed: State) -> StopRule:
        """The stop rule, scaled by the state of V after the survey."""
        if self.parity and self.properties.stop_rule is not None:
            return self.properties.stop_rule(tol)
        exact = self._exact()
        turns = exact.n_turns if isinstance(exact, RatioPass) else 1
        return SmallGains(tol, floor=exact_loss(self.dtype, surveyed.scale), count=max(2, turns))
