"""Rules that choose a rank from the columns of the table of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SILHOUETTE = 0.8
"""The threshold of NMFk for the smallest silhouette."""
_COLUMNS = {
    "holdout": "holdout",
    "silhouette": "silhouette_min",
    "stability": "instability",
    "cophenetic": "cophenetic",
    "dispersion": "dispersion",
}
"""The column by which each rule chooses."""
RULES = tuple(_COLUMNS)
_AGREEMENT = ("stability", "cophenetic", "dispersion")
"""Rules for which rank 1 is perfect, whatever V is."""
_EQUAL = 1e-3
"""Measures of agreement that differ by less are equal: the stop rule makes no finer difference."""


def choose(
    n_components: Sequence[int], columns: Mapping[str, Any], rule: str | None = None, *, n_init: int = 1
) -> int:
    """The rank that a rule chooses. Each rule leaves out ranks with NaN in its column.

    ``"holdout"``
        The smallest rank whose mean loss over hidden entries [1]_ [2]_ is at most one standard error above
        the lowest (``holdout``, ``holdout_std``), the rule of [3]_. In [3]_ the error is over folds; here it
        is over starts, all with the same hidden entries, and does not cover the choice of the entries.
    ``"silhouette"``
        The largest rank whose smallest silhouette (``silhouette_min``) is at least 0.8, as in NMFk [4]_. If
        none is, the rank with the highest one, with a warning.
    ``"stability"``
        The lowest ``instability`` [5]_.
    ``"cophenetic"``
        The last rank before ``cophenetic`` first falls [6]_.
    ``"dispersion"``
        The highest ``dispersion`` [7]_.

    The last three rules choose rank 1 only if no other rank is known, as a single component always agrees
    with itself. They treat values within 0.001 as equal, and choose the largest of equal ranks. Ranks that
    are too small may agree better than the right one: look at the whole curve.

    Parameters
    ----------
    n_components : sequence of int
        The ranks, in any order.
    columns : mapping of str to sequence of float, or DataFrame
        One value per rank, NaN where unknown.
    rule : str, optional
        By default ``"holdout"`` if its column has a value, else ``"silhouette"``.
    n_init : int, default=1
        Number of starts, of which ``holdout`` is the mean and ``holdout_std`` the standard deviation.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the rule is unknown, or its column has no value.

    Warns
    -----
    UserWarning
        If no smallest silhouette reaches the threshold.

    References
    ----------
    .. [1] Wold, S. (1978). Cross-validatory estimation of the number of components in factor and principal
       components models. Technometrics, 20(4), 397-405.
    .. [2] Owen, A. B., & Perry, P. O. (2009). Bi-cross-validation of the SVD and the nonnegative matrix
       factorization. Ann. Appl. Stat., 3(2), 564-594.
    .. [3] Breiman, L., Friedman, J., Olshen, R., & Stone, C. (1984). Classification and Regression Trees,
       section 3.4.3.
    .. [4] Nebgen, B. T., et al. (2021). A neural network for determination of latent dimensionality in
       non-negative matrix factorization. Machine Learning: Science and Technology, 2(2).
    .. [5] Wu, S., et al. (2016). Stability-driven nonnegative matrix factorization to interpret spatial gene
       expression and build local gene networks. PNAS, 113(16), 4290-4295.
    .. [6] Brunet, J.-P., et al. (2004). Metagenes and molecular pattern discovery using matrix factorization.
       PNAS, 101(12), 4164-4169.
    .. [7] Kim, H., & Park, H. (2007). Sparse non-negative matrix factorizations via alternating
       non-negativity-constrained least squares for microarray data analysis. Bioinformatics, 23(12).

    Examples
    --------
    >>> from dasknmf.selection.rules import choose
    >>> choose([2, 3, 4], {"silhouette_min": [0.9, 0.95, 0.4]})
    3
    """
    rule = default_rule(columns) if rule is None else rule
    check_rule(rule)
    ranks = np.asarray(n_components, dtype=int)
    values, errors = _values(columns, rule, ranks), _errors(columns, ranks, n_init)
    known = np.isfinite(values)
    if not known.any():
        remedy = "hide entries (holdout=0.05)" if rule == "holdout" else "fit each from two starts or more"
        raise ValueError(
            f"the rule {rule!r} chooses by {_COLUMNS[rule]}, which is not known for any of the ranks "
            f"{ranks.tolist()}: {remedy}, or choose another rule."
        )
    if rule in _AGREEMENT and (ranks[known] > 1).any():
        known &= ranks > 1
    order = np.flatnonzero(known)[np.argsort(ranks[known])]
    ranks, values = ranks[order], values[order]
    if rule == "holdout":
        lowest = int(values.argmin())
        return int(ranks[values <= values[lowest] + errors[order][lowest]][0])
    if rule == "silhouette":
        highest = float(values.max())
        if highest < _SILHOUETTE:
            warnings.warn(
                f"no rank has a smallest silhouette of {_SILHOUETTE:g}; the rank with the highest, "
                f"{highest:.3g}, is chosen, but is not stable: try other ranks, more starts or a smaller "
                "tol.",
                UserWarning,
                stacklevel=2,
            )
        return int(ranks[values >= min(_SILHOUETTE, highest)][-1])
    if rule == "cophenetic":
        falls = np.flatnonzero(np.diff(values) < -_EQUAL)
        return int(ranks[falls[0] if len(falls) else -1])
    values = values if rule == "stability" else -values
    return int(ranks[values <= values.min() + _EQUAL][-1])


def check_rule(rule: str | None) -> None:
    """Raise an error if there is no rule of this name.

    Raises
    ------
    ValueError
    """
    if rule is not None and rule not in _COLUMNS:
        raise ValueError(f"rule is {rule!r}; it must be one of {sorted(_COLUMNS)}: choose one.")


def explained(
    best: int, n_components: Sequence[int], columns: Mapping[str, Any], rule: str, *, n_init: int = 1
) -> str:
    """The reason why a rule chose the rank `best`, with numbers; other parameters as for `choose`."""
    ranks = np.asarray(n_components, dtype=int)
    values = _values(columns, rule, ranks)
    own = float(values[ranks == best][0])
    if rule == "holdout":
        at = int(np.nanargmin(values))
        error = _errors(columns, ranks, n_init)[at]
        bound = f"{values[at]:.4g} + {error:.2g}"
        if ranks[at] == best:
            return (
                "the lowest loss over hidden entries; no smaller rank is within one standard error over "
                f"starts, {bound}"
            )
        return (
            f"the smallest rank whose loss over hidden entries, {own:.4g}, is within one standard error over "
            f"starts of the lowest, {bound} ({ranks[at]} components)"
        )
    if rule == "silhouette":
        if own < _SILHOUETTE:
            return f"no rank has a smallest silhouette of {_SILHOUETTE:g}, and {own:.3g} is the highest"
        return f"the largest rank whose smallest silhouette, {own:.3g}, is at least {_SILHOUETTE:g}"
    if rule == "cophenetic":
        if best == ranks[np.isfinite(values)].max():
            return f"the largest rank, as the cophenetic correlation, here {own:.4g}, never falls"
        return f"the last rank before the cophenetic correlation, {own:.4g}, first falls"
    extreme = "lowest instability" if rule == "stability" else "highest dispersion"
    return f"the {extreme}, {own:.4g}; the largest rank within {_EQUAL:g} of it"


def default_rule(columns: Mapping[str, Any]) -> str:
    """``"holdout"`` if a loss over hidden entries is known of any rank, else ``"silhouette"``."""
    known = "holdout" in columns and np.isfinite(np.asarray(columns["holdout"], dtype=float)).any()
    return "holdout" if known else "silhouette"


def _values(columns: Mapping[str, Any], rule: str, ranks: np.ndarray) -> np.ndarray:
    """The column by which a rule chooses, NaN if it is missing."""
    name = _COLUMNS[rule]
    return np.asarray(columns[name] if name in columns else np.full(len(ranks), np.nan), dtype=float)


def _errors(columns: Mapping[str, Any], ranks: np.ndarray, n_init: int) -> np.ndarray:
    """The standard error over starts of the loss over hidden entries, 0 where unknown."""
    stds = columns["holdout_std"] if "holdout_std" in columns else np.zeros(len(ranks))
    return np.asarray(np.nan_to_num(np.asarray(stds, dtype=float)) / np.sqrt(n_init))
