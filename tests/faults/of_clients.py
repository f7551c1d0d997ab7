"""Clients and schedulers that die, stop, or meet another on the same run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from dasknmf.store import keys, lock
from tests.faults.bench import Bench
from tests.faults.cells import Cell
from tests.faults.client import REFUSED
from tests.faults.machines import Cluster, Log, client, fit, passes, same, sound, until, watched
from tests.faults.of_workers import During, given_up, none_repeated

_LEASE = 3.0
"""Seconds after which a lock of another machine is free, in these cells."""


def _killed_and_again(bench: Bench) -> None:
    """SIGKILL of the client while its tasks run on; the same starts at once, beside them."""
    log, run = Log(bench.root / "log"), bench.root / "run"
    with Cluster(bench.root, 2) as cluster, cluster.client():
        first = client(bench.root, address=cluster.address, seconds=1.0)
        until(lambda: passes(run) >= 2 and log.at_work())
        first.kill()
        running = log.at_work()
        begun = len(log.entries())
        second = client(bench.root, address=cluster.address, seconds=0.1)
        second.ends(0)
        theirs = {each["visit"] for each in running}
        late = [each for each in log.entries("end") if each["visit"] in theirs and each["at"] >= begun]
        assert late  # what the dead one had asked for went on to its end
    sound(run)
    assert len(log.entries("commit")) == 7  # none is repeated


def _scheduler_killed(bench: Bench) -> None:
    """The client ends and says so; with a new scheduler the same start goes on."""
    log, run = Log(bench.root / "log"), bench.root / "run"
    with Cluster(bench.root, 2) as cluster, cluster.client():
        first = client(bench.root, address=cluster.address)
        until(lambda: passes(run) >= 3 and log.at_work())
        cluster.scheduler.kill()
        first.ends(REFUSED, "UnavailableError", "repeat the same call")
    stood = passes(run)
    assert stood >= 3
    assert not (run / "lock").exists()
    with Cluster(bench.root, 2) as cluster, cluster.client():
        client(bench.root, address=cluster.address).ends(0)
    sound(run)
    assert len(log.entries("commit")) == 7


def _two_at_once(bench: Bench) -> None:
    """The second is refused, and the first does not notice."""
    run = bench.root / "run"
    first = client(bench.root, seconds=1.0)  # it outlives the next one's start
    until(lambda: passes(run) >= 1)
    client(bench.root).ends(REFUSED, "RunLockedError", f"process {first.pid} on ", "dasknmf unlock")
    first.ends(0)
    sound(run)


def _asleep(bench: Bench) -> None:
    """SIGSTOP; its lock is broken, and another finishes the run; then it wakes up."""
    log, run = Log(bench.root / "log"), bench.root / "run"
    first = client(bench.root, seconds=0.2)
    try:
        until(lambda: passes(run) >= 2 and log.at_work())
        os.kill(first.pid, signal.SIGSTOP)
        assert str(first.pid) in (lock.break_lock(keys.opened(run)) or "")
        client(bench.root).ends(0)
        sound(run)
        stood = (run / "commit" / "zarr.json").read_bytes()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.ends(REFUSED, "RunLockedError", "was taken over by another process")
    assert (run / "commit" / "zarr.json").read_bytes() == stood
    _nothing_but_what_nobody_names(run)


def _nothing_but_what_nobody_names(run: Path) -> None:
    """What the sleeper had in hand lies there until the next start, and does no harm."""
    client(run.parent).ends(0)
    sound(run)


def _skewed() -> tuple[str, ...]:
    """In front of a command: on another machine, whose clock is an hour behind."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("there is no faketime")
    name = f"host-{uuid.uuid4().hex[:8]}"
    if subprocess.run(["unshare", "--uts", "hostname", name], check=False, capture_output=True).returncode:
        pytest.skip("a name space of its own needs root")
    # Only what time it is is wrong: not how long something takes.
    skew = f"LD_PRELOAD={library} FAKETIME=-1h FAKETIME_DONT_FAKE_MONOTONIC=1"
    as_said = f'hostname {name}; exec env {skew} "$@"'
    return ("unshare", "--uts", "sh", "-c", as_said, "sh")


def _clock(bench: Bench) -> None:
    """By the clock its lock is always old: while it lives the run is its own, when it is dead it is free."""
    run = bench.root / "run"
    first = client(
        bench.root, within=_skewed(), seconds=2.0, lease=_LEASE
    )  # it outlives the next one's start
    until(lambda: passes(run) >= 1)
    client(bench.root, lease=_LEASE).ends(REFUSED, "RunLockedError")
    assert first.code is None
    first.kill()
    assert passes(run) < 7
    client(bench.root, lease=_LEASE).ends(0, "is locked by process")
    sound(run)


def _skewed_start(bench: Bench) -> None:
    """To one whose clock is behind no lock is old: it meets one that is renewed, and one that is not."""
    run = bench.root / "run"
    first = client(bench.root, seconds=2.0, lease=_LEASE)  # it outlives the next one's start
    until(lambda: passes(run) >= 1)
    client(bench.root, within=_skewed(), lease=_LEASE).ends(REFUSED, "RunLockedError")
    first.kill()
    client(bench.root, within=_skewed(), lease=_LEASE).ends(0, "is locked by process")
    sound(run)


@contextmanager
def _elsewhere() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """A network name space: the address on this side, the link to it, and what runs a command in it."""
    token = uuid.uuid4().hex[:6]
    space, here, there = f"nmf-{token}", f"nmf-{token}-a", f"nmf-{token}-b"
    number = int(token, 16) % 2**14 * 4
    a, b = (f"198.18.{(number >> 8) & 255}.{(number & 255) + at}" for at in (1, 2))

    def ip(*arguments: str) -> int:
        return subprocess.run(["ip", *arguments], check=False, capture_output=True).returncode

    if shutil.which("ip") is None or ip("netns", "add", space):
        pytest.skip("a network name space needs iproute2 and root")
    try:
        inside = ("-n", space)
        for step in (
            ("link", "add", here, "type", "veth", "peer", "name", there, "netns", space),
            ("addr", "add", f"{a}/30", "dev", here),
            (*inside, "addr", "add", f"{b}/30", "dev", there),
            ("link", "set", here, "up"),
            (*inside, "link", "set", there, "up"),
            (*inside, "link", "set", "lo", "up"),
        ):
            if ip(*step):
                pytest.skip("a link into a network name space cannot be made")
        yield a, here, ("ip", "netns", "exec", space)
    finally:
        ip("netns", "del", space)
        ip("link", "del", here)


def _cut(bench: Bench) -> None:
    """The link to a worker goes down in the middle of a visit, and comes back when the fit has gone on."""
    log = Log(bench.root / "log")
    with _elsewhere() as (address, link, within), Cluster(bench.root, 1, host=address) as cluster:
        cluster.join(1, within=within)
        with cluster.client(2) as one:
            worker, far = next(each for each in one.run(os.getpid).items() if f"//{address}:" not in each[0])

            def cut() -> None:
                visit = until(lambda: [each for each in log.at_work() if each["pid"] == far])[-1]
                subprocess.run(["ip", "link", "set", link, "down"], check=True)
                lost.append((visit["pass"], visit["panel"]))
                given_up(one, worker)

            def restore() -> None:
                subprocess.run(["ip", "link", "set", link, "up"], check=True)

            lost: list[tuple[str, int]] = []
            during = During(log, cut, lambda: None, restore)
            run = {"checkpoint": bench.root / "run", "callbacks": [during]}
            found = fit(watched(bench.root, 0.4), one, run)
            during.done()
    same(found)
    sound(bench.root / "run")
    assert len(log.visits()[lost[0]]) == 2
    none_repeated(log)


MOMENTS = {
    "survey": ("small/0-", 1, "before"),
    "start": ("W/1-", 4, "after"),
    "after W write": ("W/3-", 4, "after"),
    "between H and its commit": ("small/4-", 3, "after"),
    "half way through a commit": ("commit/", 4, "half"),
    "evaluation": ("small/6-", 1, "before"),
}
"""The writes of a client at which it is killed: how a key begins, the which-th of these, before or after.

Deaths at every other place are rows of the quick table.
"""


def _moment(key: str, number: int, when: str, bench: Bench) -> None:
    run = bench.root / "run"
    first = client(bench.root, seconds=0.0, dies=[key, number, when])
    assert first.wait() == -signal.SIGKILL, first.told
    client(bench.root, seconds=0.0).ends(0)
    sound(run)
    assert len(Log(bench.root / "log").entries("commit")) in (6, 7)  # it may die between commit and word


def _stage_left(bench: Bench) -> None:
    """What a client that is killed leaves of its stage goes with the next start."""
    log, stage = Log(bench.root / "log"), bench.root / "stage"
    first = client(bench.root, stage=str(stage), seconds=0.2)
    until(lambda: len(log.entries("commit")) >= 2)  # written down just after the commit
    first.kill()
    (left,) = stage.iterdir()
    assert any(left.iterdir())
    client(bench.root, stage=str(stage)).ends(0)
    assert not any(stage.iterdir())
    sound(bench.root / "run")
    assert len(log.entries("commit")) == 7


_EXPORT_DIES = """
import os, signal, sys
from dasknmf.singlecell.export import Exported
Exported.blocks = lambda self: os.kill(os.getpid(), signal.SIGKILL)
from dasknmf.cli.commands import main
main(["export", sys.argv[1], sys.argv[2], "--to", "csv"])
"""


def _export_killed(bench: Bench) -> None:
    """The tables are whole or not there; what lies beside them goes with the next export."""
    run, tables = bench.root / "run", bench.root / "tables"
    client(bench.root, seconds=0.0).ends(0)
    died = subprocess.run([sys.executable, "-c", _EXPORT_DIES, run, tables], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not tables.exists()
    assert len(list(bench.root.glob(".tables.*.new"))) == 1
    again = [sys.executable, "-m", "dasknmf.cli", "export", run, tables, "--to", "csv"]
    subprocess.run(again, check=True, capture_output=True)
    assert {path.name for path in tables.iterdir()} == {"usages.csv", "spectra.csv"}
    assert not list(bench.root.glob(".tables.*"))


_AGAIN = "the same start goes on from the last commit; the result is that of the quiet run"

OF_CLIENTS = (
    *(
        Cell("the client is killed (SIGKILL)", name, _AGAIN, partial(_moment, *moment))
        for name, moment in MOMENTS.items()
    ),
    Cell("the client is killed while its tasks run on", "before W write", _AGAIN, _killed_and_again),
    Cell("the scheduler is killed", "before W write", f"said in one line; {_AGAIN}", _scheduler_killed),
    Cell(
        "two clients on one run", "before W write", "the second is refused, the first unharmed", _two_at_once
    ),
    Cell(
        "a client is stopped, another takes over, it wakes up",
        "before W write",
        "it ends before it commits; the run is the other's",
        _asleep,
    ),
    *(
        Cell(
            f"{whose} clock is an hour behind",
            "before W write",
            "refused while the other lives, taken over when it is dead",
            check,
        )
        for whose, check in (("the holder's", _clock), ("the next one's", _skewed_start))
    ),
    Cell("the network to a worker is cut, and restored", "before W write", "reassigned; same result", _cut),
    Cell("a client is killed beside its stage", "before read", f"its files go; {_AGAIN}", _stage_left),
    Cell("an export is killed", "export", "whole or not there; the next one clears up", _export_killed),
)
