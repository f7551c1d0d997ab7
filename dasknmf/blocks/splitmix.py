"""Random words by counter, for every entry of V: SplitMix64 [1]_ at its place, which becomes vector code.

Philox, of which `dasknmf.counters` makes the words of starts, takes ten times as long.

References
----------
.. [1] Steele, G. L., Lea, D., & Flood, C. H. (2014). Fast splittable pseudorandom number generators.
   OOPSLA 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.kernel import kernel


def key_of(seed: int, stream: int) -> np.uint64:
    """Where the sequence of a seed begins; those of other streams begin elsewhere."""
    return np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]


@kernel
def word(key: np.uint64, place: Any) -> np.uint64:
    """64 bits, of a place in the sequence that begins at the key."""
    z = key + (np.uint64(place) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def centred(bits: np.uint64) -> float:
    """A number in (−½, ½) of its upper 53 bits, in the middle of its cell: the mean of all is 0, exactly."""
    return (np.float64(np.int64(bits) >> np.int64(11)) + 0.5) * 2.0**-53


@kernel
def unit(bits: np.uint64) -> float:
    """A number in (0, 1): neither 0 nor 1, where logarithms end."""
    return (np.float64(np.int64(bits >> np.uint64(12))) + 0.5) * 2.0**-52
