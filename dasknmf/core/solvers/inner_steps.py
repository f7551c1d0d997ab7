"""Repeated steps without another read of V: limits of their number, and the δ rule.

For a quadratic loss the cross product N = V Hᵀ, n × k, and the Gram matrix S = H Hᵀ, k × k, do not depend on
W, so more steps cost no read [1]_. The steps of a row end after `count`, or when a step changes the row by
less than δ times the change of the first step. The rule is per row for W, so it does not depend on how V is
cut; H is updated as a whole, and has one rule for the whole.

A chosen number of steps means scikit-learn's iterations, without over-relaxation
(`dasknmf.core.solvers.over_relaxation`). Extrapolation between passes [2]_ was measured beside
over-relaxation: it needs up to twice the passes, and an extrapolated step that has to be undone costs a read.

References
----------
.. [1] Gillis, N., & Glineur, F. (2012). Accelerated multiplicative updates and hierarchical ALS
   algorithms for nonnegative matrix factorization. Neural Computation, 24(4).
.. [2] Ang, A. M. S., & Gillis, N. (2019). Accelerating nonnegative matrix factorization algorithms
   using extrapolation. Neural Computation, 31(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DELTA = 0.1
FLOPS_PER_BYTE = 30
"""Flops of a core in the time of reading a byte of a compressed V: measured 50 GFLOP/s in tiles, 1.6 GB/s."""
STEP_FLOPS = (4, 40)
"""Flops of a step per entry of V: for each component, and for quotients and powers, which β = 2 lacks."""
_MOST = 10
"""More steps helped on one of four real data sets and hurt on the others."""


@dataclass(frozen=True)
class Steps:
    """Repeated steps on the rows of one factor.

    Parameters
    ----------
    l1 : float
        Penalty of an entry; l2 is on the diagonal of the Gram matrix.
    order : ndarray of int of shape (n_components,)
        Order in which a sweep visits the entries of a row, for solvers that take them in turn.
    count : int
        Largest number of steps on a row.
    delta : float
        Steps on a row end when one changes it by less than `delta` times the first step; 0: no such rule.
    eps : float
        Replaces a denominator of zero.
    """

    l1: float
    order: np.ndarray
    count: int = 1
    delta: float = 0.0
    eps: float = 0.0

    @property
    def limits(self) -> tuple[float, int, float, float]:
        """l1, the most steps, δ² and eps, as kernels take them."""
        return float(self.l1), self.count, self.delta * self.delta, self.eps


@dataclass(frozen=True)
class Inner:
    """Limits of the repeated steps on both factors."""

    rows: int
    """Largest number of steps on each row of W in one visit."""
    columns: int
    """Largest number of steps on H in one update."""
    delta: float = _DELTA
    omega: float = 1.0
    """Factor ω by which updates are over-relaxed; 1: they are not."""

    @classmethod
    def chosen(
        cls, inner_iter: int | str, *, eagerness: float, omega: float, shape: tuple[int, int], k: int
    ) -> Inner:
        """Counts for ``inner_iter``: the number itself, or from flops where it is ``"auto"``.

        Parameters
        ----------
        inner_iter : int or "auto"
        eagerness : float
            α of [1]_: 0.5 for coordinate descent, 2 for multiplicative steps.
        omega : float
            Factor ω of over-relaxation, for ``"auto"``.
        shape : tuple of int
            n_samples, n_features.
        k : int
            n_components.
        """
        if not isinstance(inner_iter, str):
            return cls(inner_iter, inner_iter)
        n, m = shape
        # ρ: flops of a fresh cross product and Gram over flops of one more step.
        rho_W = 1 + m * (n + k) / (n * (k + 1))
        rho_H = 1 + n * (m + k) / (m * (k + 1))
        return cls(_count(eagerness, rho_W), _count(eagerness, rho_H), omega=omega)

    @classmethod
    def between_reads(cls, inner_iter: int | str, *, itemsize: int, k: int, streamed: bool) -> Inner:
        """Counts for β ≠ 2, where a step needs V again: ``"auto"`` takes those that a read would cost.

        Parameters
        ----------
        inner_iter : int or "auto"
        itemsize : int
            Bytes of a value of V.
        k : int
            n_components.
        streamed : bool
            Whether V has to be read; in memory a pass costs no more than a step.
        """
        if not isinstance(inner_iter, str):
            return cls(inner_iter, 1)
        each, fixed = STEP_FLOPS
        worth = FLOPS_PER_BYTE * itemsize / (each * k + fixed) if streamed else 0
        return cls(min(_MOST, 1 + int(worth)), 1)


def _count(eagerness: float, rho: float) -> int:
    return min(_MOST, 1 + int(eagerness * rho))
