"""``dasknmf transform``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dasknmf import NMF, Prepared
from dasknmf.cli.exits import friendly
from dasknmf.cli.options import scheduler_options, with_options
from dasknmf.cli.progress import short_warnings
from dasknmf.cli.scheduling import scheduled
from dasknmf.cli.sources import anndata_at
from dasknmf.inputs import opened
from dasknmf.outputs import write_rows
from dasknmf.singlecell import steps_to_repeat, usage


@click.command()
@click.argument("run")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--layer", metavar="NAME", help="Of an AnnData: this layer, not X.")
@with_options(scheduler_options)
@friendly
def transform(
    run: str, source: str, out: Path, layer: str | None, scheduler: str, scheduler_file: Path | None
) -> None:
    """Write W of SOURCE, for the H of RUN, to the new Zarr array OUT.

    SOURCE is prepared as what RUN was fitted to. In an AnnData genes are found by their names; those that
    it lacks are taken as unobserved.
    """
    model = NMF.from_run(run)
    with short_warnings(), scheduled(scheduler, scheduler_file):
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
