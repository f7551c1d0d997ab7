"""Files, directories and groups of entries that appear under their names once they are whole.

What is written goes to a spare place first and is renamed when all of it is on disk. An error, a kill or a
power cut leaves what stood there before; an error leaves nothing else behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Protocol

from dasknmf.errors import RunAccessError, RunError
from dasknmf.io.process_owner import left_behind, signed

SPARE = ".spare"
"""Ends the name of a file whose content is not on disk yet."""


def spare_name(name: str) -> str:
    """A new name beside `name` for its next content."""
    return f"{name}.{uuid.uuid4().hex}{SPARE}"


def write_file(path: Path, content: bytes | bytearray, *, name_too: bool = True) -> None:
    """Write a file as a whole: after a power cut it has the old content or the new one.

    The calling thread writes. Zarr's own way goes through an event loop in another thread, which waits for a
    core beside threads that compute: with two of two cores at work a chunk of 230 kB took 5.4 ms to write,
    and 0.7 ms here.

    Parameters
    ----------
    path : Path
        Missing parent directories are made.
    content : bytes or bytearray
    name_too : bool
        Whether the file's name is flushed to disk too; otherwise `flush_names` does it later.
    """
    spare = path.with_name(spare_name(path.name))
    try:
        try:
            file = spare.open("xb")
        except FileNotFoundError:
            _make(spare.parent)
            file = spare.open("xb")
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        spare.replace(path)
    except BaseException:
        with suppress(OSError):
            spare.unlink()
        raise
    if name_too:
        flush_names(path.parent)


def _make(directory: Path) -> None:
    """Make a directory and those above it, with their names on disk."""
    if not directory.parent.exists():
        _make(directory.parent)
    directory.mkdir(exist_ok=True)
    flush_names(directory.parent)


def flush(path: Path) -> None:
    """Force a file's content, or all that is in a directory, to disk."""
    if not path.is_dir():
        _fsync(path, os.O_RDONLY)
        return
    for each in path.iterdir():
        flush(each)
    flush_names(path)


def flush_names(directory: Path) -> None:
    """Force the names in a directory to disk, where the file system supports that."""
    try:
        _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def placed(target: Path, is_ours: Callable[[Path], bool] | None) -> Iterator[Path]:
    """A spare path, for a file or a directory, which replaces the target when the block ends.

    Parameters
    ----------
    target : Path
    is_ours : callable or None
        Whether the file or directory at the target came from an export, and so may be replaced; None:
        nothing is replaced.

    Raises
    ------
    RunError
        If the target exists and is not replaced.
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
    # The ending stays: some writers choose the format by it.
    spare, old = (
        target.with_name(f".{target.stem}.{token}.{what}{target.suffix}") for what in ("new", "old")
    )
    try:
        yield spare
        flush(spare)
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
        flush_names(target.parent)
        # Only now: the spare directory of a killed process may have been the only copy.
        forget_the_dead(target.parent, f".{target.stem}.", target.suffix)
    finally:
        remove(spare)


def forget_the_dead(
    directory: Path, prefix: str, ending: str = "", *, keeps: Callable[[Path], bool] = lambda _: False
) -> None:
    """Remove spare files and directories of processes that were killed.

    Parameters
    ----------
    directory : Path
    prefix, ending : str
        Around the signature in their names; see `process_owner.signed`.
    keeps : callable
        Whether one of them holds what is nowhere else.
    """
    names = [path.name.removeprefix(prefix) for path in directory.glob(f"{escape(prefix)}*{escape(ending)}")]
    for name in left_behind(names):
        if not keeps(directory / f"{prefix}{name}"):
            remove(directory / f"{prefix}{name}")


def refuse_existing(target: Path) -> None:
    """Raise `RunError` if the target exists."""
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
    """A place with entries, and a spare place between which and it entries can be moved.

    Attributes
    ----------
    new, old : str
        Before the name of an entry: where it is filled, and where it is kept while it is replaced.
    """

    new: str
    old: str

    def exists(self, name: str) -> bool:
        """Whether the entry exists as a whole."""

    def move(self, was: str, now: str) -> None:
        """Move an entry to a name that is free; after an error it still exists at one of the two."""

    def clear(self) -> None:
        """Remove the spare place, if there is one."""


class Directory:
    """A directory whose entries are renamed: the `Room` of files.

    Parameters
    ----------
    place : Path
        Made when the first entry is moved in, and removed again if none stays.
    spare : Path
        The spare place, on the same file system.
    """

    def __init__(self, place: Path, spare: Path) -> None:
        self.place, self.spare = place.absolute(), spare.absolute()
        # Absolute, so that joining them to the place gives themselves.
        self.new, self.old = str(self.spare / "new"), str(self.spare / "old")
        self._made = [each for each in (self.place, self.place.parent) if not each.exists()]

    def exists(self, name: str) -> bool:
        return (self.place / name).exists()

    def move(self, was: str, now: str) -> None:
        there = self.place / now
        there.parent.mkdir(parents=True, exist_ok=True)
        (self.place / was).rename(there)
        flush_names(there.parent)

    def clear(self) -> None:
        remove(self.spare)
        with suppress(OSError):  # entries are in it
            for each in self._made:
                each.rmdir()

    def forget(self, prefix: str, names: Sequence[str]) -> None:
        """Remove spare places of killed processes, of which these entries replace all that they hold."""

        def holds_others(spare: Path) -> bool:
            old = spare / "old"
            held = [f"{path.relative_to(old).as_posix()}/" for path in old.rglob("*")]
            return not all(
                any(path.startswith(f"{name}/") or f"{name}/".startswith(path) for name in names)
                for path in held
            )

        forget_the_dead(self.spare.parent, prefix, keeps=holds_others)


def put(names: Sequence[str], room: Room, fill: Callable[[], None]) -> None:
    """Fill the spare place, then move the entries from there to where they belong: all of them or none.

    Parameters
    ----------
    names : list of str
        Paths of the entries.
    room : Room
    fill : callable
        Writes the entries below ``room.new``.

    Raises
    ------
    RunAccessError
        If after an error the old entries cannot be moved back either; they stay in the spare place then.
    """
    begun: list[tuple[str, str]] = []
    try:
        fill()
        if isinstance(room, Directory):
            flush(Path(room.new))
        for name in names:
            for was, now in ((name, f"{room.old}/{name}"), (f"{room.new}/{name}", name)):
                if room.exists(was):
                    begun.append((was, now))
                    room.move(was, now)
    except BaseException as error:
        _take_back(begun, room, error)
        with suppress(Exception):  # the first error is the one to raise
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
