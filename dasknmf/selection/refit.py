"""Usages for given spectra, and spectra for given usages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import dask.array as da
import numpy as np

from dasknmf import data
from dasknmf.core.blocks.base import Tile
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.losses import Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.phase import PhaseWrapper, Rows, Tally, finite
from dasknmf.core.solvers import nnls
from dasknmf.core.solvers.grams import ByRow, Grams
from dasknmf.core.solvers.inner_steps import Inner
from dasknmf.core.solvers.quadratic import SUM_WEIGHT, QuadraticPass
from dasknmf.core.state import FactorState
from dasknmf.data.prepared import Prepared
from dasknmf.data.source import Matrix, MatrixLike
from dasknmf.data.weighted import WeightedSource
from dasknmf.estimator import NMF
from dasknmf.fitting.decide import entries_of
from dasknmf.fitting.matrix import validated
from dasknmf.fitting.passes import OpenMatrix
from dasknmf.fitting.problem import Factor
from dasknmf.selection.products import products
from dasknmf.selection.single_read import DTYPE, Usages, single_read


@dataclass(frozen=True)
class Refit:
    """The result of a refit of spectra to X.

    Parameters
    ----------
    components : ndarray of shape (n_components, n_features)
        The best H for the usages of the spectra.
    shares : ndarray of shape (n_components,), float64
        Sums over rows of the usages, with each row scaled to a sum of one.
    loss : float
        D(X | usages components).
    n_reads : int
    """

    components: np.ndarray
    shares: np.ndarray
    loss: float
    n_reads: int


@dataclass(frozen=True)
class _SharesPhase(PhaseWrapper):
    """A quadratic pass that computes W, and adds the shares of the programs over all rows."""

    k: int

    def tally(self) -> Tally:
        return Tally(self.phase.tally() | Tally.zeros({"shares": (self.k,)}))

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.phase.tile(tile, rows, inputs, tally)
        tally["shares"] += normalised(rows["W"]).sum(axis=0)


def normalised(usages: Factor) -> Factor:
    """Usages with each row scaled to a sum of one; rows of zeros remain zero.

    Parameters
    ----------
    usages : ndarray or dask.array.Array of shape (n_samples, n_components)
    """
    totals = usages.sum(axis=1, keepdims=True)
    where = da.where if isinstance(usages, da.Array) else np.where
    return usages / where(totals > 0, totals, 1)


def spectra_of(X: MatrixLike, usages: Usages) -> np.ndarray:
    """Nonnegative spectra for given usages: the exact minimum of ‖X − usages H‖² over H ≥ 0, in one read.

    X may have other features than the matrix that was factorized: TPM of all genes, for example, with usages
    from the 2000 most variable genes.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit` that is stored by rows, `Prepared` included.
    usages : ndarray, dask.array.Array or zarr.Array of shape (n_samples, n_components)
        If their rows sum to one, as in cNMF, spectra are in the units of X.

    Returns
    -------
    spectra : ndarray of shape (n_components, n_features), float64
        Zero for a component without usage.

    Raises
    ------
    ValueError
        If usages have another number of rows than X.
    DataError, MemoryLimitError, SourceError
        As `NMF.fit`.
    """
    _, sums = products(X if isinstance(X, Prepared) else Prepared(X), usages)
    Ht = np.zeros(sums["A"].shape[::-1])
    with np.errstate(all="ignore"):  # `finite` raises an error for overflows
        nnls.solve(Ht, np.ascontiguousarray(sums["A"].T), sums["G"], 0.0)
    return finite(np.ascontiguousarray(Ht.T))


def usages_of(X: MatrixLike, spectra: np.ndarray) -> Factor:
    """Usages for given spectra: exact nonnegative least squares for each row of X.

    In the last step of cNMF X is TPM of the variable genes, and both X and the spectra are divided by the
    standard deviations of these genes.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        Any input of `NMF.fit` that is stored by rows, `Prepared` included.
    spectra : ndarray of shape (n_components, n_features)

    Returns
    -------
    usages : ndarray or dask.array.Array of shape (n_samples, n_components)
        Lazy where X is chunked: computing it reads X once.
    """
    X = validated(NMF(), X, reset=True)
    data.source_of(X)  # refuses an X that is stored by columns
    return Refitter(X).usages(np.asarray(spectra))


@dataclass(frozen=True)
class Refitter:
    """Refits of spectra to one X.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        As returned by `fitting.matrix.validated`.
    parameters : mapping of str
        Parameters of `NMF`.
    mean_row_square : float, optional
        Mean squared norm of a row of X, for ``sum_to_one=True`` and for `refit`.
    """

    X: Matrix
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mean_row_square: float | None = None

    def model(self, spectra: np.ndarray) -> NMF:
        """The model with these spectra as its H, shape (n_components, n_features)."""
        model = NMF(len(spectra), **self.parameters)
        model.components_ = spectra.astype(working_dtype(self.X.dtype, model.dtype))
        model.n_components_, model.n_features_in_ = spectra.shape
        if self.mean_row_square is not None:
            model.mean_row_square_ = self.mean_row_square
        return model

    def usages(self, spectra: np.ndarray) -> Factor:
        """W for these spectra, by `NMF.transform`."""
        return self.model(spectra).transform(self.X)

    def refit(self, spectra: np.ndarray, V: OpenMatrix | None = None) -> Refit:
        """Usages for these spectra, and the best components for these usages.

        For the Frobenius loss both are exact nonnegative least squares, in one read and without storing W:
        each tile solves its rows of W and adds their products. For other losses `NMF.transform` computes the
        usages, and the components are the spectra, as there is no better H in closed form.

        Parameters
        ----------
        spectra : ndarray of shape (n_components, n_features)
        V : OpenMatrix, optional
            X, if it is open already; used for the Frobenius loss.
        """
        model, X = self.model(spectra), self.X
        if not Loss.named(model.beta_loss).quadratic:
            usages, losses = model.transform(X), model.score_samples(X)
            shares, loss = dask.compute(normalised(usages).sum(axis=0), losses.sum())
            return Refit(model.components_, shares, float(loss), 2)
        k, m = spectra.shape
        entries = entries_of(model, X)
        masked = (entries is not None and entries.masks) or (isinstance(X, data.Source) and X.masked)
        penalties = Penalties.scaled(model.alpha_W, model.alpha_H, model.l1_ratio, (X.shape[0], m))
        exact = QuadraticPass(
            k,
            m,
            DTYPE,
            "bpp",
            Inner(1, 1),
            penalties,
            grams=ByRow() if masked else Grams(),
            sum_to_one=bool(model.sum_to_one),
            recomputed=True,
        )
        state = FactorState(
            sum_to_one_weight=SUM_WEIGHT * (self.mean_row_square or 0.0),
            pending_H=model.components_.astype(DTYPE),
        )
        if V is None:
            source = data.source_of(X)
            if entries is not None:
                source = WeightedSource(source, entries, rows=None, weights=None)
            V = OpenMatrix.of(source)
        after, outcome, sums = single_read(
            replace(V, masked=masked), _SharesPhase(exact, k), k=k, state=state
        )
        components = FactorState.checked(after).factor.astype(model.components_.dtype)
        return Refit(components, sums["shares"], float(outcome.loss or 0.0), 1)
