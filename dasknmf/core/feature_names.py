"""Names of the features, where V knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_SHOWN = 5


def feature_names(X: Any) -> np.ndarray | None:
    """The names that X has for its columns, as scikit-learn keeps them: an object array of str.

    None where X has none: ``X.feature_names`` is not there or None.

    Raises
    ------
    ValueError
        If there is not one name for each column.
    """
    given = getattr(X, "feature_names", None)
    if given is None:
        return None
    names = np.asarray([str(name) for name in given], dtype=object)
    if len(names) != X.shape[1]:
        raise ValueError(
            f"X has {len(names)} feature names for {X.shape[1]} columns; there must be one for each: give "
            "as many, or none."
        )
    return names


def renamed(known: Sequence[str] | np.ndarray, found: Sequence[str] | np.ndarray) -> str | None:
    """What tells two lists of names apart, in words; None where they are the same."""
    if len(known) != len(found):
        return f"{len(found)} names instead of {len(known)}"
    other = [i for i, (a, b) in enumerate(zip(known, found, strict=True)) if a != b]
    if not other:
        return None
    if sorted(known) == sorted(found):
        return f"the same names in another order, {len(other)} of {len(known)} elsewhere"
    shown = ", ".join(f"{known[i]!r} became {found[i]!r}" for i in other[:_SHOWN])
    more = ", …" if len(other) > _SHOWN else ""
    return f"{len(other)} of {len(known)} names differ: {shown}{more}"
