"""What is asked of a consensus, checked before X is read."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from dasknmf.estimator import NMF

_UNSEEDED = ("nndsvd", "nndsvda", "custom")
"""Starts that are the same, or nearly, for every seed."""


def seeded(nmf: dict[str, Any]) -> dict[str, Any]:
    """Parameters of `NMF` whose starts differ by their seeds.

    Raises
    ------
    ValueError
        If theirs do not.
    TypeError
        If `NMF` has no such parameter.
    """
    if unknown := sorted(nmf.keys() - NMF().get_params().keys()):
        raise TypeError(
            f"{', '.join(unknown)} is given, which is no parameter of NMF nor of a consensus: leave it out."
        )
    nmf = {"init": "random"} | nmf
    if nmf["init"] in _UNSEEDED:
        raise ValueError(
            f"init is {nmf['init']!r}, nearly the same for every seed; a consensus is of starts that differ: "
            "use init='random', 'sample' or 'nndsvdar'."
        )
    if nmf.get("fixed_components") is not None:
        raise ValueError(
            "fixed_components are the same in every factorization, so that their agreement tells nothing: "
            "leave them out, or use NMF(fixed_components=) alone."
        )
    return nmf


def checked(n_components: int, n_init: int, threshold: float, size: float) -> int:
    """The number of neighbours, if all of these are in their ranges.

    Raises
    ------
    ValueError
        If one is not.
    """
    if not isinstance(n_components, Integral) or isinstance(n_components, bool) or n_components < 1:
        raise ValueError(f"n_components is {n_components!r}; a consensus is of one rank: give 1 or more.")
    if not isinstance(n_init, Integral) or isinstance(n_init, bool) or n_init < 2:
        raise ValueError(
            f"n_init is {n_init!r}; a consensus is of two factorizations or more: give about 100, or "
            "use NMF for one."
        )
    check_threshold(threshold)
    if not isinstance(size, Real) or isinstance(size, bool) or not 0 < float(size) <= 1:
        raise ValueError(
            f"local_neighborhood_size is {size!r}; it is a share of the {n_init} factorizations: give a "
            "number in (0, 1], 0.3 for example."
        )
    n_neighbors = int(float(size) * n_init)
    most = n_init * n_components - 1
    if not 1 <= n_neighbors <= most:
        raise ValueError(
            f"local_neighborhood_size={size:g} of n_init={n_init} is {n_neighbors} neighbours, and each of "
            f"{most + 1} spectra has 1 to {most}: give {'more' if n_neighbors < 1 else 'less'}, "
            f"{1 / n_init if n_neighbors < 1 else most / n_init:.3g} for example, or a larger n_init."
        )
    return n_neighbors


def check_threshold(threshold: Any) -> None:
    """Raise unless it is a positive number.

    Raises
    ------
    ValueError
    """
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not float(threshold) > 0:
        raise ValueError(
            f"density_threshold is {threshold!r}; densities are mean distances, and those below it are kept: "
            "give a positive number, 0.5 for example, or 2 to keep all."
        )
