"""Random words by counter: those of a place depend on a seed, a stream and the place alone.

So they are the same for any panels, tiles, scheduler or order of tasks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

_STEP = 4  # words that one step of Philox's counter gives
_SKIPPED = 2048  # words are drawn as fast as the counter is moved over so many


def words(seed: int, stream: int, places: np.ndarray, each: int = 1) -> np.ndarray:
    """Independent random words.

    Parameters
    ----------
    seed, stream : int
        Together the key of the generator: streams of one seed are independent.
    places : ndarray of int of shape (n_places,)
        At least one; those that ascend by little are drawn at once.
    each : int
        Words of each place.

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
