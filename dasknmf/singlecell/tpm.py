"""The last steps of cNMF: programs over all genes, in transcripts per million (TPM) and as z-scores.

Each step is one read of the counts, normalised in that read; no cells x genes matrix is held in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dasknmf import Prepared
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.problem import Factor
from dasknmf.selection.refit import normalised, spectra_of, usages_of
from dasknmf.selection.scores import scored

MILLION = 1e6


@dataclass(frozen=True)
class InAllGenes:
    """The programs of a consensus over all genes.

    Parameters
    ----------
    spectra : ndarray of shape (n_components, n_vars), float64
        Spectra in transcripts per million.
    scores : ndarray of shape (n_components, n_vars), float64
        z-scores; see `dasknmf.selection.scores.scores`.
    usages : ndarray or dask.array.Array of shape (n_obs, n_components)
        Usages fitted to the spectra of the genes that were factorized. Lazy where the counts are chunked:
        to compute them reads the counts once.
    """

    spectra: np.ndarray
    scores: np.ndarray
    usages: Factor


def tpm_of(counts: MatrixLike) -> Prepared:
    """Counts scaled to a million per cell, over all genes."""
    return Prepared(counts, target_sum=MILLION)


def in_all_genes(counts: MatrixLike, columns: np.ndarray | None, usages: Factor) -> InAllGenes:
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
        Usages of the consensus.

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
