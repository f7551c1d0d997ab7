"""``dasknmf export``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from dasknmf import open_run
from dasknmf.anndata_entries import Keys
from dasknmf.cli.exits import friendly
from dasknmf.exports import anndata_hdf5, anndata_zarr, tables
from dasknmf.exports.extras import needed
from dasknmf.exports.factors import Exported, entries, factors_for
from dasknmf.inputs import hdf5
from dasknmf.inputs.anndata_store import open_anndata


@click.command()
@click.argument("run")
@click.argument("target")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["anndata", "h5ad", "csv"]),
    default="anndata",
    show_default=True,
    help="Into the AnnData TARGET, to the new file TARGET, or to tables in the directory TARGET.",
)
@click.option(
    "--names-from",
    multiple=True,
    metavar="ANNDATA",
    help="For --to h5ad and csv: the AnnData that was fitted, whose cells have names. Where several were, "
    "give each, in the order of the fit.",
)
@click.option("--key-added", metavar="NAME", help="One key for all, instead of X_nmf, NMF and nmf.")
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
@friendly
def export(
    run: str,
    target: str,
    kind: str,
    names_from: tuple[str, ...],
    key_added: str | None,
    overwrite: bool,
) -> None:
    """Write W and H of RUN into the AnnData TARGET: obsm["X_nmf"], varm["NMF"] and uns["nmf"].

    Nothing is left half written, and W is never in memory as a whole.
    """
    opened = open_run(run)
    keys = Keys.named(key_added)
    if kind == "anndata":
        if names_from:
            raise click.UsageError("--names-from is for --to h5ad and csv: TARGET has names of its own.")
        there = open_anndata(target)
        writer = anndata_hdf5 if hdf5.split(target) else anndata_zarr
        writer.write(target, factors_for(opened, there), keys, overwrite=overwrite)
        click.echo(f"{', '.join(entries(keys))}: {target}")
        return
    store = open_anndata(list(names_from)) if names_from else None
    n, m = opened.shape
    # Checks that the names are those of this run.
    factors = Exported(opened, None, m) if store is None else factors_for(opened, store)
    genes = opened.feature_names
    if genes is None:
        genes = np.arange(m).astype(str) if store is None else store.var_names
    if kind == "csv":
        cells = None if store is None else store.obs_names
        tables.write(Path(target), factors, cells=cells, genes=genes, overwrite=overwrite)
        click.echo(f"usages.csv, spectra.csv: {target}")
        return
    pd = needed("pandas")
    obs = pd.DataFrame(index=np.arange(n).astype(str)) if store is None else store.obs
    var = pd.DataFrame(index=genes) if store is None else store.var
    anndata_hdf5.write_new(Path(target), factors, keys, obs=obs, var=var, overwrite=overwrite)
    click.echo(f"{', '.join(entries(keys))}: {target}")
