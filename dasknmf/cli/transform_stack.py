"""Abundances of another scene for the endmembers of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from dasknmf.cli.export import new_path, write_geotiff
from dasknmf.cli.stacks import StackSelection, mask_at, one_or_all
from dasknmf.core.image_grid import Layout
from dasknmf.io.atomic import refuse_existing
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack, open_stack
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
    layout, missing = run.layout, selection.missing
    assert layout is not None  # a run of a stack
    if is_raster(source):
        if selection.variable:
            raise click.UsageError("--variable chooses from a Zarr store; a GeoTIFF has bands: leave it out.")
        obj = open_stack(source)
    else:
        obj = open_stack(source, one_or_all(selection.variable) or _variables_of(layout))
    entries = run.identity.entries or Entries()
    options: dict[str, Any] = {
        "sample_dims": layout.sample_dims,
        "mask": None if selection.mask is None else mask_at(selection.mask),
        "negatives": entries.negatives or "error",
    }
    if missing is not None:
        return Stack(obj, missing=missing, **options)
    stack = Stack(obj, **options)
    then = entries.nodata
    if not isinstance(then, float):
        return stack
    now = None if stack.entries is None else stack.entries.nodata
    if now is None:
        return Stack(obj, missing=then, **options)
    if np.ndim(now) or now != then:
        raise click.UsageError(
            f"{source!r} says that {now} stands for nothing observed, and in the fit it was {then:g}: give "
            "--missing auto, as the scene says, or --missing NUMBER."
        )
    return stack


def _variables_of(layout: Layout) -> str | list[str] | None:
    """The fitted variables: those of a dataset in their order, or the name of the only one."""
    return layout.name if layout.variables is None else list(layout.variables)
