"""Peak memory of a pass: at most the projection."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from distributed import Client, LocalCluster

from dasknmf import open_run
from tests.helpers import fitted, stored

pytestmark = pytest.mark.slow

CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
from dasknmf import NMF
from dasknmf.fitting import execution
projected = []
original = execution.models_per_read

def told(*arguments, **parameters):
    together, projections = original(*arguments, **parameters)
    projected.append(max(projection.peak for projection in projections))
    return together, projections

execution.models_per_read = told
path, parameters = sys.argv[1], json.loads(sys.argv[2])
stage = parameters.pop("stage", None)
NMF(**parameters).fit(path, stage=stage)
# Not getrusage: that of a child begins with what its parent held when it forked.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
measured = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps([projected[0], measured]))
"""

CASES = {
    "tall, many chunks": ((60_000, 500), (2000, 500), {"init": "random"}),
    "kept in memory": ((60_000, 2000), (2000, 2000), {"init": "random", "stage": "memory"}),
    "large chunks": ((20_000, 3000), (5000, 3000), {"init": "nndsvda", "beta_loss": 1.0}),
    "a sample": ((60_000, 1000), (2000, 1000), {"init": "sample", "beta_loss": 1.0}),
    "wide tallies": ((4000, 20_000), (200, 20_000), {"init": "nndsvda", "beta_loss": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_measured_is_not_above_projected(tmp_path, case):
    shape, chunks, parameters = CASES[case]
    stored(tmp_path / "v.zarr", np.random.default_rng(0).random(shape, dtype="f4"), chunks)
    arguments = [str(tmp_path / "v.zarr"), json.dumps({"n_components": 20, "max_iter": 3} | parameters)]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True
    )
    projected, measured = json.loads(ended.stdout)
    assert measured <= projected
    assert projected <= 2 * measured  # a projection that refuses everything would be none


def test_fresh_workers_hold_what_was_projected(tmp_path):
    """Before its first task a worker has imported nothing of this: most of what it will hold."""
    X = stored(tmp_path / "v", np.random.default_rng(0).random((8000, 100), dtype="f4"), (1000, 100))
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        parameters = {"n_components": 3, "n_init": 3, "beta_loss": 1, "init": "random", "max_iter": 2}
        model, _ = fitted(X, client, {"checkpoint": tmp_path / "run"}, **parameters)
    held = max(record.memory for record in model.history_)
    assert held <= open_run(tmp_path / "run").plan.memory_projected <= 2 * held
