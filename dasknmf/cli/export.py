"""``dasknmf export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask.array as da
import numpy as np

from dasknmf import open_consensus, open_run
from dasknmf.cli import tables
from dasknmf.cli.options import argument, command, flag, option
from dasknmf.cli.output import note
from dasknmf.cli.parameter_types import NAME
from dasknmf.core.image_grid import Layout
from dasknmf.core.text import counted
from dasknmf.data.anndata_file import open_anndata
from dasknmf.errors import RunMismatchError, SourceError
from dasknmf.io.optional import needed
from dasknmf.singlecell import export_anndata
from dasknmf.singlecell.entries import Keys
from dasknmf.singlecell.export import Exported, factors_for
from dasknmf.singlecell.genes_mask import advising
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.store.run import Run

_OF_STACKS = ("xarray", "geotiff")


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """Arguments and options of `export`.

    Raises
    ------
    click.UsageError
        If they contradict each other.
    """

    run: str = argument()
    target: str = argument()
    kind: str | None = option(
        "Write into the AnnData TARGET, to a new .h5ad file, or to CSV tables in a directory; for a stack "
        "also to a new Zarr store for xarray, or to a GeoTIFF.  [default: anndata; for a stack geotiff if "
        "TARGET ends in .tif, else xarray]",
        "--to",
        type=click.Choice(["anndata", "h5ad", "csv", *_OF_STACKS]),
    )
    to_xarray: bool = flag("Same as --to xarray.", "--xarray")
    names_from: tuple[str, ...] = option(
        "With --to h5ad, csv and --cnmf: the AnnData that was fitted, for names of cells and genes; repeat "
        "the option for several, in the order of the fit.",
        multiple=True,
        metavar="ANNDATA",
    )
    cnmf: str | None = option(
        "For a consensus: write the files TARGET/NAME/NAME.* of cNMF. With --names-from also gene scores and "
        "TPM spectra of all genes, and usages refitted to them, in three reads of the counts.",
        type=NAME,
    )
    layer: str | None = option(
        "With --cnmf: the layer of --names-from that holds counts.  [default: X]", metavar="LAYER"
    )
    key_added: str | None = option(
        "One key for all entries of an AnnData, instead of X_nmf, NMF and nmf.", type=NAME
    )
    overwrite: bool = flag("Replace an earlier export.")

    def __post_init__(self) -> None:
        if self.cnmf is not None:
            if self.kind is not None or self.to_xarray or self.key_added is not None:
                raise click.UsageError(
                    "--cnmf cannot be combined with --to, --xarray and --key-added: leave them out."
                )
        elif self.layer is not None:
            raise click.UsageError("--layer can only be used with --cnmf: leave it out.")
        if self.layer is not None and not self.names_from:
            raise click.UsageError("--layer needs --names-from, the AnnData that has the layer: add it.")
        if self.to_xarray and self.kind not in (None, "xarray"):
            raise click.UsageError(f"--xarray and --to {self.kind} contradict each other: give one of them.")


@command(ExportJob)
def export(job: ExportJob) -> None:
    """Write W and H of RUN to TARGET, for other programs.

    An AnnData gets obsm["X_nmf"], varm["NMF"] and uns["nmf"]. The run of a stack of images is written to a
    Zarr store with abundance, endmember and history, on the coordinates of the stack, or to a GeoTIFF of
    the abundances. With --cnmf NAME, a consensus is written to the files of cNMF.

    An export is written as a whole or not at all, and W is never in memory as a whole.
    """
    if job.cnmf is not None:
        _export_cnmf(job, job.cnmf)
        return
    run = open_run(job.run)
    kind = _kind_of(run, job)
    if kind in _OF_STACKS:
        if job.names_from or job.key_added is not None:
            raise click.UsageError(
                f"--names-from and --key-added cannot be used with --to {kind}: leave them out."
            )
        _export_stack(run, job.target, kind, job.overwrite)
    elif kind == "anndata":
        if job.names_from:
            raise click.UsageError(
                "--names-from cannot be used with --to anndata, as TARGET has names: leave it out."
            )
        keys = Keys.named(job.key_added)
        factors = factors_for(run, open_anndata(job.target))
        export_anndata.write_entries(job.target, factors, keys, overwrite=job.overwrite)
        click.echo(f"{', '.join(export_anndata.entries(keys))}: {job.target}")
    else:
        _export_names(run, job, kind)


def _export_names(run: Run, job: ExportJob, kind: str) -> None:
    """Write tables or a new .h5ad file, with names from elsewhere."""
    store = open_anndata(list(job.names_from)) if job.names_from else None
    n, m = run.shape
    # Checks that the names are those of this run.
    factors = Exported(run, None, m) if store is None else factors_for(run, store)
    genes = run.feature_names
    if genes is None:
        genes = np.arange(m).astype(str) if store is None else store.var_names
    if kind == "csv":
        cells = None if store is None else store.obs_names
        tables.write_tables(Path(job.target), factors, cells=cells, genes=genes, overwrite=job.overwrite)
        click.echo(f"usages.csv, spectra.csv: {job.target}")
        return
    pd, keys = needed("pandas"), Keys.named(job.key_added)
    obs = pd.DataFrame(index=np.arange(n).astype(str)) if store is None else store.obs
    var = pd.DataFrame(index=genes) if store is None else store.var
    export_anndata.write_new(Path(job.target), factors, keys, obs=obs, var=var, overwrite=job.overwrite)
    click.echo(f"{', '.join(export_anndata.entries(keys))}: {job.target}")


def _export_cnmf(job: ExportJob, name: str) -> None:
    from dasknmf.singlecell import export_cnmf
    from dasknmf.singlecell.tpm import InAllGenes, in_all_genes

    consensus, run = open_consensus(job.run), open_run(job.run)
    genes = run.feature_names
    if not job.names_from:
        n, m = run.shape
        names: dict[str, Any] = {"cells": np.arange(n).astype(str)}
        genes = np.arange(m).astype(str) if genes is None else genes
        note(
            "without --names-from, cells are numbered, usages are those of the consensus, and "
            "gene_spectra_score and gene_spectra_tpm, which cNMF's load_results needs, are not written"
        )
    else:
        store = open_anndata(list(job.names_from))
        columns = factors_for(run, store).columns
        matrix = store.matrix(job.layer)
        genes = store.var_names if genes is None else genes

        def whole() -> InAllGenes:
            note("reading the counts of --names-from: twice for programs of all genes, once for usages")
            return in_all_genes(matrix, columns, consensus.usages)

        names = {"cells": store.obs_names, "all_genes": store.var_names, "in_all_genes": whole}
    target = Path(job.target)
    content = export_cnmf.Tables(consensus, genes=genes, ranks=export_cnmf.ranks_of(run), **names)
    with advising():
        written = export_cnmf.write_cnmf(target, name, content, overwrite=job.overwrite)
    click.echo(f"{', '.join(written)}: {target / name}")


def _kind_of(run: Run, job: ExportJob) -> str:
    kind = "xarray" if job.to_xarray else job.kind
    if kind is None and is_raster(job.target):
        kind = "geotiff"
    if kind in _OF_STACKS and run.layout is None:
        raise RunMismatchError(
            f"the run at {str(run.store)!r} is the run of a matrix of shape {run.shape}, whose rows are not "
            "the pixels of an image: export it with --to csv, or fit its stack with --sample-dims."
        )
    return kind or ("anndata" if run.layout is None else "xarray")


def _export_stack(run: Run, target: str, kind: str, overwrite: bool) -> None:
    path = new_path(target)
    if kind == "xarray":
        from dasknmf.stacks import export_zarr

        export_zarr.write_run(run, path, overwrite=overwrite)
        click.echo(f"abundance, endmember, history: {path}   open it: xarray.open_zarr({str(path)!r})")
        return
    assert run.layout is not None  # a run of a stack
    write_geotiff(path, run.rows, run.layout, run.n_unobserved_samples, overwrite)


def write_geotiff(
    path: Path, W: da.Array, layout: Layout, n_unobserved: int | None, overwrite: bool = False
) -> None:
    """Write maps to a GeoTIFF, with notes about its CRS and its NaN.

    Parameters
    ----------
    n_unobserved : int or None
        Number of pixels without observed entries; None if unknown.
    """
    from dasknmf.stacks import geotiff_out

    written = geotiff_out.write_geotiff(
        path, W, layout, may_be_unobserved=n_unobserved != 0, overwrite=overwrite
    )
    n_nan = written.n_nan
    if not written.has_crs:
        note("the stack has no CRS (a coordinate spatial_ref with crs_wkt), and so the file has none")
    if n_unobserved is not None and n_nan > n_unobserved:
        note(
            f"observed pixels that are 0 in every component: {n_nan - n_unobserved:,}; the GeoTIFF has NaN "
            f"there, as in pixels without any observation: {n_unobserved:,}"
        )
    nan = f", NaN in {counted(n_nan, 'pixel')}" if n_nan else ""
    click.echo(f"abundance of {counted(W.shape[1], 'component')}{nan}: {path}")


def new_path(target: str) -> Path:
    """A path on this machine, where a store can be moved to in one step.

    Raises
    ------
    SourceError
        If it is a URL.
    """
    if "://" in target:
        raise SourceError(
            f"{target!r} is a URL, and only files on this machine can be replaced in one step: export to a "
            "path on this machine, and copy the result."
        )
    return Path(target)
