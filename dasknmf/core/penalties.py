"""Elastic-net penalties of the two factors, scaled as scikit-learn scales them.

::

    α_W l1_ratio n_features ‖W‖₁ + ½ α_W (1 − l1_ratio) n_features ‖W‖²
    α_H l1_ratio n_samples  ‖H‖₁ + ½ α_H (1 − l1_ratio) n_samples  ‖H‖²
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Penalty:
    """l1 ‖F‖₁ + ½ l2 ‖F‖² of one factor F."""

    l1: float = 0.0
    l2: float = 0.0

    def value(self, total: float, squares: float) -> float:
        """The penalty of a factor, from the sums of its entries and of their squares."""
        return self.l1 * total + 0.5 * self.l2 * squares

    def __bool__(self) -> bool:
        return self.l1 > 0 or self.l2 > 0


@dataclass(frozen=True)
class Penalties:
    """The penalties of both factors."""

    W: Penalty = Penalty()
    H: Penalty = Penalty()

    @classmethod
    def scaled(
        cls, alpha_W: float, alpha_H: float | str, l1_ratio: float, shape: tuple[float, float]
    ) -> Penalties:
        """The penalties of scikit-learn's parameters, for V of the given shape and weights."""
        if isinstance(alpha_H, str):  # 'same', the only string that validation lets through
            alpha_H = alpha_W
        n_samples, n_features = shape

        def one(alpha: float, size: float) -> Penalty:
            return Penalty(size * alpha * l1_ratio, size * alpha * (1.0 - l1_ratio))

        return cls(one(alpha_W, n_features), one(alpha_H, n_samples))

    def value(
        self, W_sums: tuple[float, float], H: np.ndarray, column_weights: np.ndarray | None = None
    ) -> float:
        """Sum of both penalties, from (ΣW, ΣW²) and from H with weights of its columns."""
        H = H.astype(np.float64, copy=False)
        b = 1.0 if column_weights is None else column_weights
        return self.W.value(*W_sums) + self.H.value(float((b * H).sum()), float((b * H * H).sum()))
