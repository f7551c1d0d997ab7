"""The batch scripts as texts; tests/deploy/test_slurm.py runs them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dasknmf.cli.commands import main
from tests.deploy.slurm import SCRIPTS

NAMES = sorted(path.name for path in SCRIPTS.iterdir())
ALONE = ["local.sbatch", "threads.sbatch"]
"""Those that take any command and start nothing but it."""
MADE_BEFORE = "\n# -----"
"""What follows is of one script only."""


class Alone:
    """A script without SLURM, whose commands write down their arguments; what they do is given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name in ("dasknmf", "squeue", "scontrol", "sleep"):
            self.does(name, "true")

    def does(self, name: str, body: str) -> None:
        program = self.directory / "bin" / name
        told = f"printf '%s\\n' \"$*\" >>{shlex.quote(str(self.directory / name))}"
        program.write_text(f"#!/bin/bash\n{told}\n{body}\n")
        program.chmod(0o755)

    def told(self, name: str) -> list[str]:
        """Its arguments, a line for each time that it was called."""
        file = self.directory / name
        return file.read_text().splitlines() if file.exists() else []

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "VENV": str(self.directory), "SLURM_JOB_ID": "7"} | env
        command = ["bash", SCRIPTS / script, *words]
        return subprocess.run(
            command, cwd=self.directory, env=env, check=False, capture_output=True, text=True, timeout=60
        )


@pytest.fixture
def alone(tmp_path):
    return Alone(tmp_path)


def readme() -> str:
    """The commands of its section on SLURM."""
    section = (SCRIPTS.parent / "README.md").read_text().split("\n## SLURM\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


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
        assert "dasknmf" in block
        assert after.splitlines()[-1].startswith("run ")
        shared.add(block)
    assert len(shared) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_users_give_is_never_read_as_a_program(name):
    text = (SCRIPTS / name).read_text()
    assert not {"eval", "source", ".", "-c"} & set(text.split())
    words = text.split(MADE_BEFORE)[-1].split()
    assert '"$@"' in words or '"${@:3}"' in words


@pytest.mark.parametrize("script", ALONE)
@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_gets_the_options_that_it_has(alone, script, command):
    done = alone.run(script, command, "v.zarr", "two words")
    assert (done.returncode, done.stderr) == (0, "")
    (told,) = alone.told("dasknmf")
    assert told.startswith(f"{command} v.zarr two words")
    has_it = any("--scheduler" in each.opts for each in main.commands[command].params)
    assert ("--scheduler" in told.split()) is has_it


@pytest.mark.parametrize("script", ALONE)
def test_without_a_command_it_is_dasknmf_that_says_so(alone, script):
    alone.does("dasknmf", "exit 2")
    assert alone.run(script).returncode == 2
    assert alone.told("dasknmf") == [""]


def words_of(script: str) -> list[str]:
    return ["v.zarr", "runs"] if script == "sweep.sbatch" else ["fit", "v.zarr", "run.zarr"]


@pytest.mark.parametrize("script", [*ALONE, "sweep.sbatch"])
def test_what_is_started_again_does_not_start_over(alone, script):
    words = [*words_of(script), "--overwrite", "--tol", "0"]
    for restarts in ("0", "1"):
        done = alone.run(script, *words, SLURM_RESTART_COUNT=restarts, SLURM_ARRAY_TASK_ID="3")
        assert done.returncode == 0
    first, second = alone.told("dasknmf")
    assert second == first.replace(" --overwrite", "") != first
    assert "--overwrite is left out" in done.stderr


def test_what_replaces_at_once_replaces_also_when_started_again(alone):
    alone.run("threads.sbatch", "export", "run.zarr", "tables", "--overwrite", SLURM_RESTART_COUNT="1")
    assert alone.told("dasknmf") == ["export run.zarr tables --overwrite"]


@pytest.mark.parametrize("script", [*ALONE, "sweep.sbatch"])
def test_a_controller_that_does_not_answer_is_asked_again(alone, script):
    alone.does("dasknmf", "exit 75")
    alone.does("squeue", f"[ $(wc -l <{shlex.quote(str(alone.directory))}/squeue) -gt 2 ] && echo RUNNING")
    done = alone.run(script, *words_of(script), SLURM_ARRAY_TASK_ID="3")
    assert done.returncode == 75
    assert len(alone.told("squeue")) == 3
    assert alone.told("scontrol") == ["requeue 7"]
    assert "job 7 is started again" in done.stderr


def test_one_that_never_answers_is_told_about(alone):
    alone.does("dasknmf", "exit 75")
    alone.does("squeue", "exit 1")
    done = alone.run("threads.sbatch", *words_of("threads.sbatch"))
    assert done.returncode == 75
    assert (len(alone.told("squeue")), alone.told("scontrol")) == (5, [])
    assert "SLURM has not started job 7 again" in done.stderr


def test_a_request_that_fails_is_made_again(alone):
    alone.does("dasknmf", "exit 75")
    alone.does("squeue", "echo RUNNING")
    alone.does("scontrol", f"[ $(wc -l <{shlex.quote(str(alone.directory))}/scontrol) -gt 1 ]")
    alone.run("threads.sbatch", *words_of("threads.sbatch"))
    assert len(alone.told("scontrol")) == 2


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PENDING"])
def test_what_slurm_itself_has_ended_is_left_to_it(alone, state):
    alone.does("dasknmf", "exit 75")
    alone.does("squeue", f"echo {state}")
    done = alone.run("threads.sbatch", *words_of("threads.sbatch"))
    assert (done.returncode, alone.told("scontrol"), done.stderr) == (75, [], "")


@pytest.mark.parametrize("venv", [True, False])
def test_the_readmes_commands_are_understood(tmp_path, venv):
    """As they stand there, with a virtual environment that is named, or with dasknmf on the path."""
    said = tmp_path / "said"
    (tmp_path / "slurm-1.out").touch()
    tell = f"printf '%s\\n' \"$*\" >>{shlex.quote(str(said))}"
    lines = ["set -eu", *(f"{name}() {{ {tell}; }}" for name in ("sbatch", "squeue", "srun"))]
    if venv:
        program = tmp_path / "venv" / "bin" / "dasknmf"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/bash\n{tell.replace('$*', 'dasknmf $*')}\n")
        program.chmod(0o755)
    else:
        lines.append(f"dasknmf() {{ {tell.replace('$*', 'dasknmf $*')}; }}")
    lines += [line for line in readme().splitlines() if venv or not line.startswith("export VENV=")]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    commands = []
    for line in said.read_text().splitlines():
        if found := re.search(r"(?:(?:threads|local|cluster)\.sbatch|dasknmf) (.+)", line):
            name, *arguments = found[1].split()
            main.commands[name].make_context(name, arguments)
            commands.append(name)
    assert sorted(commands) == ["export", *["fit"] * 5, "info", "report", "sweep"]
