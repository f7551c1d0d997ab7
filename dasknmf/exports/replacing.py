"""Entries put into their places, what stood there aside: an error on the way takes every step back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dasknmf.errors import RunAccessError


class Room(Protocol):
    """Where an AnnData is, and a spare place for what goes in and comes out.

    Attributes
    ----------
    new, old : str
        Before the name of an entry: where it is filled, and where it is kept while it is replaced.
    """

    new: str
    old: str

    def exists(self, name: str) -> bool:
        """Whether the entry stands there as a whole."""

    def move(self, was: str, now: str) -> None:
        """Move an entry to where there is none; after an error it still exists at one of the two."""

    def clear(self) -> None:
        """Remove the spare place, if there is one."""


def put(names: list[str], room: Room, fill: Callable[[], None]) -> None:
    """Fill the spare place, then move the entries from there to where they belong.

    Parameters
    ----------
    names : list of str
        Paths of the entries in the AnnData.
    room : Room
    fill : callable
        Writes the entries below ``room.new``.

    Raises
    ------
    RunAccessError
        If after an error what stood there cannot be moved back either. It is in the spare place, then.
    """
    begun: list[tuple[str, str]] = []
    try:
        fill()
        for name in names:
            for was, now in ((name, f"{room.old}/{name}"), (f"{room.new}/{name}", name)):
                if room.exists(was):
                    begun.append((was, now))
                    room.move(was, now)
    except BaseException as error:
        _take_back(begun, room, error)
        with suppress(Exception):  # what went wrong first is what is told
            room.clear()
        raise
    room.clear()


def _take_back(begun: list[tuple[str, str]], room: Room, error: BaseException) -> None:
    try:
        for was, now in reversed(begun):
            if room.exists(now):
                room.move(now, was)
    except Exception as second:
        raise RunAccessError(
            f"the entries were not written ({error!r}), and what stood there could not be moved back "
            f"({second!r}): it is in {room.old}, move it back from there, or export again with "
            "overwrite=True."
        ) from error
