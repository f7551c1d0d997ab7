"""The command line with the dependencies alone, without what the extras install."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tests.helpers import stored

_EXTRAS = ("anndata", "h5py", "matplotlib", "pandas", "rasterio", "rioxarray", "s3fs", "scanpy", "xarray")
_RUN = f"""
import sys
sys.modules.update(dict.fromkeys({_EXTRAS!r}))
from dasknmf.cli import main
main()
"""


def dasknmf(*arguments):
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_help():
    done = dasknmf("fit", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_fit_and_its_summary(tmp_path):
    rng = np.random.default_rng(0)
    path, run = tmp_path / "v.zarr", tmp_path / "run.zarr"
    stored(path, rng.random((40, 3)) @ rng.random((3, 12)), (10, 12))
    for arguments in (("fit", path, run, "-k", 3), ("info", run)):
        done = dasknmf(*arguments)
        assert done.returncode == 0, done.stderr
        assert "components: 3" in done.stdout


def test_what_needs_an_extra_says_which(tmp_path):
    (tmp_path / "scene.tif").write_bytes(b"II*\0")
    done = dasknmf("fit", tmp_path / "scene.tif", tmp_path / "run", "-k", 2)
    assert done.returncode not in (0, 1)
    assert "Traceback" not in done.stderr
    assert "pip install" in done.stderr
