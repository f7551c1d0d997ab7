"""Panels in files of a directory, on every machine that reads them.

A file is a sequence of slabs; each array of a slab follows a header with checksums of the header and of the
values. Files are written under a spare name and renamed. A panel whose file is missing, truncated or altered
is read from V and written again. Files are not memory-mapped, as truncation would then kill the process.
"""

from __future__ import annotations

import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from dask.utils import format_bytes
from distributed import Client, Worker, WorkerPlugin

from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Source, nbytes_of
from dasknmf.data.staging.cache import Cache, Write
from dasknmf.data.staging.packed import Packed
from dasknmf.errors import StageError
from dasknmf.io.process_owner import left_behind, signed

_HEADER = struct.Struct("<24s8sQQI")
"""Kind of the slab; dtype, shape and checksum of the array. A checksum of the header follows."""
_CHECKSUM = struct.Struct("<I")
_PREFIX = "dasknmf-stage-"


class FileCache(Cache):
    """A cache of panels in files.

    Parameters
    ----------
    path : Path
        The directory of this fit; removed at the end of the fit, after which nothing is written.
    """

    in_memory = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: set[int] = set()

    def chunk_keys(self, source: Source, panel: Panel, *, lost: bool) -> list[list[Hashable]]:
        if panel.index in self._written and not lost:
            return []
        self._written.add(panel.index)
        return source.chunk_keys(panel)

    def for_tasks(self) -> Cache:
        return FileCache(self._path)

    def read(self, start: int, stop: int, chunks: Chunks) -> Iterator[Packed]:
        if chunks:
            return
        try:
            file = self._file(start, stop).open("rb")
        except OSError:
            return
        with file:
            while (slab := _read_slab(file)) is not None:
                yield slab

    def writing(self, start: int, stop: int) -> AbstractContextManager[Write]:
        return _writing(self._file(start, stop))

    def _file(self, start: int, stop: int) -> Path:
        return self._path / f"{start}-{stop}"


def _read_slab(file: BufferedReader) -> Packed | None:
    """The next slab; None at the end of the file, or if the file is damaged."""
    kind, pieces = "", list[np.ndarray]()
    while not pieces or len(pieces) < Packed.n_pieces(kind):
        found = _read_piece(file)
        if found is None or (pieces and found[0] != kind):
            return None
        kind, piece = found
        pieces.append(piece[0] if kind.startswith("S") else piece)
    return Packed(kind, tuple(pieces))


def _read_piece(file: BufferedReader) -> tuple[str, np.ndarray] | None:
    try:
        header = file.read(_HEADER.size)
        if file.read(_CHECKSUM.size) != _CHECKSUM.pack(zlib.crc32(header)):
            return None
        kind, dtype, n_rows, n_columns, checksum = _HEADER.unpack(header)
        buffer = np.empty((n_rows, n_columns), np.dtype(_text(dtype)))
        values = buffer.reshape(-1).view(np.uint8)
        if file.readinto(values.data) != buffer.nbytes:
            return None
    except OSError:
        return None
    return (_text(kind), buffer) if zlib.crc32(values.data) == checksum else None


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode()


@contextmanager
def _writing(path: Path) -> Iterator[Write]:
    """A context with a function that writes one slab; the file gets its name when all are written."""
    temporary = path.with_name(f"{path.name}-{uuid.uuid4().hex}.partial")
    try:
        file = temporary.open("xb")
    except FileNotFoundError:
        yield lambda slab: None
        return
    except OSError as error:
        raise _refused(path.parent, error) from error

    def write(slab: Packed) -> None:
        try:
            for piece in map(np.atleast_2d, slab.pieces):
                values = piece.reshape(-1).view(np.uint8)
                header = _HEADER.pack(
                    slab.kind.encode(), piece.dtype.str.encode(), *piece.shape, zlib.crc32(values.data)
                )
                file.write(header + _CHECKSUM.pack(zlib.crc32(header)))
                file.write(values.data)
            file.flush()
        except OSError as error:
            raise _refused(path.parent, error) from error

    try:
        with file:
            yield write
        with suppress(FileNotFoundError):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refused(path: Path, error: OSError) -> StageError:
    return StageError(
        f"the stage {str(path.parent)!r} does not take V's panels ({error.strerror or error}): make room, "
        "give another directory, or fit without stage."
    )


@contextmanager
def directory(stage: Path, source: Source, client: Client | None) -> Iterator[Path]:
    """A context with a new subdirectory of `stage` on every machine that reads panels, removed at the end.

    Subdirectories that killed fits of this machine left behind are removed first.

    Raises
    ------
    StageError
        If a machine cannot make the directory, or has no room for V.
    """
    path = stage / f"{_PREFIX}{signed()}"
    # The scheduler assigns panels to workers: a machine may get all panels.
    needed = nbytes_of(source)

    def everywhere(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """The result on each worker, or in this process."""
        if client is None:
            return {"this process": function(*arguments)}
        return client.run(function, *arguments, on_error="ignore")

    try:
        # The directories are on the workers' machines; their owners are processes of this machine.
        names = set().union(*everywhere(_others, stage).values())
        everywhere(_forget, left_behind(names), stage)
        if client is not None:
            client.register_plugin(_Maker(path), name=path.name)  # for workers that come later
        _check(everywhere(_made, path), stage, needed)
        yield path
    finally:
        if client is None:
            _remove(path)
        elif client.status == "running":
            client.unregister_worker_plugin(path.name)
            everywhere(_remove, path)


def _check(answers: dict[str, int | str], stage: Path, needed: int) -> None:
    for where, answer in answers.items():
        if isinstance(answer, str):
            raise StageError(
                f"the stage {str(stage)!r} cannot be made by {where} ({answer}); it must be a directory "
                "that can be written: give another one, or fit without stage."
            )
        if answer < needed:
            raise StageError(
                f"the stage {str(stage)!r} has {format_bytes(answer)} free for {where}; the panels of V "
                f"take {format_bytes(needed)}: make room, give another directory, or fit without stage."
            )


def _others(stage: Path) -> list[str]:
    """Names of the directories of all fits, without their prefix."""
    return [path.name.removeprefix(_PREFIX) for path in stage.glob(f"{_PREFIX}*")]


def _forget(names: list[str], stage: Path) -> None:
    """Remove directories of fits that were killed."""
    for name in names:
        _remove(stage / f"{_PREFIX}{name}")


class _Maker(WorkerPlugin):
    """A worker plugin that makes the directory on machines of workers that join during the fit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def setup(self, worker: Worker) -> None:
        _made(self._path)


def _made(path: Path) -> int | str:
    """Free bytes in the directory, which is made; or the reason why it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(path).free
    except OSError as error:
        return error.strerror or str(error)


def _remove(path: Path) -> None:
    # Renamed first, so that a task that still runs cannot write another file. A removal that was itself
    # killed has left the other name, to which no directory with files can be renamed.
    ended = path.with_name(f"{path.name}-ended")
    with suppress(OSError):
        path.rename(ended)
    for each in (ended, path):
        shutil.rmtree(each, ignore_errors=True)
