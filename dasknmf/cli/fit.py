"""``dasknmf fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from dasknmf import NMF, open_run
from dasknmf.anndata_parts import advising
from dasknmf.cli.exits import friendly
from dasknmf.cli.known import known_rows
from dasknmf.cli.options import Beta, Bytes, Count, configured, scheduler_options, with_options
from dasknmf.cli.progress import progress
from dasknmf.cli.scheduling import scheduled
from dasknmf.cli.sources import Choice, anndata_at, source_options
from dasknmf.cli.stacks import Scene, missing_of_matrix, stack_options
from dasknmf.cli.summary import summary
from dasknmf.inputs.raster import is_raster
from dasknmf.model import SAMPLE_BYTES, Init


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="SOURCE... RUN")
@click.option("-k", "--n-components", type=Count(), required=True, help="Components to find.")
@click.option("--beta-loss", type=Beta(), default="frobenius", show_default=True)
@click.option("--solver", type=click.Choice(["auto", "cd", "bpp", "mu"]), default="auto", show_default=True)
@click.option("--init", type=click.Choice([each for each in get_args(Init) if each != "custom"]))
@click.option(
    "--sample-bytes", type=Bytes(), default=SAMPLE_BYTES, help="Of --init sample.  [default: 64 MiB]"
)
@click.option("--max-iter", type=int, default=200, show_default=True, help="Most exact passes.")
@click.option("--tol", type=float, default=1e-4, show_default=True)
@click.option("--random-state", type=int)
@click.option("--alpha-w", type=float, default=0.0, show_default=True)
@click.option("--alpha-h", type=float, help="Default: as --alpha-w.")
@click.option("--l1-ratio", type=float, default=0.0, show_default=True)
@click.option("--sum-to-one", is_flag=True, help="Rows of W sum to one, as fractions of a pixel do.")
@click.option(
    "--fixed-components",
    metavar="FILE",
    help="Known rows of H, which stay: .npy, .csv (a row for each, also the spectra.csv of an export) or a "
    "Zarr array.",
)
@click.option(
    "--holdout",
    type=float,
    metavar="SHARE",
    help="Hide this share of the entries from the fit and tell the loss over them.",
)
@with_options(stack_options)
@with_options(source_options)
@click.option("--dtype", type=click.Choice(["float32", "float64"]))
@with_options(scheduler_options)
@click.option(
    "--stage",
    metavar="memory|DIRECTORY",
    help="Keep SOURCE in memory, or in a directory, after the first pass has read it.",
)
@click.option("--overwrite", is_flag=True, help="Start over where RUN holds a run.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=configured,
    help="A TOML file with any of these options; the command line goes before it.",
)
@friendly
def fit(
    places: tuple[str, ...],
    scheduler: str,
    scheduler_file: Path | None,
    stage: str | None,
    overwrite: bool,
    alpha_w: float,
    alpha_h: float | None,
    layer: str | None,
    mask_var: str | None,
    all_genes: bool,
    n_top_genes: int | None,
    normalize: float | None,
    log1p: bool,
    scale: bool,
    sample_dims: tuple[str, ...] | None,
    variable: tuple[str, ...],
    mask: str | None,
    missing: str | float | None,
    negatives: str | None,
    fixed_components: str | None,
    holdout: float | None,
    **parameters: Any,
) -> None:
    """Factorize SOURCE; commit every pass to RUN.

    SOURCE is a Zarr array; or an AnnData on Zarr or in an .h5ad file, of several of which the cells are
    put one below the other, with the genes that all have; or, with --sample-dims, a stack of images that
    xarray has written to a Zarr store; or a GeoTIFF, of several of which, of one grid, time is a new dim.

    The same command started again goes on from the last commit; with a larger --max-iter or a
    smaller --tol a finished run is continued.
    """
    *sources, run = places
    if not sources:
        raise click.UsageError(f"one argument is given, {run!r}, and two are needed: SOURCE and RUN.")
    choice = Choice(layer, mask_var, all_genes, n_top_genes, normalize, log1p, scale)
    scene = Scene(sample_dims, variable, mask, missing, negatives)
    known = None if fixed_components is None else known_rows(fixed_components)
    with scheduled(scheduler, scheduler_file):
        stack = scene.of(sources)
        if stack is None:
            parameters["missing_values"] = missing_of_matrix(missing)
        else:
            choice.refuse_for_stacks()
        model = NMF(
            alpha_W=alpha_w,
            alpha_H="same" if alpha_h is None else alpha_h,
            fixed_components=known,
            **parameters,
        )
        with progress(model.max_iter) as report:
            V = choice.of(tuple(sources)) if stack is None else stack
            with advising():
                model.fit(
                    V,
                    holdout=holdout,
                    checkpoint=run,
                    overwrite=overwrite,
                    stage=stage,
                    callbacks=[report],
                )
    click.echo(summary(open_run(run)))
    click.echo(f"W and H: dasknmf.open_run({run!r})")
    if stack is not None:
        maps = "maps.tif" if is_raster(sources) else "maps.zarr"
        click.echo(f"maps: dasknmf export {run} {maps}   a page to look at: dasknmf report {run}")
    elif anndata_at(tuple(sources)) is not None:
        # Of several, none has all the cells of W.
        into = f"   into the AnnData: dasknmf export {run} {sources[0]}" if len(sources) == 1 else ""
        click.echo(f"genes: dasknmf top {run}{into}")
