"""A SLURM of two nodes on this machine: its daemons and munged, as root, on loopback, in a directory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).parents[2] / "deploy" / "slurm"
NODES = ("one", "two")
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
"""States of jobs that nothing follows."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Without the virtual environment of the tests: a job is told where dasknmf is."""

_CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool.%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=5
SlurmdTimeout=10
DefMemPerCPU=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=16 RealMemory=65536
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=16 RealMemory=65536
PartitionName=low Nodes=ALL Default=YES MaxTime=10:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=10:00 PriorityTier=10 PreemptMode=OFF
"""


def absent() -> str | None:
    """Why no SLURM can be started here, or None."""
    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=_PATH)
    ]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge openssl"
    return None if os.geteuid() == 0 else "starting a SLURM needs root"


@dataclass(frozen=True)
class Slurm:
    """Its commands, and what they say of jobs."""

    directory: Path
    env: dict[str, str]

    def run(self, *command: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            env=self.env | env,
            cwd=cwd or self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def submit(self, *words: object, cwd: Path, **env: str) -> str:
        """The number of a job whose output goes to job-NUMBER.log in `cwd`."""
        done = self.run("sbatch", "--parsable", "--output=job-%j.log", *words, cwd=cwd, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol shows of it."""
        shown = self.run("scontrol", "--oneliner", "show", "job", number).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def until(self, number: str, *states: str, seconds: float = 60) -> dict[str, str]:
        """What it shows once it is in one of these states; a job that was put off begins soon.

        SLURM itself waits two minutes before it starts a job again, so that all nodes are done with its
        last start: here a few looks later they are.
        """
        put_off = 0

        def reached() -> bool:
            nonlocal put_off
            job = self.job(number)
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                put_off += 1
            if put_off == 8:
                put_off = 0
                self.run("scontrol", "update", f"JobId={number}", "StartTime=now")
            if job["JobState"] in _OVER and job["JobState"] not in states:
                raise AssertionError(tell())
            return job["JobState"] in states

        def tell() -> str:
            lines = (self.directory / "slurmctld.log").read_text().splitlines()
            daemons = [line for line in lines if f"JobId={number}" in line]
            job = self.job(number)
            log = Path(job.get("StdOut", ""))
            said = log.read_text().splitlines()[-40:] if log.is_file() else []
            return "\n".join([f"{job}", *daemons, *said])

        wait_for(reached, seconds, tell)
        return self.job(number)


def wait_for(reached: Callable[[], bool], seconds: float, tell: Callable[[], str] = str) -> None:
    """Until it is so; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, tell()
        time.sleep(0.2)


@contextmanager
def started() -> Iterator[Slurm]:
    """A SLURM at work; whatever it has begun is ended with it."""
    with ExitStack() as stack:
        # Sockets have short paths, so not where pytest puts files.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        (directory / "state").mkdir()
        configuration = directory / "slurm.conf"
        controller, one, two = _free_ports(3)
        configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname(), directory=directory, controller=controller, one=one, two=two
            )
        )
        key = directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        theirs = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "DASK")
        env = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        env |= {"PATH": _PATH, "SLURM_CONF": str(configuration), "VENV": sys.prefix}
        slurm = Slurm(directory, env)
        stack.callback(_end, slurm)
        munged = ["munged", "--force", f"--key-file={key}", f"--socket={directory}/munge.socket"]
        munged += [f"--{name}-file={directory}/munged.{name}" for name in ("pid", "log", "seed")]
        for daemon in (munged, ["slurmctld"], *(["slurmd", "-N", node] for node in NODES)):
            done = slurm.run(*daemon)
            assert done.returncode == 0, done.stderr
        wait_for(lambda: idle(slurm), 60, lambda: slurm.run("sinfo").stdout)
        yield slurm


def idle(slurm: Slurm) -> bool:
    """No job runs, and every node can take one."""
    nodes = slurm.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T").stdout.split()
    return nodes == ["idle"] * len(NODES)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _end(slurm: Slurm) -> None:
    """Jobs first, then daemons, then whatever of them still lives."""
    with suppress(subprocess.TimeoutExpired, AssertionError):
        slurm.run("scancel", "--user=root")
        wait_for(lambda: not slurm.run("squeue", "--noheader").stdout, 20)
    pids = [int(file.read_text()) for file in slurm.directory.glob("*.pid")]
    ours = [process for process in psutil.process_iter() if process.pid in pids or _of(process, slurm)]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                end(process)
        with suppress(AssertionError):
            wait_for(lambda: not any(map(_lives, ours)), 10)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def processes(slurm: Slurm, words: str) -> list[psutil.Process]:
    """Of its jobs, those with these words in their command."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if words in " ".join(process.cmdline()) and _of(process, slurm):
                found.append(process)
    return found


def _of(process: psutil.Process, slurm: Slurm) -> bool:
    """Jobs are told where its configuration is; its own processes work in its directory."""
    with suppress(psutil.Error):
        if process.environ().get("SLURM_CONF") == slurm.env["SLURM_CONF"]:
            return True
        return process.cwd() == str(slurm.directory)
    return False
