"""Rules that choose a rank by what is known of each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SILHOUETTE = 0.8
"""NMFk's threshold of the smallest silhouette."""
_LOOKS_AT = {
    "holdout": "holdout",
    "silhouette": "silhouette_min",
    "stability": "instability",
    "cophenetic": "cophenetic",
    "dispersion": "dispersion",
}
"""The column that each rule decides by."""
RULES = tuple(_LOOKS_AT)
_AGREEMENT = ("stability", "cophenetic", "dispersion")
"""Rules for which a single component is perfect, whatever V is."""
_EQUAL = 1e-3
"""What two values of a measure of agreement must differ by: less is the tolerance of the stop rule."""


def choose(
    n_components: Sequence[int],
    columns: Mapping[str, Any],
    rule: str | None = None,
    *,
    n_init: int = 1,
    threshold: float = SILHOUETTE,
) -> int:
    """The rank that a rule chooses.

    ``"holdout"``
        The smallest rank whose mean loss over hidden entries is within one standard error of the lowest
        (``holdout``, ``holdout_std``), after Breiman, Friedman, Olshen & Stone (1984), Classification and
        Regression Trees, 3.4.3. Theirs is the error over folds; all starts have the same entries hidden, and
        this is that of their mean: it tells how far starts differ, and not what other entries would say.
        Hidden entries after Wold (1978), Technometrics 20, and Owen & Perry (2009), Ann. Appl. Stat. 3.
    ``"silhouette"``
        The largest rank whose smallest silhouette (``silhouette_min``) is at least 0.8: NMFk, Nebgen
        et al. (2021). Where none reaches that, the highest that is reached takes its place, with a warning.
    ``"stability"``
        The lowest ``instability``: Wu et al. (2016).
    ``"cophenetic"``
        The last rank before ``cophenetic`` first falls: Brunet et al. (2004).
    ``"dispersion"``
        The highest ``dispersion``: Kim & Park (2007).

    A single component always agrees with itself: the last three rules take rank 1 only where there is no
    other. Values of theirs within 0.001 are equal; of equal ones the largest rank is taken. A few
    components may agree better than the right number of them: look at the curve before one of these rules.

    Parameters
    ----------
    n_components : sequence of int
        The ranks, in any order.
    columns : mapping of str to sequence of float, or DataFrame
        What is known of each rank, NaN where it is not: such a rank is left out.
    rule : str, optional
        ``"holdout"`` where that is known of any rank, else ``"silhouette"``, if not given.
    n_init : int, default=1
        Of how many starts ``holdout`` is the mean and ``holdout_std`` the standard deviation.
    threshold : float, default=0.8
        Of the rule ``"silhouette"``.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the rule is unknown, what it looks at is known of no rank, or a column is of another length.

    Warns
    -----
    UserWarning
        If the threshold was lowered.
    """
    rule = default_rule(columns) if rule is None else rule
    check_rule(rule)
    ranks = np.asarray(n_components, dtype=int)
    values = _column(columns, _LOOKS_AT[rule], len(ranks))
    stds = _column(columns, "holdout_std", len(ranks))
    known = np.isfinite(values)
    if not known.any():
        remedy = "hide entries (holdout=0.05)" if rule == "holdout" else "run each with two starts or more"
        raise ValueError(
            f"{_LOOKS_AT[rule]} is known of none of the ranks {ranks.tolist()}; the rule {rule!r} looks at "
            f"it: {remedy}, or choose another rule."
        )
    if rule in _AGREEMENT and (ranks[known] > 1).any():
        known &= ranks > 1
    order = np.flatnonzero(known)[np.argsort(ranks[known])]
    ranks, values = ranks[order], values[order]
    if rule == "holdout":
        at = _within_one_error(values, np.nan_to_num(stds[order]) / np.sqrt(n_init))
    elif rule == "silhouette":
        at = _above(values, threshold)
    elif rule == "cophenetic":
        at = _before_the_fall(values)
    else:
        at = _lowest(values if rule == "stability" else -values)
    return int(ranks[at])


def check_rule(rule: str | None) -> None:
    """Refuse a rule that there is not."""
    if rule is not None and rule not in _LOOKS_AT:
        raise ValueError(f"rule is {rule!r}; it must be one of {sorted(_LOOKS_AT)}: choose one.")


def explained(
    best: int,
    n_components: Sequence[int],
    columns: Mapping[str, Any],
    rule: str,
    *,
    n_init: int = 1,
    threshold: float = SILHOUETTE,
) -> str:
    """Why a rule chose a rank, in its figures; the other parameters are those of `choose`."""
    ranks = np.asarray(n_components, dtype=int)
    values = _column(columns, _LOOKS_AT[rule], len(ranks))
    own = float(values[ranks == best][0])
    if rule == "holdout":
        at = int(np.nanargmin(values))
        error = np.nan_to_num(_column(columns, "holdout_std", len(ranks))[at]) / np.sqrt(n_init)
        bound = f"{values[at]:.4g} + {error:.2g} (one standard error over starts)"
        if ranks[at] == best:
            return f"the lowest loss over hidden entries, and no smaller rank is within {bound}"
        return (
            f"the smallest whose loss over hidden entries, {own:.4g}, is within that of {ranks[at]} "
            f"components, {bound}"
        )
    if rule == "silhouette":
        if own < threshold:
            return f"none reaches a smallest silhouette of {threshold:g}, and its {own:.3g} is the highest"
        return f"the largest whose smallest silhouette, {own:.3g}, is at least {threshold:g}"
    if rule == "cophenetic":
        if best == ranks[np.isfinite(values)].max():
            return f"the largest, as the cophenetic correlation, here {own:.4g}, never falls"
        return f"the last before the cophenetic correlation, {own:.4g}, first falls"
    extreme = "lowest instability" if rule == "stability" else "highest dispersion"
    return f"the {extreme}, {own:.4g}; of ranks within {_EQUAL:g} of it the largest"


def default_rule(columns: Mapping[str, Any]) -> str:
    """``"holdout"`` where a loss over hidden entries is known of any rank, else ``"silhouette"``."""
    known = "holdout" in columns and np.isfinite(np.asarray(columns["holdout"], dtype=float)).any()
    return "holdout" if known else "silhouette"


def _column(columns: Mapping[str, Any], name: str, length: int) -> np.ndarray:
    if name not in columns:
        return np.full(length, np.nan)
    values = np.asarray(columns[name], dtype=float)
    if values.shape != (length,):
        raise ValueError(
            f"{name} has shape {values.shape} and there are {length} ranks; each needs one: give as many."
        )
    return values


# Below, values are in the order of their ranks, and all known; an index is returned.


def _within_one_error(losses: np.ndarray, errors: np.ndarray) -> int:
    lowest = int(losses.argmin())
    return int(np.flatnonzero(losses <= losses[lowest] + errors[lowest])[0])


def _above(smallest: np.ndarray, threshold: float) -> int:
    highest = float(smallest.max())
    if highest < threshold:
        warnings.warn(
            f"no rank has a smallest silhouette of {threshold:g}; the highest, {highest:.3g}, decides, and "
            "says that no rank is stable: try other ranks, more starts or a smaller tol.",
            UserWarning,
            stacklevel=3,
        )
    return int(np.flatnonzero(smallest >= min(threshold, highest))[-1])


def _lowest(values: np.ndarray) -> int:
    return int(np.flatnonzero(values <= values.min() + _EQUAL)[-1])


def _before_the_fall(values: np.ndarray) -> int:
    falls = np.flatnonzero(np.diff(values) < -_EQUAL)
    return int(falls[0]) if len(falls) else len(values) - 1
