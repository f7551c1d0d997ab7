"""A new file or store, put where it belongs once it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from dasknmf.errors import RunError
from dasknmf.owners import left_behind, signed


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
