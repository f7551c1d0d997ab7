"""The fingerprint of a problem: what must match when its run goes on, and what may change."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from zarr.storage import StoreLike

from dasknmf.data.prepared import Prepared
from dasknmf.data.source import Matrix
from dasknmf.fitting.problem import Problem
from dasknmf.store import features

MAY_CHANGE = {"max_iter", "tol"}
"""Fields of `Problem` that may differ when a run goes on."""
_ROUNDING = 1e-6
"""Relative tolerance between two scales of the same data: far above rounding, far below another X."""


def fingerprint(problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a problem as JSON values: those that must match when its run goes on, and the others."""
    fields = asdict(problem, dict_factory=_without_none)
    fields["shape"] = list(problem.shape)
    budget = {name: fields.pop(name) for name in MAY_CHANGE}
    return fields, budget


def _without_none(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if value is not None}


def with_stored_scale(X: Matrix, checkpoint: StoreLike | None) -> Matrix:
    """X with the scale stored in the run at `checkpoint`, where both scales are equal up to rounding.

    A scale computed again may differ in the last bits on another kind of CPU; with the stored scale, V is
    bit for bit that of the run.
    """
    if checkpoint is None or not isinstance(X, Prepared) or X.preparation.scale is None:
        return X
    stored = features.stored_scale(checkpoint)
    if stored is None or stored.shape != X.preparation.scale.shape:
        return X
    same = np.allclose(X.preparation.scale, stored, rtol=_ROUNDING, atol=0)
    return X.rescaled(stored) if same else X
