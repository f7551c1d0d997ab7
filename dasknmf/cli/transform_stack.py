"""Abundances of another scene for the endmembers of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np

from dasknmf.cli.export import new_path, write_geotiff
from dasknmf.cli.stacks import StackSelection
from dasknmf.io.atomic import refuse_existing
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack
from dasknmf.store.run import Run
from dasknmf.store.schema import Entries


def write_maps(run: Run, source: str, out: Path, selection: StackSelection) -> None:
    """Write the abundances of a scene for the endmembers of a run.

    Parameters
    ----------
    run : Run
    source : str
        The scene.
    out : Path
        A new Zarr store, or a GeoTIFF.
    selection : StackSelection

    Raises
    ------
    SourceError
        If the scene cannot be opened, or is another kind of stack.
    ValueError
        If its features are not those of the run, or its missing values are not known.
    RunError
        If `out` exists.
    """
    from dasknmf.stacks import StackNMF, export_zarr

    path = new_path(str(out))
    refuse_existing(path)
    stack = _scene(run, source, selection)
    model = StackNMF.from_run(run)
    maps = model.transform(stack)  # checks the dims, too
    if is_raster(path):
        masks = stack.masked or (stack.entries is not None and stack.entries.masks)
        write_geotiff(path, model.model_.transform(stack), stack.layout, None if masks else 0)
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
