"""States as named numbers and arrays, and back."""

from __future__ import annotations

import numpy as np
import pytest

from dasknmf.core.state import FactorState, SampledFactorState, State, from_named

STATES = [
    State(sums=np.arange(9.0), mean=2.0, empty_rows=3),
    FactorState(H=np.ones((2, 3)), usage=np.ones(2), iteration=4, residual=True),
    SampledFactorState(pending_H=np.ones((2, 3)), columns=np.ones(3), expected=0.5),
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.kind)
def test_a_state_is_the_same_from_its_names(state):
    found = from_named(state.kind, state.named())
    assert type(found) is type(state)
    assert found.named().keys() == state.named().keys()
    for name, value in state.named().items():
        np.testing.assert_array_equal(found.named()[name], value)
        assert type(found.named()[name]) is type(value)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("nothing", {}, "is of kind 'nothing'"),
        ("factors", {"Q": np.ones((2, 2))}, "of kind 'factors' has 'Q'"),
        ("sample", {}, "of kind 'sample' has 'H'"),
        ("factors", {"H": np.ones(3)}, r"has 'H' of shape \(3,\)"),
        ("factors", {"mean": np.ones(3)}, r"has 'mean' of shape \(3,\)"),
    ],
)
def test_names_that_are_no_state_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        from_named(kind, FactorState(H=np.ones((2, 3))).named() | change)


def test_a_field_that_is_missing_is_named():
    with pytest.raises(ValueError, match="of kind 'sample' lacks 'chosen'"):
        from_named("sample", State().named() | {"columns": np.ones(3), "expected": 0.5})
