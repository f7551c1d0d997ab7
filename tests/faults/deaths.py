"""Death of the process: no later write reaches a store."""

from __future__ import annotations

import math
from functools import partial

from tests.faults.bench import PLACES, Bench, Place, resumed
from tests.faults.cells import Cell
from tests.faults.stores import Fault, Strike, bucket, death
from tests.helpers import Killed

OPENING = tuple(
    Place(f"opening: {what}", "run", Strike("write", key), 0)
    for what, key in {
        "lock": "lock",
        "root": "zarr.json",
        "panels": "panels/edges/c.0",
        "record": "run",
        "plan": "plan",
    }.items()
)
_WHENS = {"read": ("before",), "delete": ("before", "after"), "write": ("before", "half", "after")}
_HOLDS = "again: identical, no pass repeated but that one"


def _die(place: Place, when: str, bench: Bench) -> None:
    weather = bench.weather  # of this start: threads of a dead one may yet ask, when the next one is at work

    def ended() -> Killed:
        weather.faults.append(death(Strike("", "")))
        return Killed(place.name)

    bench.meet(place, Fault(place.strike, ended, when, math.inf, "all"))
    bench.dies()
    resumed(bench, place.committed)


def _die_on_objects(place: Place, when: str, bench: Bench) -> None:
    bench.objects = bucket()
    bench.strike(death(place.strike, when))
    bench.dies()
    put = when == "after" and place.strike.key == "commit"  # the one put that makes a commit
    resumed(bench, place.committed + put)


def _die_twice(first: Place, second: Place, bench: Bench) -> None:
    bench.strike(death(first.strike))
    bench.dies()
    bench.mended()
    # The second start counts from where it begins.
    bench.strike(death(Strike(second.strike.access, second.strike.key)))
    bench.dies()
    resumed(bench, second.committed)


def _die_at_every_start(bench: Bench) -> None:
    """Each start comes one commit further and dies after it; some come no further."""
    for committed in range(1, 6):
        for _ in range(2):
            bench.mended()
            # Where a run stands already, a start begins with a commit of its own.
            bench.strike(death(Strike("write", f"history/{committed}")))
            bench.dies()
            assert bench.passes() == committed
    resumed(bench, 5)


DEATHS = (
    *(
        Cell("the process dies", f"{place.name} ({when})", _HOLDS, partial(_die, place, when))
        for place in (*OPENING, *PLACES)
        for when in _WHENS[place.strike.access]
        if not (when == "half" and place.strike.key == "lock")
    ),
    *(
        Cell(
            "the process dies, an object store",
            f"{place.name} ({when})",
            _HOLDS,
            partial(_die_on_objects, place, when),
        )
        for place in PLACES
        if place.store == "run" and place.strike.access == "write"
        for when in ("before", "after")
    ),
    *(
        Cell(
            "the process dies, and dies again",
            f"{one.name}; {two.name}",
            _HOLDS,
            partial(_die_twice, one, two),
        )
        for one, two in ((PLACES[2], PLACES[6]), (PLACES[6], PLACES[6]), (PLACES[7], PLACES[10]))
        if two.store == "run"
    ),
    Cell("the process dies at every start", "between H and commit, twice each", _HOLDS, _die_at_every_start),
)
