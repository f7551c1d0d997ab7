"""Unbiased noise of the entries of V, from counter-based random numbers.

The noise of an entry depends only on the entry, a key and the place of the entry in X::

    uniform    v (1 + ε u),   u uniform in (−1, 1)
    Poisson    a count of mean v

Zeros stay zeros, so a sparse V stays sparse, with the noise of its dense form. Negative and infinite values
and NaN are not changed: the survey refuses them. Poisson counts are drawn in three ways: if the mean is a
whole number below 32, as most are where V holds counts, from a table by the alias method [1]_; if another
mean below 10, by inversion of the distribution function; else by transformed rejection, in 1.2 trials on
average [2]_.

References
----------
.. [1] Vose, M. D. (1991). A linear algorithm for generating random numbers with a given distribution.
   IEEE Transactions on Software Engineering, 17(9).
.. [2] Hörmann, W. (1993). The transformed rejection method for generating Poisson random variables.
   Insurance: Mathematics and Economics, 12(1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from dasknmf.core.kernel import inlined, kernel
from dasknmf.core.rng import centred, unit, word

_REJECTION_FROM = 10.0
_MOST_NOISY = 2.0**40
"""Largest mean with noise: for larger means noise is below a millionth, and the rejection test inexact."""


_TABLED, _COUNTS = 32, 128
"""The tables are of whole means below 32 and hold counts below 128, whose probability is 1 − 1e-33."""


def _aliases(mean: int) -> tuple[np.ndarray, np.ndarray]:
    """The alias table of a mean: for each cell, the share of its own count, and the alias of the rest."""
    counts = np.arange(_COUNTS)
    heights = (_COUNTS * np.exp(xlogy(counts, mean) - mean - gammaln(counts + 1))).tolist()
    shares, aliases = np.ones(_COUNTS), counts.copy()
    low = [count for count in counts.tolist() if heights[count] < 1]
    high = [count for count in counts.tolist() if heights[count] >= 1]
    while low and high:
        small, large = low.pop(), high[-1]
        shares[small], aliases[small] = heights[small], large
        heights[large] -= 1 - heights[small]
        if heights[large] < 1:
            low.append(high.pop())
    return shares, aliases


@dataclass(frozen=True)
class Noise:
    """The noise of the entries of one V.

    Parameters
    ----------
    key : int
        Key of its random words: see `dasknmf.core.rng.key_of`.
    epsilon : float or None
        Half the width of the uniform noise, relative to an entry; None: Poisson noise.
    """

    key: np.uint64
    epsilon: float | None

    def of_dense(self, V: np.ndarray, places: np.ndarray) -> np.ndarray:
        """A noisy copy of rows at these places, in their memory order.

        Parameters
        ----------
        V : ndarray of shape (n_rows, n_features), float32 or float64
        places : ndarray of int64 of shape (n_rows,)
        """
        noisy = np.array(V, order="K")
        columns = np.arange(V.shape[1])
        lines, along = places * V.shape[1], columns
        in_memory_order = noisy
        if not noisy.flags.c_contiguous:
            in_memory_order, lines, along = noisy.T, along, lines
        if self.epsilon is None:
            _draw_counts(in_memory_order, lines, along, self.key)
        else:
            _add_uniform(in_memory_order, lines, along, self.key, 2.0 * self.epsilon)
        return noisy

    def of_nonzeros(
        self, v: np.ndarray, columns: np.ndarray, pointers: np.ndarray, places: np.ndarray, n_features: int
    ) -> np.ndarray:
        """A noisy copy of the values `v` of CSR rows at these places; other parameters as in `CsrRows`."""
        noisy = v.copy()
        rows = pointers, columns, noisy, places * n_features
        if self.epsilon is None:
            _draw_counts_of_nonzeros(*rows, self.key)
        else:
            _add_uniform_to_nonzeros(*rows, self.key, 2.0 * self.epsilon)
        return noisy


_TABLES = [_aliases(mean) for mean in range(_TABLED)]
_SHARES = np.stack([shares for shares, _ in _TABLES])
_ALIASES = np.stack([aliases for _, aliases in _TABLES])


def exponential(key: np.uint64, places: np.ndarray) -> np.ndarray:
    """An exponential random number of mean 1 for each of these places, shape (n_places,), float64."""
    drawn = np.empty(len(places))
    _exponential(places, key, drawn)
    return drawn


@kernel
def _exponential(places: np.ndarray, key: np.uint64, drawn: np.ndarray) -> None:
    for i in range(places.size):
        drawn[i] = -math.log(unit(word(key, places[i])))


@kernel
def _add_uniform(V: np.ndarray, lines: np.ndarray, along: np.ndarray, key: np.uint64, width: float) -> None:
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            V[i, j] = V[i, j] * V.dtype.type(1.0 + width * centred(word(key, lines[i] + along[j])))


@kernel
def _add_uniform_to_nonzeros(
    pointers: np.ndarray, columns: np.ndarray, v: np.ndarray, lines: np.ndarray, key: np.uint64, width: float
) -> None:
    for i in range(pointers.size - 1):
        for e in range(pointers[i], pointers[i + 1]):
            v[e] = v[e] * v.dtype.type(1.0 + width * centred(word(key, lines[i] + columns[e])))


@kernel
def _draw_counts(V: np.ndarray, lines: np.ndarray, along: np.ndarray, key: np.uint64) -> None:
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            if 0 < V[i, j] < _MOST_NOISY:
                V[i, j] = _poisson(np.float64(V[i, j]), word(key, lines[i] + along[j]))


@kernel
def _draw_counts_of_nonzeros(
    pointers: np.ndarray, columns: np.ndarray, v: np.ndarray, lines: np.ndarray, key: np.uint64
) -> None:
    for i in range(pointers.size - 1):
        for e in range(pointers[i], pointers[i + 1]):
            if 0 < v[e] < _MOST_NOISY:
                v[e] = _poisson(np.float64(v[e]), word(key, lines[i] + columns[e]))


@inlined
def _poisson(mean: float, bits: np.uint64) -> float:
    whole = int(mean) if mean < _TABLED else 0
    if whole > 0 and whole == mean:
        return _by_table(whole, bits)
    if mean >= _REJECTION_FROM:
        return _by_rejection(mean, bits)
    u = unit(bits)
    p = math.exp(-mean)
    count = 0.0
    while u > p and p > 0.0:
        u -= p
        count += 1.0
        p *= mean / count
    return count


@inlined
def _by_table(mean: int, bits: np.uint64) -> float:
    x = unit(bits) * _COUNTS
    column = int(x)
    return np.float64(column if x - column < _SHARES[mean, column] else _ALIASES[mean, column])


@inlined
def _by_rejection(mean: float, bits: np.uint64) -> float:
    """Hörmann's algorithm PTRS; its random words are the sequence whose key is the entry's own word."""
    root, log_mean = math.sqrt(mean), math.log(mean)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    log_alpha = math.log(1.1239 + 1.1328 / (b - 3.4))
    sure = 0.9277 - 3.6224 / (b - 2.0)
    trial = 0
    while True:
        u = centred(word(bits, trial))
        v = unit(word(bits, trial + 1))
        trial += 2
        rest = 0.5 - abs(u)
        count = math.floor((2.0 * a / rest + b) * u + mean + 0.43)
        if rest >= 0.07 and v <= sure:
            return count
        if count < 0.0 or (rest < 0.013 and v > rest):
            continue
        left = math.log(v) + log_alpha - math.log(a / (rest * rest) + b)
        if left <= count * log_mean - mean - math.lgamma(count + 1.0):
            return count
