"""Staging: a cache of V's panels near the workers, filled by the first pass and read by later ones.

Panels keep their dtype and memory order, so a fit gives the same bits with and without a stage. A panel that
a stage has lost is read from V again; if V is a Dask array, the pass is repeated with that panel's chunks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from distributed import Client

from dasknmf.core.panels import Grid
from dasknmf.data.in_memory import MemorySource
from dasknmf.data.source import Source
from dasknmf.data.staging.cache import MemoryCache, Staged
from dasknmf.data.staging.files import FileCache, directory
from dasknmf.data.staging.workers import WorkerCache
from dasknmf.errors import StageError

__all__ = ["Stage", "check_stage", "staged"]

Stage: TypeAlias = str | os.PathLike
"""``"memory"``, or the path of a directory."""

_ZARR = ("zarr.json", ".zarray", ".zgroup")
"""Files of which each Zarr array or group has one."""


def check_stage(stage: Stage | None, checkpoint: object) -> None:
    """Raise an error if the stage is not a directory, or is the place of the run.

    Raises
    ------
    TypeError, ValueError
    """
    if stage is None or stage == "memory":
        return
    if not isinstance(stage, (str, os.PathLike)) or not os.fspath(stage):
        raise (ValueError if stage == "" else TypeError)(
            f"stage is {stage!r}; it must be None, 'memory' or the path of a directory: give one of these."
        )
    if isinstance(stage, str) and stage.lower() == "memory":
        raise ValueError(
            f"stage is {stage!r}; the stage in the memory of the workers is called 'memory': give that, or "
            f"'./{stage}' for a directory of this name."
        )
    if "://" in os.fspath(stage):
        raise ValueError(
            f"stage is {stage!r}; it must be a directory of the machines that read X, since a URL is as far "
            "as X itself: give a path, or 'memory'."
        )
    if isinstance(checkpoint, (str, os.PathLike)) and _path(stage) == _path(checkpoint):
        raise ValueError(
            f"stage and checkpoint are both {str(stage)!r}; a run needs a place of its own: give another "
            "directory to one of them."
        )
    place = _path(stage)
    documents = (each / name for each in (place, *place.parents) for name in _ZARR)
    if found := next((str(each) for each in documents if each.exists()), None):
        raise ValueError(
            f"stage is {stage!r}, and there is {found!r}: it is a Zarr store, of X or of a run, or lies "
            "inside of one; give a directory for nothing else."
        )


def _path(stage: Stage) -> Path:
    return Path(stage).expanduser().absolute()


@contextmanager
def staged(source: Source, grid: Grid, stage: Stage | None, client: Client | None) -> Iterator[Source]:
    """A context with the source behind a stage, which is cleared at the end.

    Parameters
    ----------
    source, grid
        V and its panels.
    stage : "memory", path or None
        Where panels are kept. ``"memory"``: in the worker that read them, or in this process. A path: in
        files in a new subdirectory, on every machine that reads panels.
    client : distributed.Client or None
        Client of the cluster whose workers read V.

    Raises
    ------
    StageError
        If a directory cannot be written, or has no room for V.
    """
    if stage is None or isinstance(source, MemorySource):
        yield source
    elif stage != "memory":
        # Panels of a Dask array can only be computed again by the scheduler, not by a visit.
        unaided = not source.chunk_keys(grid[0])
        if client is not None and not unaided:
            _check_machines(client, stage)
        with directory(_path(stage), source, client) as path:
            yield Staged(source, FileCache(path), unaided=unaided)
    elif client is None:
        yield Staged(source, MemoryCache(), unaided=True)
    else:
        held = WorkerCache(grid, client)
        try:
            yield Staged(source, held, unaided=False)
        finally:
            held.release()


def _check_machines(client: Client, stage: Stage) -> None:
    """Raise an error for a Dask array staged in files of several machines.

    Its chunks would be computed again whenever a panel is visited on another machine.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    machines = {worker["host"] for worker in workers}
    if len(machines) > 1:
        raise StageError(
            f"the stage {str(stage)!r} would hold a Dask array in files of {len(machines)} machines, which "
            "do not see each other's, and its chunks would be made again on each: give stage='memory', or "
            "store X as Zarr."
        )
