"""What cNMF makes of a consensus: programs over all genes, in transcripts per million and as z-scores.

cNMF's last steps, each of them one walk over the counts, which are normalised on the way: never a matrix of
cells x genes in memory, whatever the counts are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf import Prepared
from dasknmf.selection.refit import normalised, spectra_of, usages_of
from dasknmf.selection.scores import scored

MILLION = 1e6


@dataclass(frozen=True)
class InAllGenes:
    """The programs of a consensus over all genes.

    Parameters
    ----------
    spectra : ndarray of shape (n_components, n_vars), float64
        In transcripts per million.
    scores : ndarray of shape (n_components, n_vars), float64
        z-scores; see `dasknmf.selection.scores.scores`.
    usages : ndarray or dask.array.Array of shape (n_obs, n_components)
        Fitted once more. Lazy where the counts are chunked: computing it reads them once.
    """

    spectra: np.ndarray
    scores: np.ndarray
    usages: Any


def tpm_of(counts: Any) -> Prepared:
    """Counts of which each cell has a million, over all genes."""
    return Prepared(counts, target_sum=MILLION)


def in_all_genes(counts: Any, columns: np.ndarray | None, usages: Any) -> InAllGenes:
    """The programs over all genes: two reads, and one more for the usages.

    As the `consensus` of cNMF 1.7 [1]_: spectra are nonnegative least squares of TPM on the usages, each
    cell's made to add up to one; scores are least squares of the standardised TPM on the usages as they are;
    usages are then fitted to the spectra of the genes that were factorized, these and TPM divided by
    standard deviations.

    Parameters
    ----------
    counts : array of shape (n_obs, n_vars)
    columns : ndarray of int or None
        The genes that were factorized; None: all.
    usages : array of shape (n_obs, n_components)
        Of the consensus.

    References
    ----------
    .. [1] Kotliar, D., et al. (2019). Identifying gene expression programs of cell-type identity and
       cellular activity with single-cell RNA-Seq. eLife, 8, e43803.
    """
    tpm = tpm_of(counts)
    spectra = spectra_of(tpm, normalised(usages))
    scores, moments = scored(tpm, usages)
    columns = np.arange(tpm.shape[1]) if columns is None else columns
    # cNMF divides the cells by the deviation of a sample and the spectra by that of the population.
    of_cells, of_spectra = (_divisors(moments.std(ddof)[columns]) for ddof in (1, 0))
    V = Prepared(counts, target_sum=MILLION, columns=columns, scale=of_cells)
    return InAllGenes(spectra, scores, usages_of(V, spectra[:, columns] / of_spectra))


def _divisors(std: np.ndarray) -> np.ndarray:
    return np.where(std > 0, std, 1.0)
