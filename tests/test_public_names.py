"""Public names of the package: all exist, and each is imported at first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dasknmf


def test_what_is_public_is_there():
    assert set(dasknmf.__all__) <= set(dir(dasknmf))
    for name in dasknmf.__all__:
        assert getattr(dasknmf, name).__name__ == name
    assert dasknmf.__version__
    with pytest.raises(AttributeError, match="has no attribute 'nmf'"):
        dasknmf.nmf  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for():
    seen = "import sys, dasknmf.cli; print(*{'numpy', 'dask', 'click'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", seen], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "\n"
