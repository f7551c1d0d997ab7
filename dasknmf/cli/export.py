"""``dasknmf export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from dasknmf import open_consensus, open_run
from dasknmf.cli import tables
from dasknmf.cli.exit_codes import friendly
from dasknmf.cli.options import Name
from dasknmf.cli.output import noted
from dasknmf.data import hdf5
from dasknmf.data.anndata_file import open_anndata
from dasknmf.errors import RunMismatchError, SourceError
from dasknmf.io.optional import needed
from dasknmf.singlecell import export_h5ad, export_zarr
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import Exported, entries, factors_for
from dasknmf.singlecell.genes_mask import advising
from dasknmf.stacks.geotiff_in import is_raster

_OF_STACKS = ("xarray", "geotiff")


@click.command()
@click.argument("run")
@click.argument("target")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["anndata", "h5ad", "csv", *_OF_STACKS]),
    help="Into the AnnData TARGET, to the new file TARGET, to tables in the directory TARGET; of a stack "
    "also to a new Zarr store for xarray, or maps to a GeoTIFF.  [default: anndata; of a stack xarray, and "
    "geotiff where TARGET ends in .tif]",
)
@click.option("--xarray", "to_xarray", is_flag=True, help="The same as --to xarray.")
@click.option(
    "--names-from",
    multiple=True,
    metavar="ANNDATA",
    help="For --to h5ad and csv: the AnnData that was fitted, whose cells have names. Where several were, "
    "give each, in the order of the fit.",
)
@click.option(
    "--cnmf",
    type=Name(),
    metavar="NAME",
    help="Of a consensus: into the files TARGET/NAME/NAME.*, named as cNMF names them. With --names-from "
    "the gene scores and TPM spectra over all its genes, and the usages that cNMF would fit to these, in "
    "three reads of its counts.",
)
@click.option("--layer", metavar="LAYER", help="For --cnmf: the counts of --names-from, if they are not X.")
@click.option(
    "--key-added", type=Name(), metavar="NAME", help="One key for all, instead of X_nmf, NMF and nmf."
)
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
@friendly
def export(
    run: str,
    target: str,
    kind: str | None,
    to_xarray: bool,
    names_from: tuple[str, ...],
    cnmf: str | None,
    layer: str | None,
    key_added: str | None,
    overwrite: bool,
) -> None:
    """Write W and H of RUN where other programs read them.

    Into the AnnData TARGET: obsm["X_nmf"], varm["NMF"] and uns["nmf"]. Of a stack of images a Zarr store
    with abundance, endmember and the history, on their coordinates; or a GeoTIFF of the abundances. Of a
    consensus, with --cnmf NAME, the files that cNMF leaves.

    Nothing is left half written, and W is never in memory as a whole.
    """
    if cnmf is not None:
        if kind is not None or to_xarray or key_added is not None:
            raise click.UsageError("--cnmf is a kind of its own, with keys of its own: leave out the others.")
        _export_cnmf(run, Path(target), cnmf, names_from, layer, overwrite)
        return
    if layer is not None:
        raise click.UsageError("--layer is for --cnmf, which needs counts: leave it out.")
    opened = open_run(run)
    kind = _kind_of(opened, target, kind, to_xarray)
    if kind in _OF_STACKS:
        if names_from or key_added is not None:
            raise click.UsageError(f"--names-from and --key-added are for AnnData, and not for --to {kind}.")
        _export_stack(opened, target, kind, overwrite)
        return
    keys = Keys.named(key_added)
    if kind == "anndata":
        if names_from:
            raise click.UsageError("--names-from is for --to h5ad and csv: TARGET has names of its own.")
        there = open_anndata(target)
        writer = export_h5ad if hdf5.split(target) else export_zarr
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
    export_h5ad.write_new(Path(target), factors, keys, obs=obs, var=var, overwrite=overwrite)
    click.echo(f"{', '.join(entries(keys))}: {target}")


def _export_cnmf(
    run: str, target: Path, name: str, counts: tuple[str, ...], layer: str | None, overwrite: bool
) -> None:
    from dasknmf.singlecell import export_cnmf
    from dasknmf.singlecell.tpm import InAllGenes, in_all_genes

    agreed, opened = open_consensus(run), open_run(run)
    genes = opened.feature_names
    if not counts:
        if layer is not None:
            raise click.UsageError("--layer is of the AnnData that --names-from gives: give it too.")
        n, m = opened.shape
        names: dict[str, Any] = {"cells": np.arange(n).astype(str)}
        genes = np.arange(m).astype(str) if genes is None else genes
        noted(
            "without --names-from, the AnnData that was fitted: cells by their numbers, usages of the "
            "consensus itself, no gene_spectra_score and gene_spectra_tpm, which cNMF's load_results asks for"
        )
    else:
        store = open_anndata(list(counts))
        columns = factors_for(opened, store).columns
        matrix = store.matrix(layer)
        genes = store.var_names if genes is None else genes

        def whole() -> InAllGenes:
            noted(
                "reading the counts of --names-from for programs over all genes: twice, and for usages once"
            )
            return in_all_genes(matrix, columns, agreed.usages)

        names = {"cells": store.obs_names, "all_genes": store.var_names, "whole": whole}
    ranks = export_cnmf.Ranks.of(opened)
    with advising():
        written = export_cnmf.write(
            target, name, agreed, genes=genes, ranks=ranks, overwrite=overwrite, **names
        )
    click.echo(f"{', '.join(written)}: {target / name}")


def _kind_of(run: Any, target: str, kind: str | None, to_xarray: bool) -> str:
    if to_xarray and kind not in (None, "xarray"):
        raise click.UsageError(f"--xarray and --to {kind} are two kinds: give one.")
    kind = "xarray" if to_xarray else kind
    if kind is None and is_raster(target):
        kind = "geotiff"
    if kind in _OF_STACKS and run.layout is None:
        raise RunMismatchError(
            f"the run at {str(run.store)!r} is one of a matrix of shape {run.shape}, whose rows have no "
            "place in an image: export it with --to csv, or fit its stack with --sample-dims."
        )
    return kind or ("anndata" if run.layout is None else "xarray")


def _export_stack(run: Any, target: str, kind: str, overwrite: bool) -> None:
    path = new_path(target)
    if kind == "xarray":
        from dasknmf.stacks import export_zarr

        export_zarr.write_run(run, path, overwrite=overwrite)
        click.echo(f"abundance, endmember, history: {path}   open it: xarray.open_zarr({str(path)!r})")
        return
    n_unobserved = run.n_unobserved_samples
    write_geotiff(path, run.W, run.layout, n_unobserved, overwrite)


def write_geotiff(path: Path, W: Any, layout: Any, n_unobserved: int | None, overwrite: bool = False) -> None:
    """Write maps, and tell what of them needs telling; None: how many pixels have no W is not known."""
    from dasknmf.stacks import geotiff_out

    written = geotiff_out.write(path, W, layout, may_be_unobserved=n_unobserved != 0, overwrite=overwrite)
    n_nan = written.n_nan
    if not written.has_crs:
        noted("the stack has no CRS (a coordinate spatial_ref with crs_wkt), and so the file has none")
    if n_unobserved is not None and n_nan > n_unobserved:
        noted(
            f"{n_nan - n_unobserved:,} pixels that were observed are 0 in every component, and NaN here like "
            f"the {n_unobserved:,} with nothing observed"
        )
    nan = f", {n_nan:,} pixels NaN" if n_nan else ""
    click.echo(f"{W.shape[1]} bands of abundance{nan}: {path}")


def new_path(target: str) -> Path:
    """A place on this machine, where a store can be put in one step."""
    if "://" in target:
        raise SourceError(
            f"{target!r} is a URL, where a store cannot be moved to in one step: write it to a path of this "
            "machine and copy it."
        )
    return Path(target)
