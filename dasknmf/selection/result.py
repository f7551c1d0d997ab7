"""The result of a consensus: the programs, and the spectra of all starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dasknmf.core.history import History
from dasknmf.core.html_repr import card
from dasknmf.data.source import MatrixLike
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.fitting.problem import Factor
from dasknmf.selection import clusters, refit
from dasknmf.selection.parameters import Clustering, check_threshold
from dasknmf.selection.scores import scores


@dataclass(frozen=True, repr=False, eq=False)
class Consensus:
    """The programs that factorizations from many starts share, in descending order of usage.

    Parameters
    ----------
    n_components : int
    spectra : ndarray of shape (n_components, n_features), float64
        Median of each cluster of unit-length spectra, scaled to a sum of one.
    usages : ndarray or dask.array.Array of shape (n_samples, n_components)
        W for these spectra, as `NMF.transform` computes it. Lazy where X is chunked: computing it may read X
        once.
    components : ndarray of shape (n_components, n_features)
        H for these usages: the spectra fitted to X again, in the units of X. For losses other than Frobenius,
        the spectra themselves.
    stack : ndarray of shape (n_init * n_components, n_features), float64
        The spectra of all starts, start by start, each of unit length; spectra of zeros remain zero.
    density : ndarray of shape (n_init * n_components,), float64
        Mean Euclidean distance of each spectrum in `stack` to its nearest neighbours, between 0 and √2;
        infinite for spectra of zeros.
    kept : ndarray of bool of shape (n_init * n_components,)
        Spectra that were clustered.
    labels : ndarray of int of shape (n_init * n_components,)
        The program of each spectrum; −1 if it was not clustered.
    silhouette : float
        Mean silhouette (Euclidean) of the clustered spectra; with ``density_threshold=2`` the stability of
        cNMF. NaN for one program.
    loss : float
        D(X | usages components).
    density_threshold, local_neighborhood_size : float
    n_init : int
    feature_names : ndarray of str or None
    n_reads : float
        Reads of X: by the factorizations, by the refit (one, or two for losses other than Frobenius), and by
        the pass that wrote `usages`.
    """

    n_components: int
    spectra: np.ndarray
    usages: Factor
    components: np.ndarray
    stack: np.ndarray
    density: np.ndarray
    kept: np.ndarray
    labels: np.ndarray
    silhouette: float
    loss: float
    density_threshold: float
    local_neighborhood_size: float
    n_init: int
    feature_names: np.ndarray | None
    n_reads: float
    _refitter: refit.Refitter | None = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"<Consensus {self.n_components} programs of {self.spectra.shape[1]} features from {self.n_init} "
            f"starts: {int(self.kept.sum())} of {len(self.kept)} spectra below density "
            f"{self.density_threshold:g}, silhouette {self.silhouette:.3f}>"
        )

    def _repr_html_(self) -> str:
        kept = f"{int(self.kept.sum())} of {len(self.kept)}, of density below {self.density_threshold:g}"
        clusters = f"{self.n_components} × {self.spectra.shape[1]} features"
        facts = [
            ("programs", f"{clusters}, of {self.n_init} starts in {self.n_reads:g} reads of V"),
            ("spectra kept", f"{kept}, silhouette {self.silhouette:.3f}"),
            ("loss D(V | WH)", f"{self.loss:.6g}"),
        ]
        return card("Consensus", facts, History())

    def rethreshold(self, density_threshold: float) -> Consensus:
        """The consensus of the same factorizations for another threshold, in one read of X.

        A threshold of 2 keeps all spectra; the histogram of `density` then shows a good threshold.

        Parameters
        ----------
        density_threshold : float

        Returns
        -------
        consensus : Consensus

        Raises
        ------
        DataError
            If too few spectra are left; the message has the quartiles of their densities.
        ValueError
            If the threshold is not positive, or the consensus was opened from a run and has no X.
        """
        check_threshold(density_threshold)
        remedy = "call consensus() with this checkpoint and the other threshold"
        refitter = self._with_X("rethreshold", remedy)
        clustering = Clustering(self.n_init, density_threshold, self.local_neighborhood_size)
        found = consensus_of(self.stack, self.density, clustering, refitter)
        n_reads, usages = self.n_reads + found.n_reads, refitter.usages(found.spectra)
        return replace(found, usages=usages, feature_names=self.feature_names, n_reads=n_reads)

    def scores(self, X: MatrixLike | None = None) -> np.ndarray:
        """z-scores of features in each program, in one read; see `dasknmf.selection.scores.scores`.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features), optional
            Another matrix with the same rows: TPM of all genes, for example. By default the matrix that was
            factorized.

        Returns
        -------
        scores : ndarray of shape (n_components, n_features of X), float64
        """
        return scores(self._with_X("scores", "give X").X if X is None else X, self.usages)

    def spectra_in(self, X: MatrixLike) -> np.ndarray:
        """Spectra of the programs in another matrix with the same rows: nonnegative least squares, one read.

        Rows of `usages` are scaled to a sum of one, so that spectra are in the units of X: spectra of TPM add
        up to roughly a million.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features)

        Returns
        -------
        spectra : ndarray of shape (n_components, n_features of X), float64
        """
        return refit.spectra_of(X, refit.normalised(self.usages))

    def _with_X(self, method: str, remedy: str) -> refit.Refitter:
        if self._refitter is None:
            raise ValueError(f"{method} needs X, which a consensus from open_consensus lacks: {remedy}.")
        return self._refitter


def consensus_of(
    stack: np.ndarray,
    density: np.ndarray,
    clustering: Clustering,
    refitter: refit.Refitter,
    V: OpenMatrix | None = None,
) -> Consensus:
    """The consensus of spectra, its components refitted to X, still without usages and names of features.

    Parameters
    ----------
    stack : ndarray of shape (n_init * n_components, n_features)
        Spectra as returned by `clusters.stacked`.
    density : ndarray of shape (n_init * n_components,)
    clustering : Clustering
    refitter : Refitter
    V : OpenMatrix, optional
        X, if it is open already.

    Raises
    ------
    DataError
        If too few spectra, or clusters of them, are left.
    """
    k = len(stack) // clustering.n_init
    labels = clusters.clustered(stack, density, clustering.density_threshold, k)
    spectra = clusters.medians(stack, labels, k)
    best = refitter.refit(spectra, V)
    order = np.argsort(-best.shares, kind="stable")
    place = np.append(np.argsort(order), -1)  # the last for the label −1
    return Consensus(
        n_components=k,
        spectra=spectra[order],
        usages=np.empty((0, k)),
        components=best.components[order],
        stack=stack,
        density=density,
        kept=labels >= 0,
        labels=place[labels],
        silhouette=clusters.silhouette(stack, labels),
        loss=best.loss,
        **clustering.numbers,
        n_init=clustering.n_init,
        feature_names=None,
        n_reads=best.n_reads,
        _refitter=refitter,
    )
