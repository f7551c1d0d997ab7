"""Names, scale and weight of the features of a run, written once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import to_builtins
from zarr.abc.store import Store

from dasknmf.core.feature_names import renamed
from dasknmf.core.image_grid import Layout
from dasknmf.errors import RunMismatchError
from dasknmf.store import arrays, records
from dasknmf.store.schema import FeatureNames, Identity

log = logging.getLogger("dasknmf")

PATH = "features"
_SCALE, _WEIGHT = f"{PATH}/scale", f"{PATH}/weight"
_MOST_BYTES = 2**24
"""Largest size of the names as JSON, in bytes: a record is read and written as a whole."""


@dataclass(frozen=True)
class Features:
    """Names, scale and weight of the columns of X, and the layout of a stack of images."""

    names: np.ndarray | None = None
    scale: np.ndarray | None = None
    """Divisors of the columns, shape (n_features,)."""
    weight: np.ndarray | None = None
    """Weights of the columns, shape (n_features,)."""
    layout: Layout | None = None


def digest(names: Sequence[str] | np.ndarray) -> str:
    """The digest of names in a run's identity."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]


def write_features(store: Store, features: Features) -> None:
    """Write the scale, weight and names that are not None; names only up to 16 MiB."""
    if features.scale is not None:
        arrays.write_array(store, _SCALE, features.scale)
    if features.weight is not None:
        arrays.write_array(store, _WEIGHT, features.weight)
    names = features.names
    if names is None:
        return
    kept: tuple[str, ...] | None = tuple(names)
    size = len(json.dumps(list(names)))
    if size > _MOST_BYTES:
        log.warning(
            "the %d feature names take %d bytes, more than the limit of %d, and are not stored: only their "
            "digest is compared when the run is resumed",
            len(names),
            size,
            _MOST_BYTES,
        )
        kept = None
    records.write_record(store, PATH, FeatureNames(kept))


def read_names(store: Store, identity: Identity) -> np.ndarray | None:
    """The feature names of a run, shape (n_features,); None if it has none.

    Raises
    ------
    RunDamagedError
        If they are missing, or differ from the run's identity.
    """
    known = identity.feature_names
    if known is None:
        return None
    found = records.needed_record(store, PATH, FeatureNames)
    if found.names is None:
        return None
    names = np.asarray(found.names, dtype=object)
    if digest(names) != known:
        reason = f"its names have the digest {digest(names)}, and the run began with {known}"
        raise records.damaged(store, PATH, reason)
    if len(names) != identity.shape[1]:
        raise records.damaged(store, PATH, f"{len(names)} names, and V has {identity.shape[1]} features")
    return names


def check(store: Store, identity: Identity, features: Features) -> None:
    """Raise an error if the features have other names or another scale than those of the run.

    Raises
    ------
    RunMismatchError
    """
    stored, names = read_names(store, identity), features.names
    difference = renamed(stored, names) if stored is not None and names is not None else None
    if difference is not None:
        raise RunMismatchError(
            f"the run at {str(store)!r} has other features: {difference}. A run can be resumed only with the "
            "same V: give the same features in the same order, choose another checkpoint, or start over with "
            "overwrite=True."
        )
    was, now = read_preparation(store, identity).get("scale"), features.scale
    if was is None or now is None or was.shape != now.shape or np.array_equal(was, now):
        return
    other = np.flatnonzero(was != now)
    first = int(np.argmax(np.abs(was - now) / was))
    named = f"feature {first}" if names is None else f"feature {names[first]!r}"
    raise RunMismatchError(
        f"the run at {str(store)!r} has another scale: {len(other)} of {len(was)} divisors changed, most of "
        f"all that of {named}: {was[first]:g} in the run, {now[first]:g} now. A run can be resumed only with "
        "the same V: give the same scale, or the data from which it was computed, choose another "
        "checkpoint, or start over with overwrite=True."
    )


def read_preparation(store: Store, identity: Identity) -> dict[str, Any]:
    """The preparation of a run: `target_sum`, `log1p` and `scale`; empty where X is not `Prepared`.

    Raises
    ------
    RunDamagedError
        If the scale is missing or altered.
    """
    steps = identity.preparation
    if steps is None:
        return {}
    scale = None if steps.scale is None else _per_feature(store, _SCALE, identity)
    before = {} if steps.before is None else {"before": to_builtins(steps.before)}
    return {"target_sum": steps.target_sum, "log1p": steps.log1p, "scale": scale, **before}


def _per_feature(store: Store, path: str, identity: Identity) -> np.ndarray:
    """An array of shape (n_features,)."""
    values = arrays.read_array(store, path)
    n_features = identity.shape[1]
    if values.shape != (n_features,) or values.dtype.kind != "f":
        reason = f"it is of {values.dtype}, shape {values.shape}, and V has {n_features} features"
        raise arrays.damaged(store, path, reason)
    return values


def read_weight(store: Store, identity: Identity) -> np.ndarray | None:
    """The weights of the features of a run; None if there are none.

    Raises
    ------
    RunDamagedError
        If the weights are missing or altered.
    """
    return _per_feature(store, _WEIGHT, identity) if identity.feature_weight is not None else None
