"""Random words by counter: the same word for a position in any request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasknmf.core import rng


@given(
    st.lists(st.integers(0, 9000), min_size=1, max_size=60),
    st.integers(1, 9),
    st.booleans(),
)
def test_words_depend_on_their_place_alone(places, each, ascending):
    whole = rng.words(5, 2, np.arange(9001), each)
    places = np.array(sorted(places) if ascending else places)
    np.testing.assert_array_equal(rng.words(5, 2, places, each), whole[places])


def test_words_are_those_of_philox():
    expected = np.random.Philox(key=np.array([5, 2], np.uint64)).random_raw(40)
    np.testing.assert_array_equal(rng.words(5, 2, np.arange(10), 4).reshape(-1), expected)
    far = np.random.Philox(key=np.array([5, 2], np.uint64)).advance(10**12)
    np.testing.assert_array_equal(rng.words(5, 2, np.arange(4) + 4 * 10**12)[:, 0], far.random_raw(4))


@pytest.mark.parametrize("other", [(5, 3), (6, 2)])
def test_seeds_and_streams_are_independent(other):
    places = np.arange(100)
    assert not (rng.words(5, 2, places) == rng.words(*other, places)).any()
