"""Compiled kernels: the same bits in the process that compiles a kernel and in those that load it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dasknmf
from tests.helpers import parsed

CORE = Path(dasknmf.__file__).parent / "core"
FIT = """
import hashlib, warnings
import numpy as np
from dasknmf import NMF

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.random((60, 23))
X[rng.random(X.shape) < 0.2] = np.nan
model = NMF(3, init="sample", max_iter=3, missing_values="nan", random_state=0)
print(hashlib.sha256(model.fit_transform(X).tobytes() + model.components_.tobytes()).hexdigest())
"""


def compiled() -> dict[str, tuple[str, set[str]]]:
    """Decorator and called names of every compiled function, by name."""
    found: dict[str, tuple[str, set[str]]] = {}
    for path in CORE.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                for decorator in {ast.unparse(each) for each in node.decorator_list} & {"kernel", "inlined"}:
                    calls = {
                        call.func.id
                        for call in ast.walk(node)
                        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                    }
                    found[node.name] = (decorator, calls)
    return found


def test_kernels_call_inlined_kernels_only():
    functions = compiled()
    assert len(functions) > 40
    wrong = {
        (name, called)
        for name, (_, calls) in functions.items()
        for called in calls & functions.keys()
        if functions[called][0] != "inlined"
    }
    assert wrong == set()


@pytest.mark.slow
def test_the_process_that_compiles_has_the_bits_of_those_that_load(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(CORE.parents[1])}
    digests = {
        subprocess.run([sys.executable, "-c", FIT], env=environment, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
