"""Names of the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_SHOWN = 5


def feature_names(X: Any) -> np.ndarray | None:
    """Names of X's columns, an object array of str as in scikit-learn; None if X has no names.

    Raises
    ------
    ValueError
        If the number of names is not the number of columns.
    """
    given = getattr(X, "feature_names", None)
    if given is None:
        return None
    names = np.asarray([str(name) for name in given], dtype=object)
    if len(names) != X.shape[1]:
        raise ValueError(
            f"X has {len(names)} feature names for {X.shape[1]} columns; each column needs a name: give "
            "as many, or none."
        )
    return names


def renamed(known: Sequence[str] | np.ndarray, found: Sequence[str] | np.ndarray) -> str | None:
    """The difference between two lists of names, as text; None if they are equal."""
    if len(known) != len(found):
        return f"{len(found)} names instead of {len(known)}"
    other = [i for i, (a, b) in enumerate(zip(known, found, strict=True)) if a != b]
    if not other:
        return None
    if sorted(known) == sorted(found):
        return f"the same names in another order ({len(other)} of {len(known)} moved)"
    shown = ", ".join(f"{known[i]!r} became {found[i]!r}" for i in other[:_SHOWN])
    more = ", …" if len(other) > _SHOWN else ""
    differ = "differs" if len(other) == 1 else "differ"
    return f"{len(other)} of {len(known)} names {differ}: {shown}{more}"
