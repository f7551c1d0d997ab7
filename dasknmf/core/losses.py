"""The loss D(V | WH): the beta-divergence, its domain and the exponent of its multiplicative update.

For v, p > 0 [1]_::

    d_β(v | p) = (v^β + (β − 1) p^β − β v p^{β−1}) / (β (β − 1))      β ∉ {0, 1}
    d_1(v | p) = v log(v / p) − v + p                                 Kullback–Leibler
    d_0(v | p) = v / p − log(v / p) − 1                               Itakura–Saito

and d_2 is half the squared difference. The names are scikit-learn's.

References
----------
.. [1] Févotte, C., & Idier, J. (2011). Algorithms for nonnegative matrix factorization with the
   beta-divergence. Neural Computation, 23(9). https://doi.org/10.1162/NECO_a_00168
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np

from dasknmf.errors import DataError

NAMES = {"frobenius": 2.0, "kullback-leibler": 1.0, "itakura-saito": 0.0}


@dataclass(frozen=True)
class Loss:
    """The beta-divergence with one value of β."""

    beta: float

    @classmethod
    def named(cls, beta_loss: str | float) -> Loss:
        """The loss of scikit-learn's parameter ``beta_loss``: a name or any real number."""
        if isinstance(beta_loss, str):
            if beta_loss not in NAMES:
                raise ValueError(
                    f"beta_loss is {beta_loss!r}; it must be a real number or one of {sorted(NAMES)}: "
                    "correct the name."
                )
            return cls(NAMES[beta_loss])
        if not isinstance(beta_loss, Real) or not np.isfinite(float(beta_loss)):
            raise ValueError(
                f"beta_loss is {beta_loss!r}; it must be a finite real number or one of {sorted(NAMES)}: "
                "give one of these."
            )
        return cls(float(beta_loss))

    @property
    def quadratic(self) -> bool:
        """Whether the loss is half the squared Frobenius norm, so that Grams replace V."""
        return self.beta == 2.0

    @property
    def gamma(self) -> float:
        """Exponent with which the multiplicative update never increases the loss ([1]_, eq. 4.10)."""
        if self.beta < 1:
            return 1.0 / (2.0 - self.beta)
        if self.beta > 2:
            return 1.0 / (self.beta - 1.0)
        return 1.0

    def check_zeros(self, n_zeros: float) -> None:
        """Raise an error for zeros in V where the divergence is infinite at zero.

        Raises
        ------
        DataError
            If β ≤ 0 and V contains zeros.
        """
        if self.beta <= 0 and n_zeros > 0:
            raise DataError(
                "When beta_loss <= 0 and X contains zeros, the solver may diverge. "
                f"Please add small values to X, or use a positive beta_loss: beta_loss is {self.beta:g}, "
                f"X has {n_zeros:.0f} zeros (entries that a sparse X does not store are zeros, too)."
            )

    def rows(
        self, V: np.ndarray, P: np.ndarray, eps: float | np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Loss of each row of V against P = WH, in float64.

        Parameters
        ----------
        V, P : ndarray of shape (n_rows, n_features)
        eps : float or ndarray of shape (n_rows, 1)
            Floor of P where a negative power of it is taken.
        weights : ndarray of shape (n_features,), optional
            Weights of the features.

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        V = V.astype(np.float64, copy=False)
        P = P.astype(np.float64, copy=False)
        beta = self.beta
        b = np.ones(V.shape[1]) if weights is None else weights
        if beta == 2:
            return 0.5 * ((V - P) ** 2 @ b)
        floored = np.maximum(P, eps)
        if beta == 1:
            ratio = np.where(V > 0, V / floored, 1.0)
            return (V * np.log(ratio) - V + P) @ b
        if beta == 0:
            ratio = V / floored
            return (ratio - np.log(ratio) - 1.0) @ b
        base = floored if beta < 1 else P
        powered = base ** (beta - 1.0)
        terms = V**beta + (beta - 1.0) * powered * base - beta * V * powered
        return terms @ b / (beta * (beta - 1.0))
