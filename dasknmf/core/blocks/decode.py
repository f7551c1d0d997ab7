"""Compiled loops over stored values: nodata, NaN, scale, offset and negatives, without a float copy of V.

Loops walk *lines* in the order of memory: rows of V, or its columns where a slab is stored by features.
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.blocks.entries import EntryWeights
from dasknmf.core.kernel import inlined, kernel
from dasknmf.core.rng import word

_KEEP, _CLIP, _MASK = range(3)
_POLICIES = {"error": _KEEP, "clip": _CLIP, "mask": _MASK}


class Decoder:
    """`EntryWeights` as its loops take them.

    Parameters
    ----------
    entries : EntryWeights
    n_features : int
    stored : numpy.dtype
        Of the values as they are stored.
    dtype : numpy.dtype
        float32 or float64: of what comes out.
    """

    def __init__(self, entries: EntryWeights, n_features: int, stored: np.dtype, dtype: np.dtype) -> None:
        told = np.nan if entries.nodata is None else entries.nodata
        nodata = np.broadcast_to(np.asarray(told, np.float64), n_features)
        self._nodata, self._has = _as_stored(nodata, stored)
        self._scale = np.ascontiguousarray(np.broadcast_to(np.asarray(entries.scale, dtype), n_features))
        self._offset = np.ascontiguousarray(np.broadcast_to(np.asarray(entries.offset, dtype), n_features))
        self._nan = entries.nan
        self._policy = _POLICIES[entries.negatives]

    def __call__(self, stored: np.ndarray, start: int, V: np.ndarray, seen: np.ndarray) -> int:
        """Decode rows from `start` on; how many of their entries are observed.

        Parameters
        ----------
        stored : ndarray of shape (slab_rows, n_features)
            In one piece, by rows or by features.
        start : int
        V, seen : ndarray of shape (n_rows, n_features), in the memory order of `stored`
            Written: values, 0 where nothing is observed, and, as uint8, whether something is.
        """
        told = (self._nodata, self._has, self._scale, self._offset, self._nan, self._policy)
        if stored.flags.c_contiguous:
            return int(_by_rows(stored, start, V, seen, *told))
        return int(_by_features(stored.T, start, V.T, seen.T, *told))


def _as_stored(nodata: np.ndarray, stored: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The values as entries hold them, and which are there: one that the dtype cannot hold is of no entry."""
    if stored.kind == "f":
        with np.errstate(over="ignore"):
            values = nodata.astype(stored)
        return values, ~np.isnan(values) & (np.isfinite(values) | np.isinf(nodata))
    least, most = (0, 1) if stored.kind == "b" else (np.iinfo(stored).min, np.iinfo(stored).max)
    has = (nodata >= least) & (nodata <= np.float64(most)) & (nodata == np.round(nodata))
    # The largest of 64 bits is no float64; the next one stands for it.
    largest = has & (nodata == np.float64(most))
    values = np.where(has & ~largest, nodata, 0).astype(stored)
    values[largest] = most
    return values, has


@kernel
def _by_rows(
    stored: np.ndarray,
    start: int,
    V: np.ndarray,
    seen: np.ndarray,
    nodata: np.ndarray,
    has: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    nan: bool,
    policy: int,
) -> int:
    count = 0
    zero = V.dtype.type(0)
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            raw = stored[start + i, j]
            v = V.dtype.type(raw) * scale[j] + offset[j]
            here = not (has[j] and raw == nodata[j])
            here = here and not (nan and v != v)
            here = here and not (policy == _MASK and v < zero)
            v = zero if (policy == _CLIP and v < zero) else v
            V[i, j] = v if here else zero
            seen[i, j] = here
            count += here
    return count


@kernel
def _by_features(
    stored: np.ndarray,
    start: int,
    V: np.ndarray,
    seen: np.ndarray,
    nodata: np.ndarray,
    has: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    nan: bool,
    policy: int,
) -> int:
    count = 0
    zero = V.dtype.type(0)
    for j in range(V.shape[0]):
        missing, known, factor, shift = nodata[j], has[j], scale[j], offset[j]
        for i in range(V.shape[1]):
            raw = stored[j, start + i]
            v = V.dtype.type(raw) * factor + shift
            here = not (known and raw == missing)
            here = here and not (nan and v != v)
            here = here and not (policy == _MASK and v < zero)
            v = zero if (policy == _CLIP and v < zero) else v
            V[j, i] = v if here else zero
            seen[j, i] = here
            count += here
    return count


@inlined
def _mixed(bits: int) -> np.uint64:
    """A number in which the bits of a float are spread: 1 and 2 differ in their highest alone."""
    z = np.uint64(bits)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)


@kernel
def line_keys(weights: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> None:
    """keys[j] = Σ_i weights[i, j] numbers[i] modulo 2⁶⁴, for weights as unsigned integers, mixed."""
    for j in range(keys.size):
        keys[j] = 0
    for i in range(weights.shape[0]):
        number = numbers[i]
        for j in range(weights.shape[1]):
            keys[j] += _mixed(weights[i, j]) * number


@kernel
def along_keys(weights: np.ndarray, numbers: np.ndarray, keys: np.ndarray) -> None:
    """The same of the lines' own entries: keys[j] = Σ_i weights[j, i] numbers[i]."""
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


@kernel
def hide(
    V: np.ndarray,
    seen: np.ndarray,
    places: np.ndarray,
    n_columns: int,
    transposed: bool,
    key: np.uint64,
    below: np.uint64,
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
) -> int:
    """Take entries whose number is below a limit out of V; how many, and what they were.

    The number of an entry is that of its place in X, of which rows' places are a part: it depends on
    nothing else.
    """
    count = 0
    for i in range(V.shape[0]):
        for j in range(V.shape[1]):
            row = np.uint64(places[i])
            column = np.uint64(j)
            place = column * np.uint64(n_columns) + row if transposed else row * np.uint64(n_columns) + column
            drawn = word(key, place)
            if drawn < below and seen[i, j] != 0 and count < rows.size:
                rows[count] = i
                columns[count] = j
                values[count] = V[i, j]
                V[i, j] = 0
                seen[i, j] = 0
                count += 1
    return count
