"""The estimator `NMF`, and `non_negative_factorization`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from zarr.storage import StoreLike

from dasknmf import data
from dasknmf.core.history import Callback
from dasknmf.core.html_repr import FittedCard
from dasknmf.core.losses import NAMES, Loss
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.solvers.quadratic import SUM_WEIGHT
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.data.source import Matrix, MatrixLike
from dasknmf.fitting import validation
from dasknmf.fitting.decide import entries_of, open_problem
from dasknmf.fitting.execution import Execution
from dasknmf.fitting.loop import log_pass
from dasknmf.fitting.matrix import validated
from dasknmf.fitting.model import SAMPLE_BYTES, Init
from dasknmf.fitting.problem import Factor, FitOptions
from dasknmf.fitting.results import parameters_of, set_from_run, set_from_session
from dasknmf.fitting.session import session
from dasknmf.fitting.transform import by_rows
from dasknmf.store.raster import in_raster_order
from dasknmf.store.run import Run


class NMF(FittedCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Nonnegative matrix factorization of a matrix that need not fit in memory.

    Nonnegative W (n_samples, n_components) and H (n_components, n_features) minimise the objective of
    `sklearn.decomposition.NMF`::

        D(X | WH) + α_W l1_ratio n_features ‖W‖₁ + ½ α_W (1 − l1_ratio) n_features ‖W‖²
                  + α_H l1_ratio n_samples  ‖H‖₁ + ½ α_H (1 − l1_ratio) n_samples  ‖H‖²

    Each iteration, called a pass, reads X once.

    Parameters
    ----------
    n_components : int, None or "auto", default="auto"
        Number of components. ``None`` and ``"auto"``: the number in a custom W or H or of
        `fixed_components`, else the number of features, which must then be at most 512.
    init : {"sketch", "sample", "random", "nndsvd", "nndsvda", "nndsvdar", "custom"} or None, default=None
        Start of W and H.

        ``"sample"`` fits H to rows drawn from all over X, in one read. ``"sketch"`` fits H to a low-rank
        sketch of X [3]_, in three reads, for the Frobenius loss only. Both fit in memory until convergence,
        from the best of several draws and ``"nndsvda"``. Unless the sample is all of X, the start then
        competes for two passes with a plain one (``"random"``, or ``"nndsvda"`` from the same reads); the
        fit continues from the lower objective.

        ``"random"`` takes one read, the three nndsvd starts take three. With ``solver="mu"``, ``"nndsvd"``
        replaces zeros, which multiplicative updates cannot change, by a hundredth of the mean of X.

        ``None`` is ``"sample"`` if all of X, or 100 rows for each component (4 for another loss than
        Frobenius), fit into `sample_bytes`, else ``"sketch"`` for the Frobenius loss; with ``inner_iter=1``
        the choice of scikit-learn. `init_` is the start that was used.
        Random numbers do not depend on the chunks of X, and differ from those of scikit-learn.
    solver : {"auto", "cd", "bpp", "mu", "newton"}, default="auto"
        ``"cd"``: coordinate descent [1]_, Frobenius loss only. ``"bpp"``: exact nonnegative least squares by
        block principal pivoting [4]_, Frobenius loss only. ``"mu"``: multiplicative updates. ``"newton"``:
        second-order steps that never raise the objective, Kullback-Leibler loss only. ``"auto"``: ``"cd"``
        for the Frobenius loss, ``"newton"`` for Kullback-Leibler (``"mu"`` with ``inner_iter=1``), ``"mu"``
        for others.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        The beta-divergence D. With β ≤ 0, X must not contain zeros.
    tol : float, default=1e-4
        Tolerance of the stop rule. A fit ends when two passes in a row each lower the objective by at most
        `tol` of it. With ``inner_iter=1`` the rule is that of scikit-learn. 0: run `max_iter` passes.
    max_iter : int, default=200
        Largest number of exact passes: passes over all of X after the start.
    n_init : int, default=1
        Number of starts, which share the reads of X; the lowest final objective wins. `random_state` seeds
        the first start and, through it, the others. With more than one, ``init=None`` is ``"random"``.
    halving : bool, default=False
        Whether the half of the starts with the higher objectives is dropped after 4, 8, 16, … exact passes.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of `shuffle`. With None, a resumed run keeps the seed that it began with.
    alpha_W, alpha_H : float or "same" (alpha_H only), default=0.0, "same"
        Strengths of the penalties.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalties.
    verbose : int, default=0
        Above 0, each pass writes one line: to the logger ``"dasknmf"`` if it shows them, else to stdout.
    shuffle : bool, default=False
        Whether ``solver="cd"`` visits coordinates in random order.
    inner_iter : int or "auto", default="auto"
        Largest number of steps on a factor between two reads of X. For the Frobenius loss such steps need no
        read, and ``"auto"`` repeats them while they lower the objective enough [2]_; ``"cd"`` over-relaxes
        them. For other losses ``"auto"`` takes as many steps on W as fit into a read, one if X is in memory.
        With ``inner_iter=1`` and any start but ``"sketch"`` and ``"sample"``, iterates and stop rule are
        those of scikit-learn (``"bpp"`` and ``"newton"`` aside).
    sample_bytes : int, default=64 MiB
        Size of the rows that ``init="sample"`` draws, in `dtype`; of a sparse X, the size of their nonzeros.
    dtype : {float32, float64} or None, default=None
        Type of W, H and products. ``None``: float32 if X is float32 or of at most 16 bits, else float64.
    missing_values : "error", "nan" or float, default="error"
        Value that marks missing entries: none (NaN is an error), NaN, or a number such as the nodata value of
        a raster. The loss and all updates are over observed entries. For the Frobenius loss each row and each
        column has its own Gram matrix up to 16 components (more where groups of features share a mask);
        above, missing entries are imputed from W H before each step [5]_. `inverse_transform` imputes.
    fixed_components : array of shape (n_fixed, n_features), optional
        Known rows of H, such as endmembers: the first rows of `components_`. They do not change. Names of
        their columns are matched with those of X.
    sum_to_one : bool, default=False
        Whether rows of W sum to one, as fractions of a pixel do; for the Frobenius loss with ``"cd"`` or
        ``"bpp"``. The penalty ½ δ² Σ_i (1 − Σ_t w_it)² is part of the objective and not of the loss; δ² is a
        thousand times the mean squared norm of a row of X, so that sums differ from one by about a thousandth
        of the misfit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        H.
    n_components_, n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,), only where X has names that are all str
    init_ : str
        Start that was used.
    reconstruction_err_ : float
        √(2 D(X | WH)): for the Frobenius loss, the norm of the residual.
    sum_of_squares_ : float
        Σ x² over X.
    mean_row_square_ : float
        Mean squared norm of a row of X, weighted by `sample_weight`.
    feature_weight_ : ndarray of shape (n_features,) or None
        `feature_weight` of `fit`; `transform` uses the same weights.
    preparation_ : dict
        `target_sum`, `log1p` and `scale` of a `Prepared` X; empty for any other.
    n_iter_ : int
        Exact passes of the start that won.
    start_seeds_, start_losses_ : ndarray of shape (n_init,)
        For each start, the `random_state` that repeats it with ``n_init=1``, and its last D(X | WH).
    best_start_ : int
        Index of the start that won.
    n_reads_ : int
        Number of reads of X, from its store or from a stage; reads of the start count.
    history_ : History
        One record per pass.
    dead_components_ : ndarray of int
        Components whose row of H or column of W is zero throughout.
    n_unobserved_samples_, n_unobserved_features_ : int
        Rows and columns of X without an observed entry; their rows of W and columns of H are zero.

    See Also
    --------
    sklearn.decomposition.NMF : the same model in memory.
    dasknmf.open_run : W and H of a fit with ``checkpoint=``.

    Notes
    -----
    Where X is wide (more features than samples, or chunked along columns only), Xᵀ is factorized with the
    roles of W and H exchanged: H is then updated before W.

    References
    ----------
    .. [1] Cichocki, A., & Phan, A. H. (2009). Fast local algorithms for large scale nonnegative matrix
       and tensor factorizations. IEICE Transactions, E92-A(3).
    .. [2] Gillis, N., & Glineur, F. (2012). Accelerated multiplicative updates and hierarchical ALS
       algorithms for nonnegative matrix factorization. Neural Computation, 24(4).
    .. [3] Tepper, M., & Sapiro, G. (2016). Compressed nonnegative matrix factorization is fast and
       accurate. IEEE Transactions on Signal Processing, 64(9).
    .. [4] Kim, J., & Park, H. (2011). Fast nonnegative matrix factorization: an active-set-like method
       and comparisons. SIAM Journal on Scientific Computing, 33(6).
    .. [5] Zhang, S., Wang, W., Ford, J., & Makedon, F. (2006). Learning from incomplete ratings using
       non-negative matrix factorization. SIAM International Conference on Data Mining.

    Examples
    --------
    >>> import numpy as np
    >>> from dasknmf import NMF
    >>> X = np.array([[1, 1], [2, 1], [3, 1.2], [4, 1], [5, 0.8], [6, 1]])
    >>> model = NMF(n_components=2, init="random", random_state=0)
    >>> W = model.fit_transform(X)
    >>> bool(np.abs(W @ model.components_ - X).max() < 0.01)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None, StrOptions({"auto"})],
        "init": [StrOptions(set(get_args(Init))), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "beta_loss": [StrOptions(set(NAMES)), Real],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "halving": ["boolean"],
        "random_state": ["random_state"],
        "alpha_W": [Interval(Real, 0, None, closed="left")],
        "alpha_H": [Interval(Real, 0, None, closed="left"), StrOptions({"same"})],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "verbose": ["verbose"],
        "shuffle": ["boolean"],
        "inner_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "sample_bytes": [Interval(Integral, 1, None, closed="left")],
        "dtype": "no_validation",  # checked with the dtype of X
        "missing_values": [StrOptions({"error", "nan"}), Real],
        "fixed_components": "no_validation",  # checked with the shape of X
        "sum_to_one": ["boolean"],
    }

    def __init__(
        self,
        n_components: int | str | None = "auto",
        *,
        init: str | None = None,
        solver: str = "auto",
        beta_loss: float | str = "frobenius",
        tol: float = 1e-4,
        max_iter: int = 200,
        n_init: int = 1,
        halving: bool = False,
        random_state: int | np.random.RandomState | None = None,
        alpha_W: float = 0.0,
        alpha_H: float | str = "same",
        l1_ratio: float = 0.0,
        verbose: int = 0,
        shuffle: bool = False,
        inner_iter: int | str = "auto",
        sample_bytes: int = SAMPLE_BYTES,
        dtype: DTypeLike | None = None,
        missing_values: float | str = "error",
        fixed_components: ArrayLike | None = None,
        sum_to_one: bool = False,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.solver = solver
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.halving = halving
        self.random_state = random_state
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.verbose = verbose
        self.shuffle = shuffle
        self.inner_iter = inner_iter
        self.sample_bytes = sample_bytes
        self.dtype = dtype
        self.missing_values = missing_values
        self.fixed_components = fixed_components
        self.sum_to_one = sum_to_one

    def fit(
        self,
        X: MatrixLike,
        y: object = None,
        *,
        W: Factor | None = None,
        H: Factor | None = None,
        sample_weight: ArrayLike | None = None,
        feature_weight: ArrayLike | None = None,
        weights: MatrixLike | None = None,
        holdout: float | None = None,
        checkpoint: StoreLike | None = None,
        overwrite: bool = False,
        stage: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> NMF:
        """Fit the model to X; see `fit_transform` for the parameters.

        Returns
        -------
        self : NMF
        """
        options = FitOptions(
            W, H, sample_weight, feature_weight, weights, holdout, checkpoint, overwrite, stage, callbacks
        )
        self._fit(X, options)
        return self

    def fit_transform(
        self,
        X: MatrixLike,
        y: object = None,
        *,
        W: Factor | None = None,
        H: Factor | None = None,
        sample_weight: ArrayLike | None = None,
        feature_weight: ArrayLike | None = None,
        weights: MatrixLike | None = None,
        holdout: float | None = None,
        checkpoint: StoreLike | None = None,
        overwrite: bool = False,
        stage: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Any:
        """Fit the model to X and return W.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            NumPy array, SciPy sparse matrix, Dask array, Zarr array, or a path or URL of a Zarr array; or any
            of these `Prepared`.
        y : ignored
        W, H : array of shape (n_samples, n_components), (n_components, n_features)
            Start for ``init="custom"``; W may be a Dask array, or left out (then one more read computes it).
        sample_weight, feature_weight : array of shape (n_samples,), (n_features,), optional
            Weight of each row or column of X: a row of weight 2 equals two such rows, penalties included.
            Rows of weight 0 do not influence H; X may be sparse. Labels, here and of `weights`, W and H, are
            matched with those of X where both are str.
        weights : array of shape (n_samples, n_features), optional
            Weight of each entry of a dense X: NumPy, Dask or Zarr array. Entries of weight 0 are missing.
        holdout : float, optional
            Share of the observed entries that are hidden from the fit; `history_` holds the loss over them.
            `random_state` and the position in X decide which entries are hidden.
        checkpoint : path, URL or Zarr store, optional
            Store to which every pass is committed. An interrupted run in the store is resumed; so is a
            finished run for a larger `max_iter` or a smaller `tol` (of several starts, only those whose fit
            ended with the last pass continue).
        overwrite : bool, default=False
            Whether a run in `checkpoint` is replaced.
        stage : "memory" or path, optional
            Cache for X, filled by the first pass so that later passes need not fetch and decode X: the memory
            of the workers or a directory, best on a local disk of each machine. The stage is cleared at the
            end and does not change W and H; a run may be resumed with another stage or none. Ignored for
            NumPy and SciPy input.
        callbacks : sequence of callable
            Called after each pass with its `Record`.

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n_samples, n_components)
            A Dask array where X is chunked: over the checkpoint if there is one, else in memory.

        Raises
        ------
        ValueError, TypeError
            If parameters, arguments or X contradict each other.
        DataError, DataChangedError
            If X has NaN, infinite or negative values, or zeros with β ≤ 0; if X changed since the run began.
        SourceError
            If X cannot be opened or cannot be read by rows.
        MemoryLimitError, StageError
            If a pass, or W without a checkpoint, does not fit in memory; if a stage cannot be written.
        RunMismatchError, RunLockedError, RunDamagedError
            If the checkpoint has a run with another X or other parameters, if another process writes the run,
            or if a file of the run is missing or altered.
        """
        options = FitOptions(
            W, H, sample_weight, feature_weight, weights, holdout, checkpoint, overwrite, stage, callbacks
        )
        return in_raster_order(self._fit(X, replace(options, returns_W=True)), X)

    def transform(self, X: MatrixLike) -> Any:
        """W of new rows for the fitted H: exact for the Frobenius loss.

        Parameters
        ----------
        X : as for `fit_transform`

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n_samples, n_components)
            Lazy where X is chunked; computing it reads X once.
        """
        return in_raster_order(self._coded(X, "transform"), X)

    def inverse_transform(self, X: Matrix) -> Any:
        """WH for W = X.

        Parameters
        ----------
        X : ndarray, sparse matrix or dask.array.Array of shape (n_samples, n_components)

        Returns
        -------
        X_original : ndarray or dask.array.Array of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        return validation.checked_W(X, len(self.components_)) @ self.components_

    def score_samples(self, X: MatrixLike) -> Any:
        """Error of each row: D(x | wH) with the w that `transform` finds.

        Parameters
        ----------
        X : as for `fit_transform`

        Returns
        -------
        errors : ndarray or dask.array.Array of shape (n_samples,)
            Lazy where X is chunked. Half the squared residual for the Frobenius loss.
        """
        return in_raster_order(self._coded(X, "score_samples"), X)

    @classmethod
    def from_run(cls, run: Run | StoreLike) -> NMF:
        """The fitted model of a checkpoint, for `transform` and `inverse_transform`.

        Parameters
        ----------
        run : Run, or the path, URL or Zarr store of one
        """
        run = run if isinstance(run, Run) else Run(run)
        return set_from_run(cls(**parameters_of(run, cls().get_params())), run)

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = self.missing_values == "error"
        tags.input_tags.allow_nan = validation.is_nan(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _fit(self, X: MatrixLike, options: FitOptions) -> Any:
        """W if `options.returns_W`, else None."""
        if self.verbose:
            options = replace(options, callbacks=(*options.callbacks, log_pass))
        with session(*open_problem(self, X, options)) as work:
            Execution(work, work.inputs.restarted(self.n_init)).run_passes()
            W = set_from_session(self, work)
            return work.returned(W) if options.returns_W else None

    def _coded(self, X: MatrixLike, method: str) -> Any:
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        weights = getattr(self, "feature_weight_", None)  # a model may be made by hand, of H alone
        width = float(X.shape[1] if weights is None else weights.sum())
        penalties = Penalties.scaled(self.alpha_W, self.alpha_H, self.l1_ratio, (X.shape[0], width))
        coder = Coder(
            self.components_,
            Loss.named(self.beta_loss),
            penalties.W,
            tol=min(self.tol, 1e-4) if self.tol else 1e-6,
            max_iter=max(self.max_iter, 1000),
            entries=entries_of(self, X),
            sum_to_one_weight=SUM_WEIGHT * self.mean_row_square_ if self.sum_to_one else 0.0,
            weights=weights,
        )
        return by_rows(coder, X, method)


def non_negative_factorization(
    X: MatrixLike,
    W: Factor | None = None,
    H: Factor | None = None,
    n_components: int | str | None = "auto",
    *,
    update_H: bool = True,
    **parameters: Any,
) -> tuple[Factor, np.ndarray, int]:
    """Factorize X ≈ WH in one call, like the scikit-learn function of the same name.

    Parameters
    ----------
    X : as for `NMF.fit_transform`
    W, H : array, optional
        Start for ``init="custom"``. With ``update_H=False``, H is kept and W is ignored.
    n_components : int, None or "auto"
    update_H : bool
        Whether H is updated.
    **parameters
        Further parameters of `NMF`.

    Returns
    -------
    W : ndarray or dask.array.Array of shape (n_samples, n_components)
    H : ndarray of shape (n_components, n_features)
    n_iter : int
        Number of exact passes; 1 with ``update_H=False``, which computes W in one read.
    """
    model = NMF(n_components, **parameters)
    if update_H:
        W = model.fit_transform(X, W=W, H=H)
        return W, model.components_, model.n_iter_
    model._validate_params()
    if W is not None:
        message = "When update_H=False, the provided initial W is not used."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    if H is None:
        raise ValueError("update_H=False keeps H, but H is None: give H.")
    X = data.opened(X)
    k = validation.chosen_k(model, int(X.shape[1]), np.asarray(H))
    validation.check_factor(H, (k, X.shape[1]), "NMF (input H)")
    model.n_features_in_ = int(X.shape[1])
    model.components_ = np.asarray(H)
    model.n_components_ = len(H)
    return model.transform(X), model.components_, 1
