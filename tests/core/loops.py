"""Entry-by-entry reference of the masked and weighted model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

MASKS = ["nan", "number", "bool", "float", "all"]


@dataclass(frozen=True)
class Elastic:
    """l1 Σw + ½ l2 Σw²."""

    l1: float = 0.0
    l2: float = 0.0


def divergence(v: float, p: float, beta: float) -> float:
    if beta == 2:
        return 0.5 * (v - p) ** 2
    if beta == 1:
        return v * np.log(v / p) - v + p
    if beta == 0:
        return v / p - np.log(v / p) - 1
    return (v**beta + (beta - 1) * p**beta - beta * v * p ** (beta - 1)) / (beta * (beta - 1))


@dataclass
class Weighted:
    """V with the weights of its entries, rows and columns, and a pair W, H that `iterate` updates."""

    V: np.ndarray
    omega: np.ndarray
    a: np.ndarray
    b: np.ndarray
    W: np.ndarray
    H: np.ndarray
    beta: float = 2.0
    of_W: Elastic = Elastic()
    of_H: Elastic = Elastic()

    def __post_init__(self) -> None:
        self.W, self.H = self.W.copy(), self.H.copy()

    @property
    def loss(self) -> float:
        P = self.W @ self.H
        return sum(
            self.a[i] * self.b[j] * self.omega[i, j] * divergence(self.V[i, j], P[i, j], self.beta)
            for i, j in zip(*np.nonzero(self.omega), strict=True)
        )

    @property
    def objective(self) -> float:
        total = self.loss
        for i, row in enumerate(self.W):
            total += self.a[i] * sum(self.of_W.l1 * w + 0.5 * self.of_W.l2 * w * w for w in row)
        for j, column in enumerate(self.H.T):
            total += self.b[j] * sum(self.of_H.l1 * h + 0.5 * self.of_H.l2 * h * h for h in column)
        return total

    def iterate(self, solver: str, count: int = 1, *, fixed: int = 0) -> Weighted:
        """Every row of W, then every column of H, each by what is observed of it."""
        for _ in range(count):
            for i, row in enumerate(self.W):
                weights = self.omega[i] * self.b
                self.W[i] = moved(solver, row, self.V[i], self.H, weights, self.beta, self.of_W)
            for j, column in enumerate(self.H.T.copy()):
                weights = self.omega[:, j] * self.a
                there = moved(solver, column, self.V[:, j], self.W.T, weights, self.beta, self.of_H, fixed)
                self.H[fixed:, j] = there[fixed:]
        return self


def moved(
    solver: str,
    w: np.ndarray,
    v: np.ndarray,
    H: np.ndarray,
    weights: np.ndarray,
    beta: float,
    penalty: Elastic,
    fixed: int = 0,
) -> np.ndarray:
    """One row after one step on min Σ_j weights_j d(v_j | (w H)_j) + its penalty; zero if nothing counts."""
    seen = np.flatnonzero(weights)
    if not len(seen):
        return np.zeros_like(w)
    v, H, weights = v[seen], H[:, seen], weights[seen]
    step = {"cd": descended, "bpp": solved, "mu": multiplied, "newton": second_order}[solver]
    return step(w, v, H, weights, beta, penalty, fixed)


def descended(w, v, H, weights, beta, penalty, fixed):
    w = w.copy()
    for t in range(fixed, len(w)):
        slope, curvature = penalty.l1 + penalty.l2 * w[t], penalty.l2
        for j in range(len(v)):
            slope += weights[j] * H[t, j] * (w @ H[:, j] - v[j])
            curvature += weights[j] * H[t, j] ** 2
        if curvature > 0:
            w[t] = max(0.0, w[t] - slope / curvature)
    return w


def solved(w, v, H, weights, beta, penalty, fixed):
    free = H[fixed:]
    rest = v - w[:fixed] @ H[:fixed]
    S = (free * weights) @ free.T + penalty.l2 * np.eye(len(free))
    n = (free * weights) @ rest - penalty.l1
    # ½ w S wᵀ − n wᵀ as the squares of a residual.
    L = np.linalg.cholesky(S)
    there = w.copy()
    there[fixed:] = nnls(L.T, np.linalg.solve(L, n))[0]
    return there


def multiplied(w, v, H, weights, beta, penalty, fixed):
    above, below = np.zeros_like(w), np.zeros_like(w)
    for j in range(len(v)):
        p = w @ H[:, j]
        above += weights[j] * H[:, j] * v[j] * p ** (beta - 2)
        below += weights[j] * H[:, j] * p ** (beta - 1)
    gamma = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
    return w * (above / (below + penalty.l1 + penalty.l2 * w)) ** gamma


def second_order(w, v, H, weights, beta, penalty, fixed):
    a, s, T = np.zeros_like(w), np.zeros_like(w), penalty.l2 * np.eye(len(w))
    for j in range(len(v)):
        p = w @ H[:, j]
        a += weights[j] * H[:, j] * v[j] / p
        s += weights[j] * H[:, j]
        T += weights[j] * np.outer(H[:, j], H[:, j]) * v[j] / p**2
    # The minimum of the majoriser is the root of l2 w x² + (s + l1) x = a, x the quotient of new and old.
    linear = s + penalty.l1
    there = w * 2 * a / (linear + np.sqrt(linear**2 + 4 * penalty.l2 * w * a))
    there[:fixed] = w[:fixed]
    fall = sum(
        linear[t] * (w[t] - there[t])
        + a[t] * w[t] * np.log(there[t] / w[t])
        + penalty.l2 / 2 * (w[t] ** 2 - there[t] ** 2)
        for t in range(len(w))
    )
    slope = (linear + penalty.l2 * w - a)[fixed:]
    T = T[fixed:, fixed:]
    L = np.linalg.cholesky(T)
    d = nnls(L.T, np.linalg.solve(L, 2 / 3 * T @ w[fixed:] - slope))[0] - 2 / 3 * w[fixed:]
    if -slope @ d - d @ T @ d / 2 > fall:
        there[fixed:] = w[fixed:] + d
    return there


def given_as(mask: str, V: np.ndarray, seen: np.ndarray) -> tuple[Any, dict[str, Any], dict[str, Any], Any]:
    """X, the parameter, what `fit` is given, and the weights of entries, rows and columns that follow."""
    rng = np.random.default_rng(8)
    omega = rng.choice([0.0, 0.5, 1.0, 1.0, 2.0], V.shape)
    omega[:, :4] = np.maximum(omega[:, :4], 0.5)  # rows of fewer entries than components have many minima
    n, m = V.shape
    seen = seen | (np.arange(m) < 4)
    a, b = rng.random(n) + 0.5, rng.random(m) + 0.5
    ones = (np.ones(n), np.ones(m))
    nan = np.where(seen, V, np.nan)
    if mask == "nan":
        return nan, {"missing_values": "nan"}, {}, (seen * 1.0, *ones)
    if mask == "number":
        return np.where(seen, V, -9.0), {"missing_values": -9.0}, {}, (seen * 1.0, *ones)
    if mask == "bool":
        return V, {}, {"weights": seen}, (seen * 1.0, *ones)
    if mask == "float":
        return V, {}, {"weights": omega}, (omega, *ones)
    weights = {"weights": omega, "sample_weight": a, "feature_weight": b}
    return nan, {"missing_values": np.nan}, weights, (seen * omega, a, b)
