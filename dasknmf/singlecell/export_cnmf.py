"""The files of cNMF 1.7 [1]_, named and laid out so that its `load_results` reads them.

NAME/NAME.usages.k_8.dt_0_5.consensus.txt    cells x programs
     NAME.spectra.k_8.dt_0_5.consensus.txt   programs x the genes that were factorized
     NAME.gene_spectra_score.k_8.dt_0_5.txt  programs x all genes: z-scores
     NAME.gene_spectra_tpm.k_8.dt_0_5.txt    programs x all genes: transcripts per million
     NAME.overdispersed_genes.txt            the genes that were factorized, one a line
     NAME.k_selection_stats.df.npz           stability and error of each rank

Tables are separated by tabs and have a line and a column of names; programs are numbered from 1.

.. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and cellular
   activity with single-cell RNA-Seq. eLife, 8, e43803.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dasknmf.data.dask_array import row_blocks
from dasknmf.errors import RunError, SourceError
from dasknmf.io.atomic import Directory, put
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.selection.result import Consensus
from dasknmf.singlecell.tpm import InAllGenes
from dasknmf.store.run import Run

_AT_ONCE = 16
"""Blocks of usages that are computed together and in memory."""


def ranks_of(run: Run) -> np.ndarray | None:
    """The table of ranks of cNMF, shape (n_ranks, 4); None if the consensus has one rank.

    Columns are the rank, the density threshold (2: no filter), silhouette and error.
    """
    several, found = run.identity.many, run.found
    if several is None or several.method != "consensus" or found is None:
        return None
    # cNMF's error is a Frobenius norm, which only this loss is half of.
    errors = np.where(np.isfinite(found["relative_error"]), 2 * found["loss"], np.nan)
    unfiltered = np.full(len(several.ranks), 2.0)
    return np.column_stack([several.ranks, unfiltered, found["silhouette_mean"], errors])


@dataclass(frozen=True)
class Tables:
    """The content of the files.

    Parameters
    ----------
    consensus : Consensus
    cells : ndarray of str of shape (n_obs,)
    genes : ndarray of str of shape (n_features,)
        The genes that were factorized.
    all_genes : ndarray of str of shape (n_vars,), optional
    in_all_genes : callable, optional
        Function that returns the programs over all genes, called once before the files are written. Its
        usages replace those of the consensus.
    ranks : ndarray of shape (n_ranks, 4), optional
        See `ranks_of`.
    """

    consensus: Consensus
    cells: np.ndarray
    genes: np.ndarray
    all_genes: np.ndarray | None = None
    in_all_genes: Callable[[], InAllGenes] | None = None
    ranks: np.ndarray | None = None


def write_cnmf(directory: Path, name: str, tables: Tables, *, overwrite: bool = False) -> list[str]:
    """Write the files into directory/name, all of them or none, and return their names.

    Existing files of the same consensus are replaced together: scores that are not written again are deleted.
    Files of other ranks and thresholds stay.

    Parameters
    ----------
    directory : Path
        `output_dir` of cNMF.
    name : str
        `name` of cNMF.
    tables : Tables
    overwrite : bool, default=False

    Raises
    ------
    RunError
        If a file would be replaced and `overwrite` is not given.
    SourceError
        If the name is not that of a directory, or pandas is not installed.
    """
    pd = needed("pandas")
    if not name or name != Path(name).name or name in (".", ".."):
        raise SourceError(
            f"{name!r} is not a valid name; names of files and their directory begin with it: give a word."
        )
    consensus, genes = tables.consensus, tables.genes
    place = directory / name
    container = Directory(place, place / f".{signed()}.new")
    threshold = str(consensus.density_threshold).replace(".", "_")
    kind = f"k_{consensus.n_components}.dt_{threshold}"
    usages, spectra = (f"{name}.{what}.{kind}.consensus.txt" for what in ("usages", "spectra"))
    scores, tpm = (f"{name}.gene_spectra_{what}.{kind}.txt" for what in ("score", "tpm"))
    chosen, ranks = f"{name}.overdispersed_genes.txt", f"{name}.k_selection_stats.df.npz"
    listed = "\n".join(genes)
    own = [usages, spectra, scores, tpm]
    shared = [] if tables.ranks is None else [ranks]
    if not container.exists(chosen) or (place / chosen).read_text() != listed:
        shared.append(chosen)
    if not overwrite and (found := [each for each in own + shared if container.exists(each)]):
        raise RunError(
            f"{place} has {', '.join(found)} already, which are not replaced: give --overwrite, or another "
            "name."
        )
    programs = pd.RangeIndex(1, consensus.n_components + 1)

    def write(file: str, values: np.ndarray, columns: Any) -> None:
        pd.DataFrame(values, index=programs, columns=columns).to_csv(Path(container.new) / file, sep="\t")

    def fill() -> None:
        new = Path(container.new)
        new.mkdir(parents=True)
        whole = None if tables.in_all_genes is None else tables.in_all_genes()
        with open(new / usages, "w", newline="") as file:
            for first, rows in row_blocks(consensus.usages if whole is None else whole.usages, _AT_ONCE):
                table = pd.DataFrame(rows, index=tables.cells[first : first + len(rows)], columns=programs)
                table.to_csv(file, sep="\t", header=first == 0)
        write(spectra, consensus.spectra, genes)
        if whole is not None:
            write(scores, whole.scores, tables.all_genes)
            write(tpm, whole.spectra, tables.all_genes)
        if tables.ranks is not None:  # as cNMF writes tables, readable without pickle
            names = ["k", "local_density_threshold", "silhouette", "prediction_error"]
            index = np.arange(len(tables.ranks))
            np.savez_compressed(new / ranks, data=tables.ranks, index=index, columns=np.asarray(names))
        (new / chosen).write_text(listed)

    put(own + shared, container, fill)
    container.forget(".", own + shared)
    return [each for each in [*own, chosen, ranks] if container.exists(each)]
