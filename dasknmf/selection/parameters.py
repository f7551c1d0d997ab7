"""Parameters of a consensus and of a selection of ranks, checked before X is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np

from dasknmf.estimator import NMF

RandomState: TypeAlias = int | np.random.RandomState | None
"""A seed, as in scikit-learn."""
Stage: TypeAlias = str | os.PathLike[str] | None
"""Where the data of a fit are staged, as for `NMF.fit`."""
_UNSEEDED = ("nndsvd", "nndsvda", "custom")
"""Values of `init` that give the same, or nearly the same, start for every seed."""


def check_starts(nmf: dict[str, Any]) -> None:
    """Raise an error if starts with these parameters of `NMF` would not differ by their seeds.

    Raises
    ------
    ValueError
        If all seeds give the same start, or rows of H are fixed.
    TypeError
        If `NMF` has no parameter of a given name.
    """
    if unknown := sorted(nmf.keys() - NMF().get_params().keys()):
        raise TypeError(
            f"{', '.join(unknown)}: not a parameter of NMF or of a consensus; correct or leave out the name."
        )
    if nmf.get("init") in _UNSEEDED:
        raise ValueError(
            f"init is {nmf['init']!r}, which is nearly the same for every seed; a consensus needs starts "
            "that differ: use init='random', 'sample' or 'nndsvdar'."
        )
    if nmf.get("fixed_components") is not None:
        raise ValueError(
            "fixed_components are given, and would be the same in every factorization; a consensus finds "
            "what different factorizations share: leave them out, or use NMF(fixed_components=)."
        )


@dataclass(frozen=True)
class Clustering:
    """Parameters of a consensus: the number of spectra, and the filter before they are clustered.

    Parameters
    ----------
    n_init : int, default=100
        Starts of each rank.
    density_threshold : float, default=0.5
        Spectra whose density is not below this are left out; 2 or more keeps all.
    local_neighborhood_size : float, default=0.3
        Share of `n_init`, in (0, 1]: how many nearest neighbours the density is a mean over.
    """

    n_init: int = 100
    density_threshold: float = 0.5
    local_neighborhood_size: float = 0.30

    @property
    def n_neighbors(self) -> int:
        return int(float(self.local_neighborhood_size) * self.n_init)

    @property
    def numbers(self) -> dict[str, Any]:
        """The parameters of the filter, which are compared with those of a stored consensus."""
        return {
            "density_threshold": self.density_threshold,
            "local_neighborhood_size": self.local_neighborhood_size,
        }

    def check(self, n_components: int) -> None:
        """Raise an error if a parameter is out of its range for a consensus of `n_components` components.

        Raises
        ------
        ValueError
        """
        n_init, size = self.n_init, self.local_neighborhood_size
        if not is_count(n_components):
            raise ValueError(
                f"n_components is {n_components!r}; it must be a positive integer: give one number."
            )
        if not is_count(n_init, 2):
            raise ValueError(
                f"n_init is {n_init!r}; a consensus needs at least two factorizations: give about 100, or "
                "use NMF for one."
            )
        check_threshold(self.density_threshold)
        if not isinstance(size, Real) or isinstance(size, bool) or not 0 < float(size) <= 1:
            raise ValueError(
                f"local_neighborhood_size is {size!r}; it is a share of the {n_init} factorizations: give a "
                "number in (0, 1], 0.3 for example."
            )
        most = n_init * n_components - 1
        if not 1 <= self.n_neighbors <= most:
            few = self.n_neighbors < 1
            raise ValueError(
                f"local_neighborhood_size={size:g} times n_init={n_init} is {self.n_neighbors}, and the "
                f"number of neighbours must be from 1 to {most}: give a {'larger' if few else 'smaller'} "
                f"size, {(1 if few else most) / n_init:.3g} for example, or a larger n_init."
            )


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number and not below `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_threshold(threshold: object) -> None:
    """Raise an error if a `density_threshold` is not a positive number.

    Raises
    ------
    ValueError
    """
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not float(threshold) > 0:
        raise ValueError(
            f"density_threshold is {threshold!r}; spectra are kept whose mean distance to their neighbours "
            "is below it: give a positive number, 0.5 for example, or 2 to keep all."
        )
