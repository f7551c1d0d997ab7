"""Another scene for the endmembers of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from dasknmf.cli.export import new_path, write_geotiff
from dasknmf.cli.stacks import mask_at, one_or_all
from dasknmf.io.atomic import refuse_existing
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack, open_stack
from dasknmf.store.schema import Entries


def write_maps(
    run: Any,
    source: str,
    out: Path,
    variable: tuple[str, ...],
    mask: str | None,
    missing: str | float | None,
) -> None:
    """Write the abundances of a scene for the endmembers of a run.

    Raises
    ------
    SourceError
        If the scene cannot be opened, or is another kind of stack.
    ValueError
        If its features are not those of the run, or nobody knows which of its values are missing.
    RunError
        If something is at `out`.
    """
    from dasknmf.stacks import StackNMF, export_zarr

    path = new_path(str(out))
    refuse_existing(path)
    stack = _scene(run, source, variable, mask, missing)
    model = StackNMF.from_run(run)
    maps = model.transform(stack)  # checks the dims, too
    if is_raster(path):
        masks = stack.masked or (stack.entries is not None and stack.entries.masks)
        write_geotiff(path, model.model_.transform(stack), stack.layout, None if masks else 0)
        return
    export_zarr.write(maps.to_dataset(name="abundance"), path)
    click.echo(f"abundance: {path}   open it: xarray.open_zarr({str(path)!r})")


def _scene(run: Any, source: str, variable: tuple[str, ...], mask: str | None, missing: Any) -> Stack:
    layout = run.layout
    if is_raster(source):
        if variable:
            raise click.UsageError("--variable chooses from a Zarr store; a GeoTIFF has bands: leave it out.")
        obj = open_stack(source)
    else:
        obj = open_stack(source, one_or_all(variable) or _variables_of(layout))
    entries = run.identity.entries or Entries()
    options = {
        "sample_dims": layout.sample_dims,
        "mask": None if mask is None else mask_at(mask),
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


def _variables_of(layout: Any) -> Any:
    """What was fitted: the variables of a dataset in their order, or the one that there was."""
    return layout.name if layout.variables is None else list(layout.variables)
