"""The batch scripts as texts; tests/test_slurm.py runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import SCRIPTS

NAMES = sorted(path.name for path in SCRIPTS.iterdir())


def test_shellcheck_finds_nothing():
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    scripts = [str(SCRIPTS / name) for name in NAMES]
    assert len(scripts) == 4
    found = subprocess.run([shellcheck, *scripts], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_they_stop_and_start_again_in_the_same_way():
    """Each is copied alone, so that what they share stands in all of them."""
    shared = set()
    for name in NAMES:
        _, block, after = (SCRIPTS / name).read_text().split("\n# ----")
        assert "dasknmf" in after
        shared.add(block)
    assert len(shared) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_users_give_is_never_read_as_a_program(name):
    words = (SCRIPTS / name).read_text().split()
    assert not {"eval", "source", ".", "-c"} & set(words)
    assert '"$@"' in words or '"${@:3}"' in words
