"""What must match when a run goes on, and what may change."""

from __future__ import annotations

import hashlib
from numbers import Integral
from typing import Any

import dask.array as da
import numpy as np

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.image_grid import Layout
from dasknmf.data.prepared import Prepared
from dasknmf.fitting.model import Model
from dasknmf.store import features

_CHUNKED = "in chunks"
"""Of weights that are read with X: their sums are compared with its own, at every read."""
_ROUNDING = 1e-6
"""Between two scales of the same data: far above any rounding, far below what another X would give."""


def identity_of(
    estimator: Any,
    model: Model,
    shape: tuple[int, int],
    start: tuple[Any, Any],
    *,
    transposed: bool,
    names: np.ndarray | None = None,
    preparation: dict[str, Any] | None = None,
    layout: Layout | None = None,
    entries: EntryWeights | None = None,
    weights: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The identity and the budget of a fit, as JSON values.

    Parameters
    ----------
    estimator : NMF
        Its parameters, where they are not settled by the model.
    model : Model
    shape : tuple of int
        n_samples, n_features, as the user sees them.
    start : tuple of arrays or None
        W and H of a custom start.
    transposed : bool
        Whether the roles of W and H are exchanged.
    names : ndarray of str, optional
        Of the features.
    preparation : dict or None
        What is done to X in every read, as JSON values.
    layout : Layout, optional
        Of the stack that X is.
    entries : EntryWeights or None
        What is told of X's entries.
    weights : dict of arrays or None
        Weights of samples, features and entries, by name; where they are not at hand, what tells them from
        others.
    """
    asked_seed = estimator.random_state if isinstance(estimator.random_state, Integral) else None
    alpha_H = estimator.alpha_H if isinstance(estimator.alpha_H, str) else float(estimator.alpha_H)
    inner_iter = model.inner_iter if isinstance(model.inner_iter, str) else int(model.inner_iter)
    parameters: dict[str, Any] = {
        "n_components": model.k,
        "init": model.init,
        "solver": model.solver,
        "beta_loss": model.loss.beta,
        "random_state": None if asked_seed is None else int(asked_seed),
        "alpha_W": float(estimator.alpha_W),
        "alpha_H": alpha_H,
        "l1_ratio": float(estimator.l1_ratio),
        "shuffle": bool(model.shuffle),
        "inner_iter": inner_iter,
    }
    if estimator.n_init > 1:
        parameters["n_init"] = int(estimator.n_init)
        parameters["halving"] = bool(estimator.halving)
    if model.init == "sample":
        parameters["sample_bytes"] = int(model.sample_bytes)
    if not model.loss.quadratic and model.inner_iter == "auto":
        # How often W moves between two reads depends on it.
        parameters["X_in_memory"] = not model.streamed
    if model.variant.fixed is not None:
        parameters["fixed_components"] = _digest(model.variant.fixed)
    if model.variant.sum_to_one:
        parameters["sum_to_one"] = True
    resampling = model.variant.resampling
    if resampling is not None:
        parameters["perturbation"] = resampling.described
    for name, factor in zip("WH", start, strict=True):
        if factor is not None:
            parameters[name] = _digest(factor)
    identity = {
        "shape": list(shape),
        "dtype": model.dtype.str,
        "transposed": transposed,
        "seed": model.seed,
        "model": parameters,
    }
    if names is not None:
        identity["feature_names"] = features.digest(names)
    if preparation is not None:
        identity["preparation"] = preparation
    if layout is not None:
        identity["layout"] = layout.geometry()
    if entries is not None:
        identity["entries"] = _told(entries)
    for name, weight in (weights or {}).items():
        if isinstance(weight, str):
            identity[name] = weight
        elif weight is not None:
            identity[name] = _digest(weight) if isinstance(weight, np.ndarray) else _CHUNKED
    return identity, {"max_iter": int(estimator.max_iter), "tol": float(estimator.tol)}


def with_stored_scale(X: Any, checkpoint: Any) -> Any:
    """X divided by what the run at `checkpoint` was begun with, where that is the same but for rounding.

    A scale that is computed from the data anew may differ in last bits on another kind of CPU; V then is
    still that of the run, bit for bit.
    """
    if checkpoint is None or not isinstance(X, Prepared) or X.preparation.scale is None:
        return X
    stored = features.stored_scale(checkpoint)
    if stored is None or stored.shape != X.preparation.scale.shape:
        return X
    same = np.allclose(X.preparation.scale, stored, rtol=_ROUNDING, atol=0)
    return X.rescaled(stored) if same else X


def _told(entries: EntryWeights) -> dict[str, Any]:
    """Of entries, as JSON values; arrays by digest."""
    told: dict[str, Any] = {}
    if entries.nan:
        told["nan"] = "missing"
    for name in ("nodata", "scale", "offset"):
        value = getattr(entries, name)
        told[name] = _digest(value) if isinstance(value, np.ndarray) else value
    if entries.negatives != "error":
        told["negatives"] = entries.negatives
    if entries.holdout is not None:
        told["holdout"] = entries.holdout.share
    plain = {"nodata": None, "scale": 1.0, "offset": 0.0}
    return {name: value for name, value in told.items() if name not in plain or value != plain[name]}


def _digest(factor: Any) -> str:
    """Of the values in row order, a block of rows at a time."""
    digest = hashlib.sha256()
    blocks = factor.rechunk({1: -1}).blocks if isinstance(factor, da.Array) else [factor]
    for block in blocks:
        digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()[:16]
