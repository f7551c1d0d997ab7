"""The batch scripts on a real SLURM: preempted, at the wall, cancelled, without workers; the same numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dasknmf import open_run
from tests.deploy.slurm import SCRIPTS, processes, wait_for
from tests.helpers import stored

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FEW = 6
FIT = ["-k", "8", "--beta-loss", "kullback-leibler", "--init", "random", "--random-state", "0", "--tol", "0"]
NAMES = sorted(path.name for path in SCRIPTS.iterdir())
THREADS = SCRIPTS / "threads.sbatch"
SMALL = ["--mem-per-cpu=900M", "--time=5"]


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def data(directory):
    """26 MB in eight chunks: a pass of the slower loss takes some tenths of a second."""
    rng = np.random.default_rng(0)
    V = rng.poisson(rng.gamma(0.5, size=(80_000, 4)) @ rng.gamma(0.5, size=(4, 80))).astype(np.float32)
    stored(directory / "v.zarr", V, (10_000, 80))
    return directory / "v.zarr"


@pytest.fixture(scope="session")
def quiet(data, directory):
    """The same fit of so many iterations that nothing happens to."""

    @cache
    def of(max_iter: int):
        run = directory / f"quiet-{max_iter}.zarr"
        command = [sys.executable, "-m", "dasknmf.cli", "fit", data, run, *FIT, "--max-iter", str(max_iter)]
        subprocess.run(command, check=True, timeout=200, capture_output=True)
        return open_run(run)

    return of


def passes(run: Path) -> int:
    return len(open_run(run).history) if (run / "commit").exists() else 0


def under_way(run: Path, more: int = 3) -> None:
    """Until some passes more are committed."""
    before = passes(run)
    wait_for(lambda: passes(run) >= before + more, 90)


def endless(file: Path) -> list[object]:
    """Options of a fit that does not end before `soon` has said so: it may be as fast as it likes."""
    file.write_text("max-iter = 100000")
    return ["--config", file]


def soon(file: Path, run: Path) -> int:
    """The next start, before which SLURM waits, makes these iterations in all: a few more."""
    more = passes(run) + 2
    file.write_text(f"max-iter = {more}")
    return more


def ended_as(quiet, run: Path, max_iter: int) -> None:
    found, expected = open_run(run), quiet(max_iter)
    assert found.n_iter == expected.n_iter == max_iter
    np.testing.assert_array_equal(found.W.compute(), expected.W.compute())
    np.testing.assert_array_equal(found.H, expected.H)


def preempted(slurm, job: str, directory: Path) -> None:
    """A job that wants both nodes takes them from `job`, and ends."""
    before = int(slurm.job(job)["Restarts"])
    urgent = slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=true", cwd=directory)
    slurm.until(urgent, "COMPLETED")
    wait_for(lambda: int(slurm.job(job)["Restarts"]) == before + 1, 30)


@pytest.mark.parametrize("script", NAMES)
def test_slurm_accepts(slurm, script, tmp_path):
    told = slurm.run("sbatch", "--test-only", SCRIPTS / script, "fit", "v.zarr", "run.zarr", "-k", "3")
    assert told.returncode == 0, told.stderr
    assert "to start at" in told.stderr
    broken = tmp_path / script
    broken.write_text((SCRIPTS / script).read_text().replace("#SBATCH --nodes", "#SBATCH --nods"))
    told = slurm.run("sbatch", "--test-only", broken)
    assert told.returncode != 0
    assert "nods" in told.stderr


def test_the_readmes_commands_are_accepted(slurm, tmp_path):
    """Submitted as they stand there, but held."""
    for name in NAMES:
        shutil.copy(SCRIPTS / name, tmp_path)
    section = (SCRIPTS.parent / "README.md").read_text().split("\n## SLURM\n")[1].split("\n## ")[0]
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "sbatch -" in block]
    # What is said goes where `fit=$(sbatch ...)` does not take it.
    held = 'set -eu -o pipefail\nsbatch() { command sbatch --hold "$@" | tee /dev/stderr; }\n'
    done = slurm.run("bash", "-c", held + "\n".join(blocks), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"^(?:Submitted batch job )?(\d+)$", done.stderr, re.MULTILINE)
    assert len(set(jobs)) == 8
    assert {slurm.job(job)["JobState"] for job in jobs} == {"PENDING"}
    slurm.run("scancel", *jobs)


def test_preempted_twice_it_ends_with_the_same_numbers(slurm, data, quiet, directory):
    """Asked to start over, it does so once."""
    run, asked = directory / "preempted.zarr", directory / "preempted.toml"
    words = [THREADS, "fit", data, run, "--overwrite", *FIT, *endless(asked)]
    job = slurm.submit(*SMALL, *words, cwd=directory)
    for _ in range(2):
        slurm.until(job, "RUNNING")
        under_way(run)
        preempted(slurm, job, directory)
    max_iter = soon(asked, run)
    ended = slurm.until(job, "COMPLETED", seconds=120)
    assert int(ended["Restarts"]) == 2
    log = (directory / f"job-{job}.log").read_text()
    assert log.count("--overwrite is left out") == 2
    assert log.count("stopped by SIGTERM after pass") == 2
    assert "started again" not in log  # by SLURM itself, not by the script
    ended_as(quiet, run, max_iter)


def test_at_the_wall_it_stops_and_is_started_again(slurm, data, directory):
    """SLURM looks every 30 s whose time is over: the warning may come so much before it is asked for."""
    run, asked = directory / "wall.zarr", directory / "wall.toml"
    wall = ["--time=1", "--signal=B:USR1@20", "--mem-per-cpu=900M"]
    job = slurm.submit(*wall, THREADS, "fit", data, run, *FIT, *endless(asked), cwd=directory)
    wait_for(lambda: int(slurm.job(job)["Restarts"]) == 1, 90)
    before = passes(run)
    soon(asked, run)
    slurm.until(job, "COMPLETED", seconds=120)
    log = (directory / f"job-{job}.log").read_text()
    assert "stopped by SIGUSR1" in log
    assert f"job {job} is started again" in log
    assert passes(run) > before >= 3


def test_it_is_started_again_so_often_and_not_more(slurm, data, directory):
    run = directory / "bound.zarr"
    words = [*SMALL, THREADS, "fit", data, run, *FIT, "--max-iter", "100000"]
    job = slurm.submit(*words, cwd=directory, MAX_RESTARTS="0")
    under_way(run)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    ended = slurm.until(job, "FAILED")
    assert (ended["ExitCode"], ended["Restarts"]) == ("75:0", "0")
    assert "started again 0 times, the limit" in (directory / f"job-{job}.log").read_text()


def test_other_exit_codes_are_passed_on(slurm, data, directory):
    refused = {3: ["nowhere.zarr"], 2: ["v.zarr", "--tol", "-1"]}
    jobs = {
        code: slurm.submit(*SMALL, THREADS, "fit", *words, "refused.zarr", "-k", "2", cwd=directory)
        for code, words in refused.items()
    }
    for code, job in jobs.items():
        ended = slurm.until(job, "FAILED")
        assert (ended["ExitCode"], ended["Restarts"]) == (f"{code}:0", "0")


def test_the_same_submitted_twice_waits_and_what_is_cancelled_stays_so(slurm, data, directory):
    run = directory / "twice.zarr"
    words = [*SMALL, THREADS, "fit", data, run, *FIT, "--max-iter", "100000"]
    first = slurm.submit(*words, cwd=directory)
    under_way(run)
    second = slurm.submit(*words, cwd=directory)
    wait_for(lambda: slurm.job(second)["Restarts"] == "1", 60)
    assert "dasknmf unlock" in (directory / f"job-{second}.log").read_text()
    slurm.run("scancel", second)
    under_way(run)
    slurm.run("scancel", first)
    ended = slurm.until(first, "CANCELLED")
    assert ended["Restarts"] == "0"
    assert "stopped by SIGTERM" in (directory / f"job-{first}.log").read_text()


def test_a_sweep_is_an_array_whose_tasks_are_started_again_one_by_one(slurm, data, directory):
    asked = directory / "sweep.toml"
    words = [*SMALL, "--array=2-3", SCRIPTS / "sweep.sbatch", data, "runs", *FIT[2:], *endless(asked)]
    array = slurm.submit(*words, cwd=directory)
    runs = {task: directory / "runs" / f"n-components-{task}.zarr" for task in ("2", "3")}
    for run in runs.values():
        under_way(run)
    # The task that has the number of the array itself: that number alone would start all of them again.
    tasks = {task: slurm.job(f"{array}_{task}") for task in runs}
    one = next(task for task in tasks if tasks[task]["JobId"] == array)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{array}_{one}")
    wait_for(lambda: slurm.job(f"{array}_{one}")["Restarts"] == "1", 30)
    soon(asked, runs[one])
    other = next(task for task in tasks if task != one)
    assert slurm.job(f"{array}_{other}")["Restarts"] == "0"
    slurm.run("scancel", f"{array}_{other}")
    slurm.until(f"{array}_{one}", "COMPLETED")
    assert {task: len(open_run(run).H) for task, run in runs.items()} == {"2": 2, "3": 3}


def test_processes_of_one_node(slurm, data, quiet, directory):
    run = directory / "local.zarr"
    words = ["--cpus-per-task=2", "--mem=3000M", "--time=5", SCRIPTS / "local.sbatch", "fit", data, run, *FIT]
    job = slurm.submit(*words, "--max-iter", FEW, cwd=directory)
    slurm.until(job, "COMPLETED", seconds=120)
    ended_as(quiet, run, FEW)


def test_many_nodes_lose_workers_and_their_scheduler(slurm, data, quiet, directory):
    """A worker dies: its nanny starts another. Their step: a new one begins. The scheduler: the job does."""
    run, asked = directory / "cluster.zarr", directory / "cluster.toml"
    words = ["--nodes=2", "--cpus-per-task=1", "--mem=3000M", "--time=8", SCRIPTS / "cluster.sbatch"]
    fit = ["fit", data, run, *FIT, *endless(asked)]
    # By their names: srun would hand on no others, such as what the script sets for Dask.
    handed_on = f"--export={','.join([*slurm.env, 'INTERFACE'])}"
    job = slurm.submit(handed_on, *words, *fit, cwd=directory, INTERFACE="lo")
    under_way(run)
    (directory / f"dasknmf-{job}-killed").mkdir()  # as of a start that had no time to remove it
    workers = processes(slurm, "spawn_main")
    assert len(workers) == 2
    workers[0].kill()
    under_way(run)
    slurm.run("scancel", f"{job}.0")
    under_way(run)
    assert f"{job}.1 " in slurm.run("squeue", "--steps").stdout
    (scheduler,) = processes(slurm, "dask scheduler")
    scheduler.kill()
    wait_for(lambda: slurm.job(job)["Restarts"] == "1", 60)
    max_iter = soon(asked, run)
    slurm.until(job, "COMPLETED", seconds=120)
    ended_as(quiet, run, max_iter)
    assert not list(directory.glob(f"dasknmf-{job}-*"))  # the key of its certificate among them
