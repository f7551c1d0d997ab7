"""Random words of 64 bits by counter: a word depends only on a seed, a stream and a place (an index).

Panels, tiles, the scheduler and the order of tasks do not change the words.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from dasknmf.core.kernel import inlined

_STEP = 4  # words that one step of Philox's counter gives
_SKIPPED = 2048  # drawing this many words takes as long as a jump of the counter


def words(seed: int, stream: int, places: np.ndarray, each: int = 1) -> np.ndarray:
    """Independent random words.

    Parameters
    ----------
    seed, stream : int
        Together the key of the generator: streams of one seed are independent.
    places : ndarray of int of shape (n_places,)
        Indices, at least one; close ascending indices are fastest.
    each : int
        Number of words of each place.

    Returns
    -------
    ndarray of shape (n_places, each), uint64
    """
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64))
    steps = np.diff(places)
    breaks = np.flatnonzero((steps < 1) | ((steps - 1) * each > _SKIPPED)) + 1
    at = 0
    drawn = []
    for start, stop in pairwise([0, *breaks.tolist(), len(places)]):
        first, last = int(places[start]), int(places[stop - 1])
        step, before = divmod(first * each, _STEP)
        generator.advance(step - at)
        raw = generator.random_raw(before + (last + 1 - first) * each)
        at = step - (-len(raw) // _STEP)
        rows = raw[before:].reshape(-1, each)
        drawn.append(rows if len(rows) == stop - start else rows[places[start:stop] - first])
    return drawn[0] if len(drawn) == 1 else np.concatenate(drawn)


def key_of(seed: int, stream: int) -> np.uint64:
    """The key of the sequence of words of a seed and a stream."""
    return np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]


@inlined
def word(key: np.uint64, place: Any) -> np.uint64:
    """The random word of a place in the sequence of a key."""
    z = key + (np.uint64(place) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def centred(bits: np.uint64) -> float:
    """A number in (−½, ½) from the upper 53 bits of a word; the mean over all words is exactly 0."""
    return (np.float64(np.int64(bits) >> np.int64(11)) + 0.5) * 2.0**-53


@inlined
def unit(bits: np.uint64) -> float:
    """A number in the open interval (0, 1), so that logarithms of it and of its complement are finite."""
    return (np.float64(np.int64(bits >> np.uint64(12))) + 0.5) * 2.0**-52
