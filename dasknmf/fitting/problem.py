"""The options of a fit, and digests and seeds of its problem."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike
from zarr.storage import StoreLike

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.history import Callback
from dasknmf.core.solvers.resampled import Resampling
from dasknmf.data.source import MatrixLike
from dasknmf.store import schema

Factor: TypeAlias = np.ndarray | da.Array
"""W or H."""


@dataclass(frozen=True)
class FitOptions:
    """The arguments of `NMF.fit` beside X.

    Parameters
    ----------
    W, H, sample_weight, feature_weight, weights, holdout, checkpoint, overwrite, stage, callbacks
        As for `NMF.fit_transform`.
    returns_W : bool
        Whether W is returned; without a checkpoint W is then in this process.
    resampling : Resampling or None
        Perturbation of X for each start; the model sets the seed and the row index.
    many : dict or None
        Ranks and starts of many factorizations in the same reads, as JSON values; None for one rank.
    """

    W: Factor | None = None
    H: Factor | None = None
    sample_weight: ArrayLike | None = None
    feature_weight: ArrayLike | None = None
    weights: MatrixLike | None = None
    holdout: float | None = None
    checkpoint: StoreLike | None = None
    overwrite: bool = False
    stage: str | os.PathLike[str] | None = None
    callbacks: Sequence[Callback] = ()
    returns_W: bool = False
    resampling: Resampling | None = None
    many: dict[str, Any] | None = None


def described_entries(entries: EntryWeights) -> schema.Entries:
    """The decoding of stored values as plain values; None for defaults."""

    def described(value: float | np.ndarray | None, plain: float | None) -> str | float | None:
        if isinstance(value, np.ndarray):
            return digest(value)
        return None if value is None or value == plain else float(value)

    return schema.Entries(
        "missing" if entries.nan else None,
        described(entries.nodata, None),
        described(entries.scale, 1.0),
        described(entries.offset, 0.0),
        None if entries.negatives == "error" else entries.negatives,
        None if entries.holdout is None else entries.holdout.share,
    )


def digest(array: object) -> str:
    """Digest (16 hex digits of SHA-256) of the values of an array in row order, block by block."""
    digest = hashlib.sha256()
    blocks = array.rechunk({1: -1}).blocks if isinstance(array, da.Array) else [array]
    for block in blocks:
        digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()[:16]


def start_seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` starts: first `seed` itself, then seeds derived from it."""
    return [seed, *np.random.SeedSequence(seed).generate_state(count - 1).tolist()]
