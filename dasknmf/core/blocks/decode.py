"""Compiled loops over stored values: nodata, NaN, scale, offset and negatives, without a float copy of V.

Loops walk *lines* in the order of memory: rows of V, or its columns where a slab is stored by features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from dasknmf.core.blocks.entries import EntryWeights, Holdout
from dasknmf.core.dtypes import native_dtype
from dasknmf.core.kernel import inlined, kernel
from dasknmf.core.rng import word

_KEEP, _CLIP, _MASK = range(3)
_POLICIES = {"error": _KEEP, "clip": _CLIP, "mask": _MASK}


class _Rules(NamedTuple):
    """`EntryWeights` for compiled loops: arrays of shape (n_features,) and two switches."""

    nodata: np.ndarray
    has_nodata: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    nan: bool
    policy: int


class Decoder:
    """Compiled decoding of the slabs of one stored dtype.

    Parameters
    ----------
    entries : EntryWeights
    n_features : int
    stored : numpy.dtype
        Dtype of the stored values.
    dtype : numpy.dtype
        float32 or float64: dtype of the decoded values.
    """

    def __init__(self, entries: EntryWeights, n_features: int, stored: np.dtype, dtype: np.dtype) -> None:
        def of_features(value: float | np.ndarray, dtype: DTypeLike) -> np.ndarray:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), n_features))

        nodata = of_features(np.nan if entries.nodata is None else entries.nodata, np.float64)
        scale, offset = of_features(entries.scale, dtype), of_features(entries.offset, dtype)
        policy = _POLICIES[entries.negatives]
        self._rules = _Rules(*_as_stored(nodata, stored), scale, offset, entries.nan, policy)

        self._dtype = native_dtype(stored)

    def __call__(self, stored: np.ndarray, start: int, V: np.ndarray, mask: np.ndarray) -> int:
        """Decode rows from `start` on, and return the number of their entries that are not missing.

        Parameters
        ----------
        stored : ndarray of shape (slab_rows, n_features)
            Contiguous, by rows or by features.
        start : int
        V : ndarray of shape (n_rows, n_features), float32 or float64, in the memory order of `stored`
            Written: decoded values, 0 where missing.
        mask : ndarray of shape (n_rows, n_features), uint8, in the memory order of `stored`
            Written: 0 where missing, else 1.
        """
        by_rows = stored.flags.c_contiguous
        if stored.dtype != self._dtype:  # compiled loops take native dtypes only: a tile at a time
            tile = stored[start : start + len(V)]
            stored, start = tile.astype(self._dtype, order="C" if by_rows else "F"), 0
        if by_rows:
            return int(_by_rows(stored, start, V, mask, self._rules))
        return int(_by_features(stored.T, start, V.T, mask.T, self._rules))


def _as_stored(nodata: np.ndarray, stored: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Nodata values in the native stored dtype, and whether each is a number that the stored dtype holds."""
    native = native_dtype(stored)
    if stored.kind == "f":
        with np.errstate(over="ignore"):
            values = nodata.astype(stored).astype(native)
        return values, ~np.isnan(values) & (np.isfinite(values) | np.isinf(nodata))
    least, most = (0, 1) if stored.kind == "b" else (np.iinfo(stored).min, np.iinfo(stored).max)
    has = (nodata >= least) & (nodata <= np.float64(most)) & (nodata == np.round(nodata))
    # The largest integer of 64 bits is not a float64; the next float64 represents it.
    largest = has & (nodata == np.float64(most))
    values = np.where(has & ~largest, nodata, 0).astype(native)
    values[largest] = most
    return values, has


@kernel
def _by_rows(stored: np.ndarray, start: int, V: np.ndarray, mask: np.ndarray, rules: _Rules) -> int:
    count = 0
    zero = V.dtype.type(0)
    nodata, has, scale, offset, nan, policy = rules
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            raw = stored[start + i, j]
            v = V.dtype.type(raw) * scale[j] + offset[j]
            here = not (has[j] and raw == nodata[j])
            here = here and not (nan and v != v)
            here = here and not (policy == _MASK and v < zero)
            v = zero if (policy == _CLIP and v < zero) else v
            V[i, j] = v if here else zero
            mask[i, j] = here
            count += here
    return count


@kernel
def _by_features(stored: np.ndarray, start: int, V: np.ndarray, mask: np.ndarray, rules: _Rules) -> int:
    count = 0
    zero = V.dtype.type(0)
    nan, policy = rules.nan, rules.policy
    for j in range(V.shape[0]):
        missing, known = rules.nodata[j], rules.has_nodata[j]
        factor, shift = rules.scale[j], rules.offset[j]
        for i in range(V.shape[1]):
            raw = stored[j, start + i]
            v = V.dtype.type(raw) * factor + shift
            here = not (known and raw == missing)
            here = here and not (nan and v != v)
            here = here and not (policy == _MASK and v < zero)
            v = zero if (policy == _CLIP and v < zero) else v
            V[j, i] = v if here else zero
            mask[j, i] = here
            count += here
    return count


@inlined
def _mixed(bits: int) -> np.uint64:
    """A word that mixes the bits of a float: those of 1 and of 2, for example, differ only in the highest."""
    z = np.uint64(bits)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)


@kernel
def line_keys(weights: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> None:
    """keys[j] = Σ_i m(weights[i, j]) numbers[i] modulo 2⁶⁴, m mixing the bits of floats seen as integers."""
    for j in range(keys.size):
        keys[j] = 0
    for i in range(weights.shape[0]):
        number = numbers[i]
        for j in range(weights.shape[1]):
            keys[j] += _mixed(weights[i, j]) * number


@kernel
def along_keys(weights: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> None:
    """keys[j] = Σ_i m(weights[j, i]) numbers[i]; see `line_keys`."""
    for j in range(weights.shape[0]):
        key = np.uint64(0)
        for i in range(weights.shape[1]):
            key += _mixed(weights[j, i]) * numbers[i]
        keys[j] = key


@kernel
def weighted_total(left: np.ndarray, right: np.ndarray, lines: np.ndarray, along: np.ndarray) -> float:
    """Σ u v, with a weight for each line and for each place along it."""
    total = 0.0
    for i in range(left.shape[0]):
        line = 0.0
        for j in range(left.shape[1]):
            line += along[j] * np.float64(left[i, j]) * np.float64(right[i, j])
        total += lines[i] * line
    return total


class Hidden(NamedTuple):
    """The hidden entries of a tile: their places in it and their values, each of shape (n_hidden,)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    weights: np.ndarray | None = None
    """Their weights; None: 1."""


def hide(holdout: Holdout, V: np.ndarray, mask: np.ndarray, places: np.ndarray) -> Hidden:
    """The hidden entries, which are set to 0 in V and in its mask; `places` are those of the rows in X."""
    capacity = V.size if holdout.share > 0.25 else int(V.size * 2 * holdout.share) + 1000
    hidden = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, V.dtype)
    count = _hide(V, mask, places, holdout.draw, hidden)
    return Hidden(*(part[:count] for part in hidden))


@kernel
def _hide(
    V: np.ndarray,
    mask: np.ndarray,
    places: np.ndarray,
    draw: tuple[np.uint64, bool, np.uint64, np.uint64],
    hidden: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """The loop of `hide`; the random word of an entry depends on its place in X, not on the tiles."""
    rows, columns, values = hidden
    n_columns, transposed, key, below = draw
    count = 0
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            row = np.uint64(places[i])
            column = np.uint64(j)
            place = column * n_columns + row if transposed else row * n_columns + column
            if word(key, place) < below and mask[i, j] != 0 and count < rows.size:
                rows[count] = i
                columns[count] = j
                values[count] = V[i, j]
                V[i, j] = 0
                mask[i, j] = 0
                count += 1
    return count
