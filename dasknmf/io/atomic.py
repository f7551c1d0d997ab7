"""A new file or store, put where it belongs once it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Protocol

from dasknmf.errors import RunAccessError, RunError
from dasknmf.io.process_owner import left_behind, signed


@contextmanager
def placed(target: Path, is_ours: Callable[[Path], bool] | None) -> Iterator[Path]:
    """Give a spare path beside the target to write to, and move what was written to it; an error leaves
    nothing behind, and what stood there as it was.

    Parameters
    ----------
    target : Path
    is_ours : callable or None
        Whether what stands at the target came from an export, and so may be replaced; None: nothing is.

    Raises
    ------
    RunError
        If something stands there that is not replaced.
    """
    if target.exists():
        if is_ours is None:
            refuse_existing(target)
        elif not is_ours(target):
            raise RunError(
                f"{str(target)!r} holds something that no export has written; --overwrite replaces exports "
                "only: give another place, or remove it yourself."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    token = signed()
    # The ending stays: by it some writers tell what to write.
    spare, old = (
        target.with_name(f".{target.stem}.{token}.{what}{target.suffix}") for what in ("new", "old")
    )
    try:
        yield spare
        if not target.is_dir():
            spare.replace(target)
        else:
            target.rename(old)
            try:
                spare.rename(target)
            except BaseException:
                old.rename(target)
                raise
            remove(old)
        # Only now: of what was killed between two names, the spare may have been all there was.
        forget_the_dead(target.parent, f".{target.stem}.", target.suffix)
    finally:
        remove(spare)


def forget_the_dead(
    directory: Path, prefix: str, ending: str = "", *, keeps: Callable[[Path], bool] = lambda _: False
) -> None:
    """Remove what processes that were killed had in hand: what they have signed between these two.

    Parameters
    ----------
    directory : Path
    prefix, ending : str
    keeps : callable
        Whether one of these holds what is nowhere else.
    """
    names = [path.name.removeprefix(prefix) for path in directory.glob(f"{escape(prefix)}*{escape(ending)}")]
    for name in left_behind(names):
        if not keeps(directory / f"{prefix}{name}"):
            remove(directory / f"{prefix}{name}")


def refuse_existing(target: Path) -> None:
    """Raise where something stands already.

    Raises
    ------
    RunError
    """
    if target.exists():
        raise RunError(
            f"{str(target)!r} exists; nothing is replaced unasked: choose another place, or give --overwrite "
            "where the command has it."
        )


def remove(path: Path) -> None:
    """Remove a file or a directory, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
