"""``dasknmf transform``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import dask.array as da
import zarr

from dasknmf import NMF, Prepared, open_run
from dasknmf.cli.exit_codes import friendly
from dasknmf.cli.options import scheduler_options, with_options
from dasknmf.cli.output import short_warnings
from dasknmf.cli.scheduling import Where
from dasknmf.cli.sources import anndata_at
from dasknmf.cli.stacks import missing_of_matrix, missing_option, selecting_options
from dasknmf.cli.transform_stack import write_maps
from dasknmf.data import opened
from dasknmf.errors import RunError
from dasknmf.singlecell import steps_to_repeat, usage


@click.command()
@click.argument("run")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--layer", metavar="NAME", help="Of an AnnData: this layer, not X.")
@with_options([*selecting_options, missing_option("as in the fit")])
@with_options(scheduler_options)
@friendly
def transform(
    run: str,
    source: str,
    out: Path,
    layer: str | None,
    variable: tuple[str, ...],
    mask: str | None,
    missing: str | float | None,
    **options: Any,
) -> None:
    """Write W of SOURCE, for the H of RUN, to the new Zarr array OUT.

    SOURCE is prepared as what RUN was fitted to. In an AnnData genes are found by their names; those that
    it lacks are taken as unobserved. Where RUN is one of a stack, SOURCE is another scene, and OUT a Zarr
    store of its abundances for xarray, or a GeoTIFF; what is missing is what was missing in the fit.
    """
    fitted = open_run(run)
    with short_warnings(), Where(**options).computing():
        if fitted.layout is not None:
            if layer is not None:
                raise click.UsageError("--layer chooses a part of an AnnData, and RUN is one of a stack.")
            write_maps(fitted, source, out, variable, mask, missing)
            return
        if variable or mask is not None:
            raise click.UsageError(
                "--variable and --mask are for runs of stacks, and RUN is one of a matrix."
            )
        model = NMF.from_run(fitted)
        if missing is not None:
            model.set_params(missing_values=missing_of_matrix(missing))
        write_rows(_coded(model, source, layer), out)
    click.echo(f"W: {out}")


def _coded(model: NMF, source: str, layer: str | None) -> Any:
    store = anndata_at((source,))
    if store is not None and hasattr(model, "feature_names_in_"):
        return usage(store.matrix(layer), store.var_names, model)
    if layer is not None and store is None:
        raise click.UsageError(f"--layer chooses a part of an AnnData, and {source!r} is none: leave it out.")
    X = opened(source) if store is None else store.matrix(layer)
    steps = steps_to_repeat(model)
    return model.transform(Prepared(X, **steps) if steps else X)


def write_rows(W: da.Array, path: Path) -> None:
    """Write W as a new Zarr array, one task per chunk; a write that fails leaves nothing behind.

    Raises
    ------
    RunError
        If something is there already.
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
