"""The options of a fit, the roles of W and H, and the `Problem` in plain values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike
from zarr.storage import StoreLike

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.history import Callback
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.resampled import Resampling
from dasknmf.data.source import MatrixLike

Factor: TypeAlias = np.ndarray | da.Array
"""W or H."""
T = TypeVar("T")


@dataclass(frozen=True)
class FitOptions:
    """The arguments of `NMF.fit` beside X.

    Parameters
    ----------
    W, H, sample_weight, feature_weight, weights, holdout, checkpoint, overwrite, stage, callbacks
        As for `NMF.fit_transform`.
    returns_W : bool
        Whether W is returned: without a checkpoint it then lives in this process.
    resampling : Resampling or None
        Perturbation of X for each start; seed and row index are those of the model.
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


@dataclass(frozen=True)
class Roles:
    """The roles of W and H: V = X ~ W H or, transposed, V = Xᵀ ~ Hᵀ Wᵀ."""

    transposed: bool

    def swapped(self, first: T, second: T) -> tuple[T, T]:
        """A pair (W and H, or samples and features) in the order of V's rows and columns; self-inverse."""
        return (second, first) if self.transposed else (first, second)

    def penalties(self, penalties: Penalties) -> Penalties:
        """Penalties of the left and the right factor of V."""
        return Penalties(*self.swapped(penalties.W, penalties.H))

    def start(self, W: Factor, H: np.ndarray) -> tuple[Factor, np.ndarray]:
        """The left and the right factor of V at the start."""
        return (H.T, computed(W).T) if self.transposed else (W, H)


@dataclass(frozen=True)
class Choices:
    """The parameters of `NMF`, with every choice decided; None: without effect on this fit."""

    n_components: int
    init: str
    solver: str
    beta_loss: float
    random_state: int | None
    """As given; None also for a generator."""
    alpha_W: float
    alpha_H: float | str
    l1_ratio: float
    shuffle: bool
    inner_iter: int | str
    n_init: int | None = None
    halving: bool | None = None
    sample_bytes: int | None = None
    X_in_memory: bool | None = None
    """For losses other than Frobenius: decides the number of steps on W between two reads."""
    fixed_components: str | None = None
    """Digest."""
    sum_to_one: bool | None = None
    perturbation: dict[str, Any] | None = None
    W: str | None = None
    """Digest of a custom start."""
    H: str | None = None


@dataclass(frozen=True)
class Problem:
    """One fit: every choice that decides its numbers, as plain values. Arrays are digests.

    Parameters
    ----------
    shape : tuple of int
        n_samples, n_features.
    dtype : str
        Of W, H and the products.
    transposed : bool
        Whether Xᵀ is factorized.
    seed : int
    model : Choices
    max_iter : int
    tol : float
    feature_names : str or None
    preparation : dict or None
        Steps that prepare X in every read.
    layout : dict or None
        Of the stack of images that X is.
    entries : dict or None
        How stored values of X are read.
    sample_weight, feature_weight, weights, mask : str or None
    many : dict or None
        Ranks and starts of many factorizations in the same reads.
    """

    shape: tuple[int, int]
    dtype: str
    transposed: bool
    seed: int
    model: Choices
    max_iter: int
    tol: float
    feature_names: str | None = None
    preparation: dict[str, Any] | None = None
    layout: dict[str, Any] | None = None
    entries: dict[str, Any] | None = None
    sample_weight: str | None = None
    feature_weight: str | None = None
    weights: str | None = None
    mask: str | None = None
    many: dict[str, Any] | None = None


def described_entries(entries: EntryWeights) -> dict[str, Any]:
    """How stored values are read, as plain values; defaults are left out."""
    described: dict[str, Any] = {"nan": "missing"} if entries.nan else {}
    for name, plain in (("nodata", None), ("scale", 1.0), ("offset", 0.0)):
        value = getattr(entries, name)
        if isinstance(value, np.ndarray):
            described[name] = digest(value)
        elif value != plain:
            described[name] = value
    if entries.negatives != "error":
        described["negatives"] = entries.negatives
    if entries.holdout is not None:
        described["holdout"] = entries.holdout.share
    return described


def digest(array: object) -> str:
    """Digest (16 hex digits of SHA-256) of the values of an array in row order, block by block."""
    digest = hashlib.sha256()
    blocks = array.rechunk({1: -1}).blocks if isinstance(array, da.Array) else [array]
    for block in blocks:
        digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()[:16]


def computed(F: np.ndarray | da.Array) -> np.ndarray:
    """A factor as a NumPy array."""
    return np.asarray(F.compute() if isinstance(F, da.Array) else F)


def spawned(seed: int, count: int) -> list[int]:
    """Seeds of `count` starts: first `seed` itself, then seeds derived from it."""
    return [seed, *np.random.SeedSequence(seed).generate_state(count - 1).tolist()]
