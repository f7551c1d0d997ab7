"""``dasknmf transform``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import dask.array as da
import numpy as np
import zarr

from dasknmf import NMF, Prepared, open_run
from dasknmf.cli.export import new_path, write_geotiff
from dasknmf.cli.options import argument, command, option
from dasknmf.cli.output import short_warnings
from dasknmf.cli.scheduling import SchedulerOptions
from dasknmf.cli.sources import anndata_at
from dasknmf.cli.stacks import StackSelection, missing_of_matrix
from dasknmf.data import opened
from dasknmf.io.atomic import refuse_existing
from dasknmf.singlecell import steps_to_repeat, usage
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack
from dasknmf.store.run import Run
from dasknmf.store.schema import Entries


@dataclass(frozen=True, kw_only=True)
class TransformJob(SchedulerOptions, StackSelection):
    """Arguments and options of `transform`."""

    run: str = argument()
    source: str = argument()
    out: Path = argument(type=click.Path(path_type=Path))
    layer: str | None = option("AnnData: use this layer instead of X.", metavar="NAME")


@command(TransformJob)
def transform(job: TransformJob) -> None:
    """Compute W of SOURCE for the H of RUN.

    W is written to the new Zarr array OUT. SOURCE is prepared as the data of RUN were. Genes of an AnnData
    are matched by name; genes that the AnnData lacks count as missing. If RUN is the run of a stack, SOURCE
    is another scene, missing values are those of the fit, and OUT is a Zarr store of abundances for xarray,
    or a GeoTIFF (.tif).
    """
    run = open_run(job.run)
    with short_warnings(), job.computing():
        if run.layout is not None:
            if job.layer is not None:
                raise click.UsageError(
                    "--layer can only be used with an AnnData, and RUN is the run of a stack: leave it out."
                )
            _write_maps(run, job)
            return
        if job.variable or job.mask is not None:
            raise click.UsageError(
                "--variable and --mask can only be used with the run of a stack, and RUN is the run of a "
                "matrix: leave them out."
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
        raise click.UsageError(
            f"--layer can only be used with an AnnData, and {source!r} is not one: leave it out."
        )
    X = opened(source) if store is None else store.matrix(layer)
    steps = steps_to_repeat(model)
    return model.transform(Prepared(X, **steps) if steps else X)


def write_rows(W: da.Array, path: Path) -> None:
    """Write W to a new Zarr array, one task per chunk; a write that fails is removed.

    Raises
    ------
    RunError
        If the path exists.
    """
    refuse_existing(path)
    rows = max(W.chunks[0])
    aligned = W.rechunk((rows, -1))
    try:
        # Chunks of the array and of the tasks are the same, so no two tasks write one chunk.
        array = zarr.create_array(path, shape=W.shape, chunks=(rows, W.shape[1]), dtype=W.dtype)
        da.store(aligned, array, lock=False)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _write_maps(run: Run, job: TransformJob) -> None:
    """Write the abundances of a scene for the endmembers of a run.

    Raises
    ------
    SourceError
        If the scene cannot be opened, or is another kind of stack.
    ValueError
        If its features are not those of the run, or its missing values are not known.
    RunError
        If the target exists.
    """
    from dasknmf.stacks import StackNMF, export_zarr

    path = new_path(str(job.out))
    refuse_existing(path)
    stack = _scene(run, job.source, job)
    model = StackNMF.from_run(run)
    maps = model.transform(stack)  # checks the dims, too
    if is_raster(path):
        masks = stack.masked or (stack.entries is not None and stack.entries.masks)
        write_geotiff(path, model.model_._coded(stack, "transform"), stack.layout, None if masks else 0)
        return
    export_zarr.write_dataset(maps.to_dataset(name="abundance"), path)
    click.echo(f"abundance: {path}   open it: xarray.open_zarr({str(path)!r})")


def _scene(run: Run, source: str, selection: StackSelection) -> Stack:
    layout, entries = run.layout, run.identity.entries or Entries()
    assert layout is not None  # a run of a stack
    # The fitted variables: those of a dataset in their order, or the name of the only one.
    images = selection.images(source, layout.name if layout.variables is None else list(layout.variables))
    scene = partial(
        Stack, images, layout.sample_dims, selection.mask_array(), negatives=entries.negatives or "error"
    )
    if selection.missing is not None:
        return scene(missing=selection.missing)
    stack, of_fit = scene(), entries.nodata
    if not isinstance(of_fit, float):
        return stack
    nodata = None if stack.entries is None else stack.entries.nodata
    if nodata is None:
        return scene(missing=of_fit)
    if np.ndim(nodata) or nodata != of_fit:
        raise click.UsageError(
            f"{source!r} declares {nodata} as its missing value, and in the fit it was {of_fit:g}: give "
            "--missing auto for the value of the scene, or --missing NUMBER."
        )
    return stack
