"""Storage that is slow, fails for a moment, fails for longer than retries last, or fails for good."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest

from dasknmf.errors import DaskNMFError, RunAccessError, SourceError, UnavailableError
from dasknmf.io.retry import _ATTEMPTS
from tests.faults.bench import PLACES, Bench, Place, quiet, resumed, same
from tests.faults.cells import Cell
from tests.faults.stores import PERMANENT, TRANSIENT, Fault, Strike, bucket

OPENING = (
    Place("opening: V", "V", Strike("read", "zarr.json"), 0, counted=False),
    Place("opening: lock", "run", Strike("write", "lock"), 0, counted=False),
    Place("opening: list", "run", Strike("list", ""), 0, counted=False),
    Place("opening: panels", "run", Strike("write", "panels/edges"), 0, counted=False),
)
PLACE_OF_DELETION = next(place for place in PLACES if place.strike.access == "delete")
EVERYWHERE = (*OPENING, *PLACES)
_TWICE = 2


def _passes(name: str, place: Place, when: str, bench: Bench) -> None:
    """An error that is gone when the same is asked again."""
    if name == "503":
        bench.objects = bucket()
    fault = Fault(place.strike, TRANSIENT[name], when, _TWICE)
    bench.meet(place, fault)
    found = bench.fit(X=bench.V if place.store == "V" else None)
    # What was deleted before the error is not deleted again.
    assert fault.struck == (1 if place is PLACE_OF_DELETION and when == "after" else _TWICE)
    same(found, quiet())
    if place.counted:
        assert found.retries == fault.struck
    else:
        assert found.retries in (0, fault.struck)  # no pass was at work


def _lasts(name: str, place: Place, then: str, bench: Bench) -> None:
    """A store that is out of reach from some moment on."""
    fault = Fault(place.strike, TRANSIENT[name], place.when, math.inf, then)
    bench.meet(place, fault)
    told = _refused(bench, place, UnavailableError, "repeat the same call when the storage answers")
    assert f"in {_ATTEMPTS} attempts" in told
    assert fault.struck >= _ATTEMPTS
    resumed(bench, place.committed)


def _stays(name: str, place: Place, then: str, bench: Bench) -> None:
    """An error that asking again does not mend."""
    fault = Fault(place.strike, PERMANENT[name], place.when, math.inf, then)
    bench.meet(place, fault)
    if place.store == "V":
        _refused(bench, place, SourceError, "repeat the same call")
    else:
        _refused(bench, place, RunAccessError, "repeat the same call")
    if then == "key":
        assert fault.struck == 1  # what is permanent is not asked for again
    resumed(bench, place.committed)


def _refused(bench: Bench, place: Place, kind: type[DaskNMFError], remedy: str) -> str:
    """What the fit says when it gives up: one line, the key, the store, what to do."""
    where = str(bench.store if place.store == "run" else bench.V)
    with pytest.raises(DaskNMFError) as raised:
        bench.fit()
    told = str(raised.value)
    assert type(raised.value) is kind, told
    assert "\n" not in told
    assert place.what.split("/")[0] in told
    assert where.removeprefix("wrapping-") in told
    assert remedy in told
    return told


def _undeleted(error: Callable[[], BaseException], times: int, bench: Bench) -> None:
    """What no commit needs any more stays for a while, and the fit goes on."""
    fault = Fault(PLACE_OF_DELETION.strike, error, times=times)
    bench.meet(PLACE_OF_DELETION, fault)
    same(bench.fit(), quiet())
    assert fault.struck == times
    assert [each.name[:2] for each in bench.path.glob("W/*-*")] == ["4-"]


def _slow(seconds: float, bench: Bench) -> None:
    bench.weather.delay = bench.weather_of_V.delay = seconds
    found = bench.fit(max_iter=1)
    same(found, quiet(max_iter=1))
    assert found.retries == 0


def _throttled(bench: Bench) -> None:
    """Now and then an access of either store is refused once, or twice."""
    bench.objects = bucket()
    bench.weather.faults += [Fault(Strike("", "", nth), TRANSIENT["503"]) for nth in range(23, 230, 23)]
    bench.weather_of_V.faults += [Fault(Strike("read", "c/", nth), TRANSIENT["503"]) for nth in (2, 5, 9)]
    found = bench.fit()
    same(found, quiet())
    assert found.retries >= 8


OUTAGES = (
    *(
        Cell(
            f"{name} for a moment",
            f"{place.name} ({when})",
            "identical; retries counted, nothing else",
            partial(_passes, name, place, when),
        )
        for name in TRANSIENT
        for place in EVERYWHERE
        for when in (("before", "after") if place.strike.access in ("write", "delete") else ("before",))
        if name != "503" or when == "before"
    ),
    *(
        Cell(
            f"{name} for longer than patience, {'of the store' if then == 'all' else 'of one key'}",
            place.name,
            "UnavailableError; again: identical",
            partial(_lasts, name, place, then),
        )
        for name, then in (("timeout", "all"), ("EIO", "key"))
        for place in PLACES
        if place is not PLACE_OF_DELETION
    ),
    *(
        Cell(
            f"{name}, {'for all writes' if then == 'writes' else 'for one key'}",
            place.name,
            "refused at once, in words; again: identical",
            partial(_stays, name, place, then),
        )
        for name, then in (
            ("permission denied", "key"),
            ("403", "key"),
            ("disk full", "writes"),
            ("read-only", "writes"),
        )
        for place in PLACES
        if (then == "key" or place.strike.access in ("write", "delete")) and place is not PLACE_OF_DELETION
    ),
    *(
        Cell(name, PLACE_OF_DELETION.name, "identical; deleted later", partial(_undeleted, error, times))
        for name, error, times in (
            ("EIO for longer", TRANSIENT["EIO"], 2),
            ("permission denied", PERMANENT["permission denied"], 1),
        )
    ),
    Cell("slow store", "every access", "identical", partial(_slow, 0.002)),
    Cell("throttled store", "every few accesses", "identical; retries counted", _throttled),
)
