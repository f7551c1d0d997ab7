"""Names of features, and the order of values that have names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SHOWN = 5


@dataclass(frozen=True)
class NamedColumns:
    """A matrix in memory whose columns have names, from a table with a line of names for example."""

    values: np.ndarray
    columns: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)


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


def labels_of(values: Any, axis: int) -> np.ndarray | None:
    """Labels of an array along an axis, if all are str, as scikit-learn defines names; None otherwise.

    Parameters
    ----------
    values : array, data frame, series, or DataArray
    axis : int
    """
    if hasattr(values, "coords") and hasattr(values, "dims"):
        dim = [*values.dims, *(None,) * 2][axis]
        found = values.coords[dim].values if dim in values.coords else None
    else:
        found = getattr(values, "index" if axis == 0 else "columns", None)
    if found is None or callable(found):  # lists have a method of that name
        return None
    labels = np.asarray(found, dtype=object)
    if labels.ndim != 1 or not len(labels) or not all(isinstance(label, str) for label in labels):
        return None
    return labels


def aligned(values: Any, names: np.ndarray | None, what: str, axis: int = 0) -> Any:
    """Values in the order of names, where both have names; otherwise the values as they are.

    Values of other names are left out.

    Parameters
    ----------
    values : array-like or None
    names : ndarray of str or None
        Names of the samples or of the features of X; None: unknown.
    what : str
        Name of the argument, for messages.
    axis : int
        Axis of the values along which their labels are compared with the names.

    Raises
    ------
    ValueError
        If a name is missing among the labels, or is there more than once.
    """
    labels = None if values is None or names is None else labels_of(values, axis)
    if labels is None or names is None:
        return values
    names = np.asarray(names).astype(str)
    labels = labels.astype(str)
    if np.array_equal(labels, names):
        return values
    places, repeated = places_of(names, labels)
    wrong, problem = names[places < 0], "has no label for"
    if not len(wrong):
        wrong, problem = names[repeated], "repeats the label of"
    if len(wrong):
        shown = ", ".join(map(repr, wrong[:_SHOWN].tolist())) + (", …" if len(wrong) > _SHOWN else "")
        raise ValueError(
            f"{what} {problem} {len(wrong)} of the {len(names)} names in X ({shown}; its own labels begin "
            f"with {str(labels[0])!r}); values are matched by name: use the labels of X, or give an array "
            "without labels, which is matched by position."
        )
    if hasattr(values, "isel"):
        return values.isel({values.dims[axis]: places})
    if hasattr(values, "iloc"):  # labels along the other axis are kept
        return values.iloc[(slice(None),) * axis + (places,)]
    return np.take(np.asarray(values), places, axis)


def places_of(wanted: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each wanted name among others, and whether the name is there more than once.

    Parameters
    ----------
    wanted : ndarray of str of shape (n_wanted,)
    names : ndarray of str of shape (n_names,)

    Returns
    -------
    places : ndarray of int of shape (n_wanted,)
        -1 for names that are not there.
    repeated : ndarray of bool of shape (n_wanted,)
    """
    names, wanted = names.astype(str), wanted.astype(str)
    order = np.argsort(names, kind="stable")
    first, last = (np.searchsorted(names[order], wanted, side=side) for side in ("left", "right"))
    return np.where(last > first, np.append(order, -1)[first], -1), last - first > 1
