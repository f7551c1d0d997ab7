"""Image recipe in deploy/: layers, packages and imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.image import DEPLOY, ROOT, image_user, project, recipe
from tests.helpers import stored, stored_sparse


def extras() -> str:
    """Both stages have the same."""
    (given,) = set(re.findall(r"^ARG EXTRAS=(\S+)$", recipe(), re.M))
    return str(given)


def test_the_image_is_made_of_what_the_project_names():
    assert set(extras().split(",")) <= project()["optional-dependencies"].keys()
    ignored = (ROOT / ".dockerignore").read_text().split()
    for copied in re.findall(r"^COPY (?!--)(.+)$", recipe(), re.M):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert all(line.count("slim") == 1 for line in re.findall(r"^FROM .*$", recipe(), re.M))
    assert image_user().isdigit()
    assert re.findall(r"^ENTRYPOINT (.*)$", recipe(), re.M) == ['["dasknmf"]']


def test_what_is_needed_is_installed_before_any_source_is_seen():
    """A change of the source leaves those layers as they are."""
    first = recipe().index("pip install")
    copied = " ".join(re.findall(r"^COPY (.+) \S+$", recipe()[:first], re.M)).split()
    assert copied == ["pyproject.toml", "deploy/constraints.txt"]
    after = recipe()[first:]
    assert after.index("COPY dasknmf") < after.index(
        "pip install --no-cache-dir --no-deps --force-reinstall /src"
    )


@pytest.mark.slow
def test_the_image_imports_what_its_extras_bring(tmp_path):
    command = [sys.executable, os.fspath(DEPLOY / "imports.py"), extras()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # What rasterio says where the library is missing.
    told = "libexpat.so.1: cannot open shared object file"
    (tmp_path / "rasterio.py").write_text(f"raise ImportError({told!r})")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert told in done.stderr


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [os.fspath(hadolint), "--failure-threshold", "style", os.fspath(DEPLOY / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_a_fit_finds_its_kernels_compiled(tmp_path):
    """What the image is built with: after it nothing is compiled in a process that sees its cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": os.fspath(tmp_path / "kernels"), "TMPDIR": "/dev/shm"}
    warm = [sys.executable, os.fspath(DEPLOY / "warm.py")]
    subprocess.run(warm, env=environment, check=True, timeout=500, capture_output=True)
    V = np.random.default_rng(0).random((300, 40)).astype("float32")
    stored(tmp_path / "dense.zarr", V, (50, 40))
    stored_sparse(tmp_path / "sparse.zarr", np.where(V < 0.3, V, 0))
    for source, options in [
        ("dense.zarr", ["--solver=bpp"]),
        ("dense.zarr", ["--beta-loss=kullback-leibler", "--holdout=0.1"]),
        ("sparse.zarr", []),
    ]:
        fit = [sys.executable, "-m", "dasknmf.cli", "fit", os.fspath(tmp_path / source), "-k3", "--overwrite"]
        done = subprocess.run(
            [*fit, os.fspath(tmp_path / "run"), "--max-iter=3", *options],
            env=environment | {"NUMBA_DEBUG_CACHE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "[cache] data loaded" in done.stdout + done.stderr
        assert "[cache] data saved" not in done.stdout + done.stderr
