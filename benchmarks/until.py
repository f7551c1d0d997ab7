"""How long a fit takes to reach an error, from its call to the record that tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from dasknmf import NMF
from dasknmf.core.history import Record
from dasknmf.core.losses import Loss

_SLACK = 1e-6
_SLAB_ROWS = 4096


class _Reached(Exception):
    """Ends a fit from inside its callback."""


@dataclass(frozen=True)
class Race:
    """One model that runs until its loss is at most `target`.

    Parameters
    ----------
    model : NMF
        With ``tol=0``, so that no stop rule of its own ends it earlier.
    V : array
    target : float
        The loss D to reach, up to 1e-6 of it.
    """

    model: NMF
    V: Any
    target: float

    def record(self) -> Record | None:
        """Fit up to the first record with the target's loss; None where `max_iter` passes have none.

        The wall time of this call is the time to the error: the start and every read are in it.
        """
        found: list[Record] = []

        def watch(record: Record) -> None:
            told = record.loss is not None and not record.measures.get("imprecise")
            if told and record.loss <= self.target * (1 + _SLACK):
                found.append(record)
                raise _Reached

        try:
            clone(self.model).fit(self.V, callbacks=(watch,))
        except _Reached:
            return found[0]
        return None

    def scouted(self) -> tuple[int | None, float]:
        """Exact passes that the target took, and D then over the target: untimed, D in float64.

        Without an arrival: None, and D after `max_iter` passes over the target.
        """
        record = self.record()
        model = clone(self.model)
        passes = None
        if record is not None:
            # A loss "at entry" is that of the pair which the pass before left.
            passes = max(1, record.iteration - (record.loss_at == "entry" and record.phase == "exact"))
            model.set_params(max_iter=passes)
        W = np.asarray(model.fit_transform(self.V))
        reached = loss_of(self.V, W, model.components_, Loss.named(model.beta_loss))
        return (None if record is None else record.iteration), reached / self.target


def loss_of(V: Any, W: np.ndarray, H: np.ndarray, loss: Loss) -> float:
    """D(V | WH) in float64, a slab of rows at a time."""
    H = H.astype(np.float64)
    total = 0.0
    for first in range(0, V.shape[0], _SLAB_ROWS):
        rows = slice(first, first + _SLAB_ROWS)
        P = W[rows].astype(np.float64) @ H
        total += float(loss.rows(np.asarray(V[rows]), P, np.finfo(np.float32).eps).sum())
    return total
