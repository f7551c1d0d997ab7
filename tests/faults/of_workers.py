"""Workers that die, stop, leave and join during a fit on a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import threadpoolctl
from distributed import Client

from tests.faults.bench import Bench
from tests.faults.cells import Cell
from tests.faults.machines import (
    PANELS,
    Cluster,
    Log,
    V_in,
    fit,
    same,
    sound,
    until,
    watched,
)


def given_up(client: Client, worker: str) -> None:
    """Wait until the scheduler has given up a worker that says nothing: after seconds, not its five minutes.

    Its patience is short only when it looks here: workers that merely are slow are in no danger.
    """
    until(lambda: time.sleep(0.3) or not client.run_on_scheduler(_looked, worker))


async def _looked(worker: str, dask_scheduler: Any) -> bool:
    usual, dask_scheduler.worker_ttl = dask_scheduler.worker_ttl, 1.0
    try:
        await dask_scheduler.check_worker_ttl()
    finally:
        dask_scheduler.worker_ttl = usual
    return worker in dask_scheduler.workers


def _pid_at_work(log: Log) -> int:
    return int(until(log.at_work)[-1]["pid"])


class During:
    """A callback that, once so many passes are committed, lets something happen in the next one."""

    def __init__(self, log: Log, *happenings: Any, first: int = 2) -> None:
        self._log, self._happenings, self._passes = log, list(happenings), -first
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []

    def __call__(self, record: Any) -> None:
        self._log.add(what="commit", iteration=record.iteration, phase=record.phase)
        self._passes += 1
        if self._passes >= 0 and self._happenings:
            known = len(self._log.entries("begin"))
            arguments = (self._happenings.pop(0), known)
            self._threads.append(threading.Thread(target=self._happen, args=arguments))
            self._threads[-1].start()

    def _happen(self, happening: Any, known: int) -> None:
        try:
            until(lambda: len(self._log.entries("begin")) > known)  # the pass has begun
            happening()
        except BaseException as error:
            self._failed.append(error)

    def done(self) -> None:
        """All of it has happened, and none of it went wrong."""
        for thread in self._threads:
            thread.join(60)
        assert not self._failed, self._failed
        assert not self._happenings


def _struck(
    bench: Bench, cluster: Cluster, client: Client, *happenings: Any, seconds: float = 0.1, **run: Any
) -> Any:
    """The fit, with something that happens in each pass from the second exact one on."""
    during = During(Log(bench.root / "log"), *happenings)
    given = {"checkpoint": bench.root / "run", "callbacks": [during], **run}
    found = fit(watched(bench.root, seconds), client, given)
    during.done()
    same(found)
    sound(bench.root / "run")
    return found


def none_repeated(log: Log) -> None:
    """No pass was begun again, and no panel was visited more than twice in one."""
    visits = log.visits()
    reading = {name for name, _ in visits}
    assert len(reading) == 6  # survey, four exact, evaluation
    assert len(visits) == 6 * PANELS
    assert max(map(len, visits.values())) <= 2


def _worker_killed(bench: Bench) -> None:
    log = Log(bench.root / "log")

    def kill() -> None:
        os.kill(_pid_at_work(log), signal.SIGKILL)
        cluster.join(1)

    with Cluster(bench.root, 2) as cluster, cluster.client() as client:
        _struck(bench, cluster, client, kill, kill)
    none_repeated(log)
    assert sum(len(pids) == 2 for pids in log.visits().values()) >= 2


def _all_workers_killed(bench: Bench) -> None:
    log = Log(bench.root / "log")
    with Cluster(bench.root, 0) as cluster:
        workers = cluster.join(2)
        with cluster.client(2) as client:

            def kill_all() -> None:
                for worker in workers:
                    worker.kill()
                until(lambda: not client.scheduler_info()["workers"])
                cluster.join(2)

            _struck(bench, cluster, client, kill_all)
    none_repeated(log)


def _worker_terminated(bench: Bench) -> None:
    log = Log(bench.root / "log")
    with Cluster(bench.root, 2) as cluster, cluster.client() as client:
        _struck(bench, cluster, client, lambda: os.kill(_pid_at_work(log), signal.SIGTERM))
    none_repeated(log)


def _worker_retired(bench: Bench) -> None:
    log = Log(bench.root / "log")
    with Cluster(bench.root, 2) as cluster, cluster.client() as client:

        def retire() -> None:
            pid = _pid_at_work(log)
            address = next(where for where, each in client.run(os.getpid).items() if each == pid)
            client.retire_workers([address])

        _struck(bench, cluster, client, retire)
        assert len(client.scheduler_info()["workers"]) == 1
    none_repeated(log)


def _all_retire(bench: Bench) -> None:
    """Each worker leaves by itself, as at the end of its ``--lifetime``; another has come before the last."""
    log = Log(bench.root / "log")
    with Cluster(bench.root, 2) as cluster, cluster.client() as client:

        def leave() -> None:
            addresses = list(client.run(os.getpid))
            cluster.join(1)
            client.wait_for_workers(3, timeout=60)
            client.run(_close_gracefully, workers=addresses)
            until(lambda: len(client.scheduler_info()["workers"]) == 1)

        _struck(bench, cluster, client, leave, seconds=0.3)
    none_repeated(log)


def _close_gracefully(dask_worker: Any) -> None:
    dask_worker.loop.add_callback(dask_worker.close_gracefully)


def _leave_and_join(bench: Bench) -> None:
    """One leaves by SIGKILL and one retires during a panel; two others join."""
    log = Log(bench.root / "log")
    with Cluster(bench.root, 3) as cluster, cluster.client() as client:

        def leave_and_join() -> None:
            until(lambda: len(log.at_work()) >= 2)
            killed, retired = [visit["pid"] for visit in log.at_work()[:2]]
            pids = client.run(os.getpid)
            os.kill(killed, signal.SIGKILL)
            client.retire_workers([next(where for where, pid in pids.items() if pid == retired)])
            gone.extend([killed, retired])
            new.extend(worker.pid for worker in cluster.join(2))
            client.wait_for_workers(3, timeout=60)

        gone: list[int] = []
        new: list[int] = []
        _struck(bench, cluster, client, leave_and_join, seconds=0.5)
    assert len(set(gone)) == 2
    none_repeated(log)
    at_work = {pid for pids in log.visits().values() for pid in pids}
    assert set(new) & at_work  # those that joined have worked
    assert sum(map(len, log.visits().values())) <= 6 * PANELS + 2  # at most what the two had in hand


def _come_and_go(bench: Bench) -> None:
    """A cluster that is larger or smaller in every pass."""
    log = Log(bench.root / "log")
    with Cluster(bench.root, 1) as cluster, cluster.client() as client:

        def grow() -> None:
            cluster.join(2)

        def shrink() -> None:
            client.wait_for_workers(3, timeout=60)
            client.retire_workers(n=2)

        _struck(bench, cluster, client, grow, shrink, grow, shrink, seconds=0.2)
    none_repeated(log)


def _stopped(bench: Bench) -> None:
    """SIGSTOP in the middle of a visit: the scheduler gives it to another, and two passes later it ends."""
    log = Log(bench.root / "log")
    victim: dict[str, Any] = {}

    def stop() -> None:
        while not victim:
            visit = until(log.at_work)[-1]
            os.kill(visit["pid"], signal.SIGSTOP)
            if visit in log.at_work():
                victim.update(visit)
            else:  # it ended while we looked
                os.kill(visit["pid"], signal.SIGCONT)
        given_up(client, next(where for where, pid in pids.items() if pid == victim["pid"]))

    def wake() -> None:
        os.kill(victim["pid"], signal.SIGCONT)
        until(lambda: victim not in log.at_work())
        time.sleep(0.5)  # what it visited is now written, where that is still possible

    with Cluster(bench.root, 2) as cluster, cluster.client() as client:
        pids = client.run(os.getpid)
        _struck(bench, cluster, client, stop, lambda: None, wake, seconds=0.3)
    key = (victim["pass"], victim["panel"])
    first, second = log.visits()[key]  # the scheduler has given it to another
    assert first == victim["pid"] != second
    late = next(each["at"] for each in log.entries("end") if each["visit"] == victim["visit"])
    since = [each for each in log.entries("commit") if victim["at"] < each["at"] < late]
    assert len(since) >= 2
    none_repeated(log)


class _Hungry:
    """V one chunk of which takes more memory than its worker may have, once."""

    def __init__(self, flag: Path, nbytes: int) -> None:
        self._flag, self._nbytes = flag, nbytes

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if self._flag.exists():
            return block
        self._flag.touch()
        held = np.ones(self._nbytes, np.uint8)
        time.sleep(30)
        return block + held[0]


def _out_of_memory(bench: Bench) -> None:
    """The nanny ends a worker that takes more than it may, and starts another."""
    flag = bench.root / "eaten"
    V = da.from_zarr(str(V_in(bench.root)))
    hungry = V.map_blocks(_Hungry(flag, 1500 * 2**20), dtype=V.dtype, meta=np.empty((0, 0)))
    with Cluster(bench.root, 0) as cluster:
        cluster.join(1, "--memory-limit", "1400MiB", nanny=True)
        with cluster.client(1) as client:
            pids = client.run(os.getpid).values()
            same(fit(hungry, client, {"checkpoint": bench.root / "run"}))
            assert not set(client.run(os.getpid).values()) & set(pids)
    assert flag.exists()
    sound(bench.root / "run")


def _killed_beside_its_stage(bench: Bench) -> None:
    """The panel that the dead one had in hand is read from V again, that alone."""
    log = Log(bench.root / "log")
    stage = bench.root / "stage"
    with Cluster(bench.root, 2) as cluster, cluster.client() as client:
        kill = threading.Thread(target=lambda: os.kill(_pid_at_work(log), signal.SIGKILL))
        kill.start()
        run = {"checkpoint": bench.root / "run", "stage": stage}
        same(fit(watched(bench.root, 0.3), client, run))
        kill.join()
    sound(bench.root / "run")
    assert not any(stage.iterdir())
    assert len(log.entries("begin")) == PANELS + 1


def _one_thread_for_all(bench: Bench) -> None:
    """Whoever joins during a fit has one BLAS thread as long as it lasts, as those that were there."""
    threads: list[list[int]] = []
    with Cluster(bench.root, 1) as cluster, cluster.client() as client:

        def join() -> None:
            cluster.join(1)
            client.wait_for_workers(2, timeout=60)
            threads.extend(client.run(_blas_threads).values())

        _struck(bench, cluster, client, join, seconds=0.3)
        after = client.run(_blas_threads).values()
    assert len(threads) == 2
    assert all(each and set(each) == {1} for each in threads)
    assert len(after) == 2


def _blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]


_SAME = "the result is that of the quiet run; no pass is repeated, no panel visited more than twice"

OF_WORKERS = (
    Cell("a worker is killed (SIGKILL), twice", "before W write", _SAME, _worker_killed),
    Cell("all workers are killed (SIGKILL) at once", "before W write", _SAME, _all_workers_killed),
    Cell("a worker is terminated (SIGTERM)", "before W write", _SAME, _worker_terminated),
    Cell("a worker is retired", "before W write", _SAME, _worker_retired),
    Cell("all workers leave by themselves, one comes", "before W write", _SAME, _all_retire),
    Cell("two workers leave during a panel, two join", "before W write", _SAME, _leave_and_join),
    Cell("workers come and go", "every pass", _SAME, _come_and_go),
    Cell(
        "a worker is stopped, and ends its visit two passes late",
        "before W write",
        f"reassigned; {_SAME}",
        _stopped,
    ),
    Cell("a worker runs out of memory", "before read", "the nanny restarts it; same result", _out_of_memory),
    Cell("a worker is killed while it fills a stage", "survey", _SAME, _killed_beside_its_stage),
    Cell("a worker joins", "before W write", "BLAS has one thread there, too", _one_thread_for_all),
)
