"""``dasknmf transform``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import dask.array as da
import zarr

from dasknmf import NMF, Prepared, open_run
from dasknmf.cli.options import argument, command, option
from dasknmf.cli.output import short_warnings
from dasknmf.cli.scheduling import SchedulerOptions
from dasknmf.cli.sources import anndata_at
from dasknmf.cli.stacks import StackSelection, missing_of_matrix
from dasknmf.cli.transform_stack import write_maps
from dasknmf.data import opened
from dasknmf.errors import RunError
from dasknmf.singlecell import steps_to_repeat, usage


@dataclass(frozen=True, kw_only=True)
class TransformJob(SchedulerOptions, StackSelection):
    """Arguments and options of `transform`."""

    run: str = argument()
    source: str = argument()
    out: Path = argument(type=click.Path(path_type=Path))
    layer: str | None = option("AnnData: use this layer instead of X.", metavar="NAME")


@command(TransformJob)
def transform(job: TransformJob) -> None:
    """Compute W of SOURCE for the H of RUN, and write it to the new Zarr array OUT.

    SOURCE is prepared as V of RUN was. In an AnnData genes are found by their names; genes that it lacks
    count as missing. If RUN is of a stack, SOURCE is another scene, missing values are those of the fit, and
    OUT is a Zarr store of abundances for xarray, or a GeoTIFF (.tif).
    """
    run = open_run(job.run)
    with short_warnings(), job.computing():
        if run.layout is not None:
            if job.layer is not None:
                raise click.UsageError("--layer chooses a part of an AnnData, and RUN is one of a stack.")
            write_maps(run, job.source, job.out, job)
            return
        if job.variable or job.mask is not None:
            raise click.UsageError(
                "--variable and --mask are for runs of stacks, and RUN is one of a matrix."
            )
        model = NMF.from_run(run)
        if job.missing is not None:
            model.set_params(missing_values=missing_of_matrix(job.missing))
        write_rows(_transformed(model, job.source, job.layer), job.out)
    click.echo(f"W: {job.out}")


def _transformed(model: NMF, source: str, layer: str | None) -> da.Array:
    store = anndata_at((source,))
    if store is not None and hasattr(model, "feature_names_in_"):
        return usage(store.matrix(layer), store.var_names, model)
    if layer is not None and store is None:
        raise click.UsageError(f"--layer chooses a part of an AnnData, and {source!r} is none: leave it out.")
    X = opened(source) if store is None else store.matrix(layer)
    steps = steps_to_repeat(model)
    return model.transform(Prepared(X, **steps) if steps else X)


def write_rows(W: da.Array, path: Path) -> None:
    """Write W to a new Zarr array, one task per chunk; a write that fails leaves nothing behind.

    Raises
    ------
    RunError
        If the path exists.
    """
    if path.exists():
        raise RunError(f"{str(path)!r} exists; W is only written to a new place: choose another.")
    rows = max(W.chunks[0])
    aligned = W.rechunk((rows, -1))
    try:
        # Chunks of the array and of the tasks are the same, so no two tasks write one chunk.
        array = zarr.create_array(path, shape=W.shape, chunks=(rows, W.shape[1]), dtype=W.dtype)
        da.store(aligned, array, lock=False)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
