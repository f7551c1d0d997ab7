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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from dasknmf.errors import RunError, SourceError
from dasknmf.fitting.problem import Factor
from dasknmf.io.atomic import Directory, put
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.selection.result import Consensus
from dasknmf.singlecell.tpm import InAllGenes
from dasknmf.store.run import Run

_AT_ONCE = 16
"""Blocks of usages that are computed together and in memory."""


@dataclass(frozen=True)
class Files:
    """The names of the files of one consensus."""

    name: str
    n_components: int
    density_threshold: float

    def of(self, what: str, ending: str = "txt") -> str:
        """The name of a table of this consensus: "usages", for example."""
        threshold = str(self.density_threshold).replace(".", "_")
        return f"{self.name}.{what}.k_{self.n_components}.dt_{threshold}.{ending}"

    @property
    def usages(self) -> str:
        return self.of("usages", "consensus.txt")

    @property
    def spectra(self) -> str:
        return self.of("spectra", "consensus.txt")

    @property
    def scores(self) -> str:
        return self.of("gene_spectra_score")

    @property
    def tpm(self) -> str:
        return self.of("gene_spectra_tpm")

    @property
    def genes(self) -> str:
        return f"{self.name}.overdispersed_genes.txt"

    @property
    def k_selection(self) -> str:
        return f"{self.name}.k_selection_stats.df.npz"


@dataclass(frozen=True)
class Ranks:
    """The columns of the table of ranks of cNMF, each of shape (n_ranks,)."""

    n_components: np.ndarray
    silhouette: np.ndarray
    prediction_error: np.ndarray

    @classmethod
    def of(cls, run: Run) -> Ranks | None:
        """The ranks of the run of a consensus; None if it has one rank."""
        several, found = run.identity.many, run.found
        if several is None or several.method != "consensus" or found is None:
            return None
        # cNMF's error is a Frobenius norm, which only this loss is half of.
        quadratic = np.isfinite(found["relative_error"])
        errors = np.where(quadratic, 2 * found["loss"], np.nan)
        return cls(np.asarray(several.ranks), found["silhouette_mean"], errors)


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
        Maker of the programs over all genes, called only once the files may be written. Its usages replace
        those of the consensus.
    ranks : Ranks, optional
    """

    consensus: Consensus
    cells: np.ndarray
    genes: np.ndarray
    all_genes: np.ndarray | None = None
    in_all_genes: Callable[[], InAllGenes] | None = None
    ranks: Ranks | None = None


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
            f"{name!r} is no name of an analysis, which files and their directory begin with: give a word."
        )
    consensus, genes = tables.consensus, tables.genes
    files = Files(name, consensus.n_components, consensus.density_threshold)
    place = directory / name
    room = Directory(place, place / f".{signed()}.new")
    listed = "\n".join(genes)
    own = [files.usages, files.spectra, files.scores, files.tpm]
    shared = [] if tables.ranks is None else [files.k_selection]
    if not room.exists(files.genes) or (place / files.genes).read_text() != listed:
        shared.append(files.genes)
    if not overwrite and (found := [each for each in own + shared if room.exists(each)]):
        raise RunError(
            f"{place} holds {', '.join(found)} already; nothing is replaced unasked: give --overwrite, "
            "or another name."
        )
    programs = pd.RangeIndex(1, consensus.n_components + 1)

    def fill() -> None:
        new = Path(room.new)
        new.mkdir(parents=True)
        whole = None if tables.in_all_genes is None else tables.in_all_genes()
        usages = consensus.usages if whole is None else whole.usages
        with open(new / files.usages, "w", newline="") as file:
            for first, rows in _blocks(usages):
                table = pd.DataFrame(rows, index=tables.cells[first : first + len(rows)], columns=programs)
                table.to_csv(file, sep="\t", header=first == 0)
        _table(new / files.spectra, consensus.spectra, programs, genes, pd)
        if whole is not None:
            _table(new / files.scores, whole.scores, programs, tables.all_genes, pd)
            _table(new / files.tpm, whole.spectra, programs, tables.all_genes, pd)
        if tables.ranks is not None:
            _write_ranks(new / files.k_selection, tables.ranks)
        (new / files.genes).write_text(listed)

    put(own + shared, room, fill)
    room.forget(".", own + shared)
    return [each for each in [*own, files.genes, files.k_selection] if room.exists(each)]


def _table(path: Path, values: np.ndarray, programs: Any, genes: Any, pd: Any) -> None:
    pd.DataFrame(values, index=programs, columns=genes).to_csv(path, sep="\t")


def _write_ranks(path: Path, ranks: Ranks) -> None:
    """Write the table of ranks as cNMF writes tables: values, index and columns, readable without pickle."""
    unfiltered = np.full(len(ranks.n_components), 2.0)
    values = np.column_stack([ranks.n_components, unfiltered, ranks.silhouette, ranks.prediction_error])
    columns = np.asarray(["k", "local_density_threshold", "silhouette", "prediction_error"])
    np.savez_compressed(path, data=values, index=np.arange(len(values)), columns=columns)


def _blocks(usages: Factor) -> Iterator[tuple[int, np.ndarray]]:
    """The index of the first row of each block, and the block; only a few blocks are in memory at a time."""
    if not isinstance(usages, da.Array):
        yield 0, usages
        return
    first = 0
    for block in range(0, usages.numblocks[0], _AT_ONCE):
        rows = np.asarray(usages.blocks[block : block + _AT_ONCE].compute())
        yield first, rows
        first += len(rows)
