"""What many factorizations agree on: their programs, and others for another threshold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dasknmf.core.history import History
from dasknmf.core.html_repr import card
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.selection import clusters, refit
from dasknmf.selection.parameters import check_threshold
from dasknmf.selection.scores import scores


@dataclass(frozen=True)
class Ask:
    """What `rethreshold` needs again.

    Parameters
    ----------
    X : array
        As `validation.validated` gives it.
    mean_row_square : float
        The mean squared norm of a row of X.
    nmf : dict
        Parameters of `NMF`.
    """

    X: Any
    mean_row_square: float
    nmf: dict[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class Consensus:
    """Programs that the factorizations of many starts agree on, the most used first.

    Parameters
    ----------
    n_components : int
    spectra : ndarray of shape (n_components, n_features), float64
        Medians of the clusters of normalised spectra, made to add up to one.
    usages : ndarray or dask.array.Array of shape (n_samples, n_components)
        W for these spectra, by `NMF.transform`. Lazy where X is chunked: computing it reads X once.
    components : ndarray of shape (n_components, n_features)
        H for these usages: the spectra fitted to X again, in its units. For losses other than Frobenius
        the spectra themselves.
    stack : ndarray of shape (n_init * n_components, n_features), float64
        Spectra of every start in turn, each of unit length; those that are zero throughout stay so.
    density : ndarray of shape (n_init * n_components,), float64
        Mean Euclidean distance to the nearest others in `stack`, between 0 and √2; infinite for zeros.
    kept : ndarray of bool of shape (n_init * n_components,)
    labels : ndarray of int of shape (n_init * n_components,)
        The program that a spectrum belongs to; −1 for those that are not kept.
    silhouette : float
        Mean silhouette (Euclidean) of the kept. cNMF's stability is this with ``density_threshold=2``. NaN
        for one program.
    loss : float
        D(X | usages components).
    density_threshold, local_neighborhood_size : float
    n_init : int
    feature_names : ndarray of str or None
    n_reads : float
        Of X: for all factorizations together, to refit (one each time, two for losses other than
        Frobenius), and for the usages that were handed over first.
    """

    n_components: int
    spectra: np.ndarray
    usages: Any
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
    _ask: Ask | None = field(repr=False)

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
        """The same factorizations with another threshold: one read of X, and no fit.

        Users of cNMF look at `density` with a threshold of 2, which filters nothing, and then choose one.

        Parameters
        ----------
        density_threshold : float

        Raises
        ------
        DataError
            If too few spectra are left, with how their densities are distributed.
        """
        check_threshold(density_threshold)
        ask = self._asked("rethreshold", "start consensus() with this checkpoint and the other threshold")
        found = agreed(
            ask,
            self.stack,
            self.density,
            density_threshold=density_threshold,
            local_neighborhood_size=self.local_neighborhood_size,
            n_init=self.n_init,
            feature_names=self.feature_names,
            n_reads=self.n_reads,
        )
        coder = refit.coder_of(found.spectra, ask.X, ask.mean_row_square, **ask.nmf)
        return replace(found, usages=coder.transform(ask.X))

    def scores(self, X: Any = None) -> np.ndarray:
        """z-scores of features for each program, in one read; see `dasknmf.selection.scores.scores`.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features), optional
            Another matrix of the same rows, of all genes in TPM for example; by default the one that was
            factorized.

        Returns
        -------
        scores : ndarray of shape (n_components, n_features of X), float64
        """
        if X is None:
            X = self._asked("scores", "give X").X
        return scores(X, self.usages)

    def _asked(self, method: str, remedy: str) -> Ask:
        if self._ask is None:
            raise ValueError(f"{method} needs X, which a consensus that was opened does not know: {remedy}.")
        return self._ask

    def spectra_in(self, X: Any) -> np.ndarray:
        """The programs in another matrix of the same rows, in one read: nonnegative least squares.

        Usages are made to add up to one in each row, so that spectra are in units of X's rows: of TPM, they
        add up to roughly a million.

        Parameters
        ----------
        X : array of shape (n_samples, any number of features)

        Returns
        -------
        spectra : ndarray of shape (n_components, n_features of X), float64
        """
        return refit.spectra_of(X, refit.normalised(self.usages))


def agreed(
    ask: Ask,
    stack: np.ndarray,
    density: np.ndarray,
    *,
    density_threshold: float,
    n_init: int,
    n_reads: float,
    V: OpenMatrix | None = None,
    **told: Any,
) -> Consensus:
    """What is left below a threshold, components refitted to X; usages are yet to be made.

    Parameters
    ----------
    ask : Ask
    stack : ndarray of shape (n_init * n_components, n_features)
        As `programs.stacked` gives it.
    density : ndarray of shape (n_init * n_components,)
    density_threshold : float
    n_init : int
    n_reads : float
        Of X so far.
    V : OpenMatrix, optional
        X where it is open already.
    **told
        The other attributes of `Consensus`.

    Raises
    ------
    DataError
        If too few spectra, or clusters of them, are left.
    """
    k = len(stack) // n_init
    labels = clusters.clustered(stack, density, density_threshold, k)
    spectra = clusters.medians(stack, labels, k)
    best = refit.refit(ask.X, spectra, ask.mean_row_square, V=V, **ask.nmf)
    order = np.argsort(-best.shares, kind="stable")
    spectra = spectra[order]
    place = np.append(np.argsort(order), -1)
    return Consensus(
        n_components=k,
        spectra=spectra,
        usages=None,
        components=best.components[order],
        stack=stack,
        density=density,
        kept=labels >= 0,
        labels=place[labels],
        silhouette=clusters.silhouette(stack, labels),
        loss=best.loss,
        density_threshold=density_threshold,
        n_init=n_init,
        n_reads=n_reads + best.n_reads,
        _ask=ask,
        **told,
    )
