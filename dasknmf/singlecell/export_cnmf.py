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
from dasknmf.io.atomic import Directory, put
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.selection.result import Consensus
from dasknmf.singlecell.tpm import InAllGenes

_AT_ONCE = 16
"""Blocks of usages that are computed together and in memory."""


@dataclass(frozen=True)
class Files:
    """What the files of one consensus are called."""

    name: str
    n_components: int
    density_threshold: float

    def of(self, what: str, ending: str = "txt") -> str:
        """A table of this consensus: "usages", for example."""
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
    """What cNMF keeps of each rank, shape (n_ranks,)."""

    n_components: np.ndarray
    silhouette: np.ndarray
    prediction_error: np.ndarray

    @classmethod
    def of(cls, run: Any) -> Ranks | None:
        """Those of the run of a consensus, where it was made of several ranks."""
        several, found = run.identity.many, run.found
        if several.method != "consensus" or found is None:
            return None
        # cNMF's error is a Frobenius norm, which only this loss is half of.
        quadratic = np.isfinite(found["relative_error"])
        errors = np.where(quadratic, 2 * found["loss"], np.nan)
        return cls(np.asarray(several.ranks), found["silhouette_mean"], errors)


def write_cnmf(
    directory: Path,
    name: str,
    agreed: Consensus,
    *,
    cells: np.ndarray,
    genes: np.ndarray,
    all_genes: np.ndarray | None = None,
    whole: Callable[[], InAllGenes] | None = None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the files below directory/name, all of them or none; the names of those that were written.

    Files of the same consensus that stand there are replaced as a whole, scores that are not written again
    among them. Those of other ranks and thresholds stay.

    Parameters
    ----------
    directory : Path
        cNMF's `output_dir`.
    name : str
        cNMF's `name`.
    agreed : Consensus
    cells : ndarray of str of shape (n_obs,)
    genes : ndarray of str of shape (n_features,)
        Those that were factorized.
    all_genes : ndarray of str of shape (n_vars,), optional
    whole : callable, optional
        Makes the programs over all genes, once nothing stands in the way of writing them; its usages are
        written instead of those of the consensus.
    ranks : Ranks, optional
    overwrite : bool, default=False

    Raises
    ------
    RunError
        If a file exists that would be replaced, and `overwrite` is not given.
    SourceError
        If the name is none, or pandas is not installed.
    """
    pd = needed("pandas")
    if not name or name != Path(name).name or name in (".", ".."):
        raise SourceError(
            f"{name!r} is no name of an analysis, which files and their directory begin with: give a word."
        )
    files = Files(name, agreed.n_components, agreed.density_threshold)
    place = directory / name
    room = Directory(place, place / f".{signed()}.new")
    listed = "\n".join(genes)
    own = [files.usages, files.spectra, files.scores, files.tpm]
    shared = [] if ranks is None else [files.k_selection]
    if not room.exists(files.genes) or (place / files.genes).read_text() != listed:
        shared.append(files.genes)
    if not overwrite and (found := [each for each in own + shared if room.exists(each)]):
        raise RunError(
            f"{place} holds {', '.join(found)} already; nothing is replaced unasked: give --overwrite, "
            "or another name."
        )
    programs = pd.RangeIndex(1, agreed.n_components + 1)

    def fill() -> None:
        new = Path(room.new)
        new.mkdir(parents=True)
        everywhere = None if whole is None else whole()
        usages = agreed.usages if everywhere is None else everywhere.usages
        with open(new / files.usages, "w", newline="") as file:
            for first, rows in _blocks(usages):
                table = pd.DataFrame(rows, index=cells[first : first + len(rows)], columns=programs)
                table.to_csv(file, sep="\t", header=first == 0)
        _table(new / files.spectra, agreed.spectra, programs, genes, pd)
        if everywhere is not None:
            _table(new / files.scores, everywhere.scores, programs, all_genes, pd)
            _table(new / files.tpm, everywhere.spectra, programs, all_genes, pd)
        if ranks is not None:
            _write_ranks(new / files.k_selection, ranks)
        (new / files.genes).write_text(listed)

    put(own + shared, room, fill)
    room.forget(".", own + shared)
    return [each for each in [*own, files.genes, files.k_selection] if room.exists(each)]


def _table(path: Path, values: np.ndarray, programs: Any, genes: Any, pd: Any) -> None:
    pd.DataFrame(values, index=programs, columns=genes).to_csv(path, sep="\t")


def _write_ranks(path: Path, ranks: Ranks) -> None:
    """A table as cNMF keeps those of its own: values, index and columns; nothing that has to be unpickled."""
    unfiltered = np.full(len(ranks.n_components), 2.0)
    values = np.column_stack([ranks.n_components, unfiltered, ranks.silhouette, ranks.prediction_error])
    columns = np.asarray(["k", "local_density_threshold", "silhouette", "prediction_error"])
    np.savez_compressed(path, data=values, index=np.arange(len(values)), columns=columns)


def _blocks(usages: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each block, and the block: a few at a time are in memory."""
    if not isinstance(usages, da.Array):
        yield 0, usages
        return
    first = 0
    for block in range(0, usages.numblocks[0], _AT_ONCE):
        rows = np.asarray(usages.blocks[block : block + _AT_ONCE].compute())
        yield first, rows
        first += len(rows)
