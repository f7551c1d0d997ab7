"""Command line: output, exit codes and files."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dasknmf
from dasknmf import open_run
from dasknmf.cli.commands import main
from tests.helpers import stored


@pytest.fixture
def V(tmp_path, low_rank):
    stored(tmp_path / "v.zarr", low_rank, (30, 14))
    return str(tmp_path / "v.zarr")


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_fit_info_transform(V, tmp_path, low_rank):
    run, out = tmp_path / "run", tmp_path / "w.zarr"
    result = call("fit", V, run, "-k", 3, "--tol", 0.01, "--random-state", 0)
    assert result.exit_code == 0, result.output
    assert "status: converged" in result.stdout
    assert "exact pass 1  objective" in result.stderr
    result = call("info", run)
    assert result.exit_code == 0
    assert "V: 90 x 14   components: 3" in result.output
    content = json.loads(call("info", run, "--json").output)
    assert content["status"] == "converged"
    assert content["params"]["n_components"] == 3
    assert content["last"]["loss"] == open_run(run).history[-1].loss
    assert call("transform", run, V, out).exit_code == 0
    W = zarr.open_array(out, mode="r")[...]
    H = open_run(run).H
    assert np.linalg.norm(low_rank - W @ H) <= np.sqrt(2 * content["last"]["loss"]) * (1 + 1e-9)
    again = call("transform", run, V, out)
    assert again.exit_code == 4
    assert "exists" in again.output


def test_the_same_command_goes_on(V, tmp_path):
    run = tmp_path / "run"
    short = call("fit", V, run, "-k", 3, "--max-iter", 2, "--random-state", 0, "--tol", 0)
    assert short.exit_code == 0, short.output
    call("fit", V, run, "-k", 3, "--max-iter", 5, "--random-state", 0, "--tol", 0)
    assert open_run(run).n_iter == 5
    again = call("fit", V, run, "-k", 3, "--max-iter", 5, "--random-state", 0, "--tol", 0)
    assert f"{run} had ended before, and nothing was computed" in again.output
    other = call("fit", V, run, "-k", 2, "--random-state", 0)
    assert other.exit_code == 4
    assert "n_components: 3 in the run, 2 now" in other.output
    assert call("fit", V, run, "-k", 2, "--overwrite", "--max-iter", 2).exit_code == 0


def test_a_config_file_sets_options(V, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('n-components = 3\nbeta-loss = "kullback-leibler"\nmax-iter = 2\n')
    assert call("fit", V, tmp_path / "a", "--config", config).exit_code == 0
    assert open_run(tmp_path / "a").params["beta_loss"] == 1.0
    assert open_run(tmp_path / "a").n_iter == 2
    assert call("fit", V, tmp_path / "b", "--config", config, "--max-iter", 3).exit_code == 0
    assert open_run(tmp_path / "b").n_iter == 3
    config.write_text("n-componets = 3\n")
    wrong = call("fit", V, tmp_path / "c", "--config", config)
    assert wrong.exit_code == 2
    assert "n_componets" in wrong.output
    config.write_text("n-components = \n")
    assert call("fit", V, tmp_path / "c", "--config", config).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-k", "0"], 2, "'n_components' parameter of NMF must be"),
        (["-k", "three"], 2, "neither an integer nor auto"),
        (["-k", "3", "--beta-loss", "poisson"], 2, "neither a number nor frobenius nor"),
        (["-k", "3", "--scheduler", "dragons"], 6, "the scheduler 'dragons' is unknown"),
        (["-k", "3", "--solver", "cd", "--beta-loss", "1"], 2, "does not handle beta_loss"),
        ([], 2, "Missing option"),
    ],
)
def test_mistakes_are_one_line(V, tmp_path, arguments, code, message):
    result = call("fit", V, tmp_path / "run", *arguments)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_source_and_a_missing_run(tmp_path):
    result = call("fit", tmp_path / "nowhere", tmp_path / "run", "-k", "2")
    assert result.exit_code == 3
    assert "cannot be opened as Zarr or HDF5" in result.output
    for name in ("cells.h5ad", "cells.zarr"):
        result = call("fit", tmp_path / name, tmp_path / "run", "-k", "2")
        assert result.exit_code == 3
        assert "V can be a Zarr array, an AnnData in Zarr or in an .h5ad file" in result.output
    assert call("info", tmp_path / "nowhere").exit_code == 4


def test_an_unreachable_scheduler(V, tmp_path):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = call("fit", V, tmp_path / "r", "-k", 3, "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 75  # the scheduler may start later
    assert "no scheduler answers" in result.output


@pytest.mark.slow
def test_a_bar_on_a_terminal(V, tmp_path):
    """A terminal has one line that is redrawn, and no log lines."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "dasknmf.cli", "fit", V, str(tmp_path / "run"), "-k", "3"]
    command += ["--tol", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=child, env=os.environ)
    os.close(child)
    screen = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:
            break
        if not part:
            break
        screen += part
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"status: converged" in output
    assert b"[####" in screen
    assert b"objective" in screen


def test_the_demo(tmp_path):
    result = call("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "demo" / "abundances.png").stat().st_size > 50_000
    assert open_run(tmp_path / "demo" / "run.zarr").H.shape == (16, 200)
    assert "loss D(V | WH)" in result.output


@pytest.mark.slow
def test_the_example(tmp_path):
    from examples import hyperspectral

    hyperspectral.main(tmp_path)
    assert open_run(tmp_path / "cluster.zarr").status in ("converged", "max_iter")


def test_the_readmes_first_program(tmp_path, monkeypatch):
    readme = (Path(dasknmf.__file__).parent.parent / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), {})
    assert open_run(tmp_path / "run.zarr").H.shape == (8, 200)
