"""Panels kept in files of a directory, by every machine that reads them.

A file is a sequence of slabs, each piece of them behind a header with checksums of itself and of the
values: one piece where they are dense, four where they are sparse. It is written beside its name and
renamed; what is missing, cut or altered is read from V and written again. Files are read and not mapped:
one that is cut while it is read must not end the process.
"""

from __future__ import annotations

import copy
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from dask.task_spec import GraphNode
from dask.utils import format_bytes
from distributed import Client, WorkerPlugin

from dasknmf.core.panels import Grid, Panel
from dasknmf.data.source import Chunks, Reader, Slab, Source, StageLost, nbytes_of
from dasknmf.data.staging.memory import AnyPacked, Packed, PackedSparse, PackedWeighted, Staged, packed
from dasknmf.errors import StageError
from dasknmf.io.metered import fetched
from dasknmf.io.process_owner import left_behind, signed

_HEADER = struct.Struct("<c8sQQI")
"""Order, or which piece of a sparse slab; dtype, shape of the buffer, checksum of its values; the checksum
of these follows."""
_CHECKSUM = struct.Struct("<I")
_PREFIX = "dasknmf-stage-"


class FileSource(Staged):
    """A source whose panels are written to a directory as they are read."""

    def __init__(self, source: Source, grid: Grid, path: Path) -> None:
        super().__init__(source)
        self._asked: set[int] = set()
        # A panel that is made by the scheduler's tasks can be made again by them alone.
        self.reader = FileReader(source.reader, path, unaided=not source.chunk_keys(grid[0]))

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        if panel.index in self._asked and not lost:
            return []
        self._asked.add(panel.index)
        return self._source.chunk_keys(panel)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._source.upstream()


class FileReader(Reader):
    """Reads a panel from its file where that is whole, else from V.

    Parameters
    ----------
    reader : Reader
        Of V.
    path : Path
        The directory of this fit; where it has gone, the fit has ended and nothing is kept.
    unaided : bool
        Whether `reader` needs no chunks from the scheduler.
    """

    def __init__(self, reader: Reader, path: Path, *, unaided: bool) -> None:
        self._reader = reader
        self._path = path
        self._unaided = unaided

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        again = copy.copy(self)
        again._reader = self._reader.anew(of_a_fit=of_a_fit)
        return again

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        path = self._path / f"{start}-{stop}"
        n_slabs = 0
        if not chunks:
            fetched(0)
            row = start
            for kept in _read(path):
                slab = kept.slab()
                row += slab.shape[0]
                n_slabs += 1
                yield slab
            if row == stop:
                return
            if not self._unaided:
                raise StageLost
        with _writing(path) as write:
            for number, slab in enumerate(self._reader.slabs(start, stop, chunks)):
                kept = packed(slab)
                write(kept)
                if number >= n_slabs:  # those before came out of the file whole
                    yield kept.slab()


_IN_PIECES: tuple[type[PackedSparse] | type[PackedWeighted], ...] = (PackedSparse, PackedWeighted)


def _read(path: Path) -> Iterator[AnyPacked]:
    """The slabs of a file up to the first that is not as it was written."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        while (slab := _read_slab(file)) is not None:
            yield slab


def _read_slab(file: BufferedReader) -> AnyPacked | None:
    piece = _read_piece(file)
    kind = next((kind for kind in _IN_PIECES if piece and piece[0] in kind.LETTERS), None)
    if piece is None or kind is None:
        return piece and Packed(piece[1], piece[0])
    parts = [piece[1]]
    for letter in kind.LETTERS[1:]:
        piece = _read_piece(file)
        if piece is None or piece[0] != letter:
            return None
        parts.append(piece[1])
    return kind.of_parts(parts)


def _read_piece(file: BufferedReader) -> tuple[str, np.ndarray] | None:
    try:
        header = file.read(_HEADER.size)
        if file.read(_CHECKSUM.size) != _CHECKSUM.pack(zlib.crc32(header)):
            return None
        order, dtype, n_rows, n_columns, checksum = _HEADER.unpack(header)
        buffer = np.empty((n_rows, n_columns), np.dtype(dtype.rstrip(b"\0").decode()))
        values = buffer.reshape(-1).view(np.uint8)
        if file.readinto(values.data) != buffer.nbytes:
            return None
    except OSError:
        return None
    return (order.decode(), buffer) if zlib.crc32(values.data) == checksum else None


@contextmanager
def _writing(path: Path) -> Iterator[Callable[[AnyPacked], None]]:
    """Write a file, slab by slab; it appears under its name when all of them were written."""
    temporary = path.with_name(f"{path.name}-{uuid.uuid4().hex}.partial")
    try:
        file = temporary.open("xb")
    except FileNotFoundError:
        yield lambda slab: None
        return
    except OSError as error:
        raise _refused(path.parent, error) from error

    def write(slab: AnyPacked) -> None:
        try:
            for letter, buffer in slab.parts:
                values = buffer.reshape(-1).view(np.uint8)
                header = _HEADER.pack(
                    letter.encode(), buffer.dtype.str.encode(), *buffer.shape, zlib.crc32(values.data)
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
    """A new directory below `stage`, on every machine that reads panels, removed afterwards.

    Those that fits of this machine left there when they were killed are removed before.

    Raises
    ------
    StageError
        If it cannot be made somewhere, or has no room for V there.
    """
    path = stage / f"{_PREFIX}{signed()}"
    # Which worker reads which panel is the scheduler's choice: each machine may come to hold all.
    needed = nbytes_of(source)
    maker = _Maker(path)
    try:
        if client is None:
            _forget(left_behind(_others(stage)), stage)
            _check({"this process": _made(path)}, stage, needed)
        else:
            # Whose they are is known on this machine, and they lie on those of the workers.
            names = set().union(*client.run(_others, stage, on_error="ignore").values())
            client.run(_forget, left_behind(names), stage, on_error="ignore")
            client.register_plugin(maker, name=path.name)  # for workers that come later
            _check(client.run(_made, path), stage, needed)
        yield path
    finally:
        if client is None:
            _remove(path)
        elif client.status == "running":
            client.unregister_worker_plugin(path.name)
            client.run(_remove, path, on_error="ignore")


def _check(answers: dict[str, int | str], stage: Any, needed: int) -> None:
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
    """What follows the prefix in the names of the directories of all fits."""
    return [path.name.removeprefix(_PREFIX) for path in stage.glob(f"{_PREFIX}*")]


def _forget(names: list[str], stage: Path) -> None:
    """Remove directories of fits that were killed."""
    for name in names:
        _remove(stage / f"{_PREFIX}{name}")


class _Maker(WorkerPlugin):
    """Makes the directory on the machines of workers that join during the fit."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def setup(self, worker: Any) -> None:
        _made(self._path)


def _made(path: Path) -> int | str:
    """Bytes that are free there, or why it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(path).free
    except OSError as error:
        return error.strerror or str(error)


def _remove(path: Path) -> None:
    # Renamed first: a task that still runs finds no directory, and leaves no file behind.
    ended = path.with_name(f"{path.name}-ended")
    with suppress(OSError):
        path.rename(ended)
    shutil.rmtree(ended, ignore_errors=True)
