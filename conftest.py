"""Fixtures of all tests, the examples in docstrings among them."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    """matplotlib warns of more than twenty open figures, and a warning is an error."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
