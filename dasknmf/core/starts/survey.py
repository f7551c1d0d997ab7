"""The survey: statistics and checks of V in the first read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dasknmf.core.blocks.base import Sums, Tile
from dasknmf.core.losses import Loss
from dasknmf.core.phase import Outcome, Phase, PhaseWrapper, Rows, Tally
from dasknmf.core.solvers.quadratic import SUM_WEIGHT
from dasknmf.core.state import FactorState, State
from dasknmf.errors import DataError

FIELDS = ("total", "squares", "n_nan", "n_inf", "n_negative", "n_zero", "n_missing", "powers", "rows")


@dataclass(frozen=True)
class Survey(Phase):
    """The phase that measures sums and counts over V, and the scales that follow from them."""

    shape: tuple[int, int]
    loss: Loss
    masked: bool = False
    """Whether entries may be missing or have weights."""

    name = "survey"

    def _powers(self, tile: Tile, sums: Sums) -> float:
        """Σ v^β, weighted; 0 if V has values that the loss refuses, and for β = 2, as `sums.squares` is
        that."""
        beta = self.loss.beta
        if beta == 2 or sums.n_nan or sums.n_negative or (beta < 0 and sums.n_zero):
            return 0.0
        return float(tile.power_sum(beta))

    def tally(self) -> Tally:
        sums = Tally.zeros({"sums": (len(FIELDS),)})
        if not self.masked:
            return sums
        n_features = self.shape[1]
        more = {
            "observed": (n_features,),
            "column totals": (1, n_features),
            "hidden": (n_features,),
            "empty rows": (),
            "hidden rows": (),
        }
        return Tally(sums | Tally.zeros(more))

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        sums = tile.sums()
        powers = self._powers(tile, sums)
        counts = (sums.n_nan, sums.n_inf, sums.n_negative, sums.n_zero, sums.n_missing)
        weights = tile.row_weights
        a = np.ones(tile.n_rows) if weights is None else weights
        tally["sums"] += (sums.total, sums.squares, *counts, powers, a.sum())
        if self.masked:
            tally["observed"] += tile.column_counts()
            tile.add_cross(a[:, None].astype(tile.dtype), tally["column totals"])
            tally["empty rows"] += np.count_nonzero(~tile.nonempty_rows())
            n_rows, of_columns = tile.hidden_counts()
            tally["hidden rows"] += n_rows
            tally["hidden"] += of_columns

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        found = dict(zip(FIELDS, tally["sums"], strict=True))
        n, m = self.shape
        mean = found["total"] / max(n * m - found["n_missing"], 1.0)
        beta = self.loss.beta
        constant = 0.0 if beta in (0, 1, 2) else found["powers"] / (beta * (beta - 1))
        after = replace(
            state,
            sums=tally["sums"],
            mean=float(mean),
            squares=float(found["squares"]),
            constant=float(constant),
            scale=float(found["squares"] if self.loss.quadratic else found["powers"]),
            # scikit-learn's floors, which are absolute, in units of V and of √V.
            eps=float(np.finfo(np.float32).eps) * float(mean or 1.0),
            tiny=float(np.finfo(np.float64).eps * np.sqrt(abs(mean) or 1.0)),
            sum_to_one_weight=float(SUM_WEIGHT * found["squares"] / (found["rows"] or 1.0)),
        )
        if self.masked:
            observed = tally["observed"]
            fill = np.divide(tally["column totals"][0], observed, out=np.zeros(m), where=observed > 0)
            after = replace(
                after,
                observed=observed,
                fill=fill,
                empty_rows=int(tally["empty rows"]),
                hidden_rows=int(tally["hidden rows"]),
                hidden_columns=int(np.count_nonzero((observed == 0) & (tally["hidden"] > 0))),
            )
        return after, Outcome()

    def takes(self, tally: Tally) -> bool:
        """Whether V has no entry that `check` refuses."""
        found = dict(zip(FIELDS, tally["sums"], strict=True))
        refused = found["n_nan"] + found["n_inf"] + found["n_negative"]
        refused += found["n_zero"] if self.loss.beta <= 0 else 0
        return bool(refused == 0 and np.isfinite(found["squares"]))


_SCALES = {4: (1e-12, 1e12), 8: (1e-100, 1e100)}
"""Means of V, by bytes of a value, between which products of four factors stay in range."""


def check(
    state: State,
    survey: Survey,
    dtype: np.dtype,
    *,
    sparse: bool = False,
    advice: str | None = None,
    transposed: bool = False,
) -> None:
    """Refuse a V that cannot be factorized, before anything is committed.

    Parameters
    ----------
    state : State
        After the survey.
    survey : Survey
    dtype : numpy.dtype
        Dtype of the factors.
    sparse : bool
    advice : str or None
        The remedy of the source for negative values.
    transposed : bool
        Whether V's rows are the columns of X.

    Raises
    ------
    DataError
        If V holds NaN, infinities or negative values, or zeros that the loss does not take; if every observed
        entry of a row or a column is hidden; or if the mean of V is out of range.
    """
    shape = survey.shape
    found = dict(zip(FIELDS, state.sums, strict=True))
    size = shape[0] * shape[1] - found["n_missing"]
    if not size:
        raise DataError(
            f"nothing is observed: all {shape[0]} x {shape[1]} entries of X are missing, so there is nothing "
            "to factorize: check missing_values, the mask and the weights."
        )
    if found["n_nan"]:
        raise DataError(
            f"Input X contains NaN. {found['n_nan']:.0f} of {size:.0f} entries are missing; NMF takes "
            "finite values only: give missing_values='nan', or leave out the rows or columns with NaN."
        )
    if found["n_inf"]:
        raise DataError(
            "Input X contains infinity or a value too large for dtype('float64'). "
            f"{found['n_inf']:.0f} of {size:.0f} entries are infinite; NMF takes finite values only: "
            "replace them."
        )
    if found["n_negative"]:
        raise DataError(
            "Negative values in data passed to NMF initialization. "
            f"{found['n_negative']:.0f} of {size:.0f} entries are below zero, and NMF takes "
            f"nonnegative values only: {advice or mended(sparse)}."
        )
    survey.loss.check_zeros(found["n_zero"])
    hidden = state.hidden_rows, state.hidden_columns
    if any(hidden):
        n_rows, n_columns = reversed(hidden) if transposed else hidden
        raise DataError(
            f"holdout hides all that is observed of {n_rows} rows and {n_columns} columns of X; a fit needs "
            "some of each: hide a smaller share, give another random_state, or leave out rows and columns "
            "with few entries."
        )
    mean = found["total"] / size
    least, most = _SCALES[dtype.itemsize]
    if mean and not least <= mean <= most:
        raise DataError(
            f"the mean of X is {mean:.3g}; in {dtype} products of factors stay in range for means "
            f"between {least:g} and {most:g}: rescale X, the factors scale with it"
            f"{', or give dtype=np.float64' if dtype.itemsize < 8 else ''}."
        )


def mended(sparse: bool) -> str:
    """Advice on negative values."""
    if not sparse:
        return "shift or clip the values, or give them as they were before they were centred"
    # No advice to shift: a shifted V would not be sparse. A sparse V with negatives was transformed before.
    return (
        "log-ratio, scaled or centred values are the wrong input: give the counts, as a layer or `.raw` "
        "may keep them, or what normalizing and log1p make of them"
    )


@dataclass(frozen=True)
class Surveyed(PhaseWrapper):
    """A phase with the survey in the same read of V."""

    survey: Survey

    def tally(self) -> Tally:
        return Tally(self.survey.tally() | self.phase.tally())

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.survey.tile(tile, rows, None, tally)
        self.phase.tile(tile, rows, inputs, tally)

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        state, _ = self.survey.update(tally, state)
        if not self.survey.takes(tally):
            return state, Outcome()  # `check` will refuse V; the other phase cannot work on it
        return self.phase.update(tally, state)


@dataclass(frozen=True)
class Pinned(PhaseWrapper):
    """A phase that makes an H, whose first rows are replaced by fixed rows.

    Parameters
    ----------
    fixed : ndarray of shape (n_fixed, n_features)
    """

    fixed: np.ndarray

    def update(self, tally: Tally, state: State) -> tuple[State, Outcome]:
        after, outcome = self.phase.update(tally, state)
        if isinstance(after, FactorState):
            after = replace(after, H=self._pinned(after.H), pending_H=self._pinned(after.pending_H))
        return after, outcome

    def _pinned(self, H: np.ndarray | None) -> np.ndarray | None:
        return None if H is None else np.concatenate([self.fixed.astype(H.dtype), H[len(self.fixed) :]])


@dataclass(frozen=True)
class MeanFilled(PhaseWrapper):
    """A phase over V with missing entries replaced by column means, which the survey has found."""

    def prepare(self, state: State) -> Any:
        return self.phase.prepare(state), state.fill

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        inner, fill = inputs
        # Starts use every observed entry unchanged, whatever its weight.
        P = np.broadcast_to(fill.astype(tile.dtype), (tile.n_rows, tile.n_features))
        filled = tile.imputed_from(P, by_weight=False)
        self.phase.tile(filled, rows, inner, tally)
