"""`NMF`: parameters describe the model, `fit` receives the run."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from numbers import Integral, Real
from typing import Any, ClassVar

import dask.array as da
import numpy as np
import scipy.sparse
import zarr
from dask.utils import format_bytes
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from dasknmf import inputs, schedulers
from dasknmf.errors import DataError, MemoryLimitError
from dasknmf.fit import Fit
from dasknmf.history import Outcome
from dasknmf.inputs.base import check_shape
from dasknmf.losses import NAMES, Loss
from dasknmf.model import Init, Model
from dasknmf.panels import Grid
from dasknmf.passes import Callback
from dasknmf.solvers.penalty import Penalties
from dasknmf.store.run import MemoryRun, Run, StoredRun, oriented, rows_array
from dasknmf.transform import Coder

log = logging.getLogger("dasknmf")

_MOST_AUTO = 512
_MOST_W_BYTES = 2**30


class NMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Nonnegative matrix factorization of matrices that need not fit in memory.

    Finds nonnegative W (n_samples, n_components) and H (n_components, n_features) whose product
    approximates X by minimising scikit-learn's objective::

        D(X | WH) + α_W l1_ratio n_features ‖W‖₁ + ½ α_W (1 − l1_ratio) n_features ‖W‖²
                  + α_H l1_ratio n_samples  ‖H‖₁ + ½ α_H (1 − l1_ratio) n_samples  ‖H‖²

    X is read once per iteration.

    Parameters
    ----------
    n_components : int, None or "auto", default="auto"
        Number of components. ``None`` and ``"auto"`` mean the number of features, or what a custom
        W or H has; above 512 a number must be given.
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "custom"} or None, default=None
        How W and H start. ``None``: ``"nndsvda"`` where n_components ≤ min(n_samples, n_features),
        else ``"random"``. The SVD of the nndsvd starts takes three reads of X in all, the random
        start one. With ``solver="mu"``, ``"nndsvd"`` puts a hundredth of X's mean where zeros would
        be, which multiplicative updates cannot move. Random starts are the same for any chunks of
        X, and are not scikit-learn's numbers.
    solver : {"auto", "cd", "mu"}, default="auto"
        Coordinate descent (Frobenius loss only) or multiplicative updates; ``"auto"``: ``"cd"`` for
        the Frobenius loss, ``"mu"`` for others.
    beta_loss : float or {"frobenius", "kullback-leibler", "itakura-saito"}, default="frobenius"
        The beta-divergence D. With β ≤ 0, X must not contain zeros.
    tol : float, default=1e-4
        With ``inner_iter="auto"`` a fit ends when the estimated remaining gain is at most `tol` times
        the objective, for two passes running: with Δ_t the gain of pass t and ρ = Δ_t / Δ_{t−1} (at
        most 0.99), Δ_t ρ / (1 − ρ). With ``inner_iter=1`` it has scikit-learn's meaning. 0: always
        run `max_iter` passes.
    max_iter : int, default=200
        Most exact passes over X; those of the start do not count.
    random_state : int, RandomState instance or None, default=None
        Seed of the start and of `shuffle`. A run that is resumed keeps the seed it drew.
    alpha_W, alpha_H : float or "same" (alpha_H only), default=0.0, "same"
        Strengths of the penalties.
    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalties.
    verbose : int, default=0
        Above 0, one log line per pass to the logger ``"dasknmf"``.
    shuffle : bool, default=False
        Visit the coordinates of ``solver="cd"`` in a random order.
    inner_iter : int or "auto", default="auto"
        Most steps on a factor while X rests. For the Frobenius loss these cost no read, and ``"auto"``
        takes as many as pay [2]_; for others it is 1. With ``inner_iter=1`` iterates and stop rule are
        scikit-learn's.
    dtype : {float32, float64} or None, default=None
        Of W, H and the products. ``None``: float32 for float32 and for integers of up to 16 bits, else
        float64.
    missing_values : "error", default="error"
        Missing values are refused.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        H.
    n_components_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where X has column names that are all strings.
    init_ : str
        The start that was used.
    reconstruction_err_ : float
        √(2 D(X | WH)): for the Frobenius loss, the norm of the residual.
    n_iter_ : int
        Exact passes.
    n_reads_ : float
        Reads of X, those of the start included.
    history_ : History
        One record per pass.
    dead_components_ : ndarray of int
        Components whose row of H or column of W is zero throughout.

    See Also
    --------
    sklearn.decomposition.NMF : the same model in memory.
    dasknmf.open_run : W and H of a fit with ``checkpoint=``.

    Notes
    -----
    With a wide X (more features than samples, or chunks that are cut by columns only) the roles of W
    and H are exchanged inside and Xᵀ is factorized: H then moves before W.

    References
    ----------
    .. [1] Cichocki, A., & Phan, A. H. (2009). Fast local algorithms for large scale nonnegative matrix
       and tensor factorizations. IEICE Transactions, E92-A(3).
    .. [2] Gillis, N., & Glineur, F. (2012). Accelerated multiplicative updates and hierarchical ALS
       algorithms for nonnegative matrix factorization. Neural Computation, 24(4).

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
        "init": [StrOptions({"random", "nndsvd", "nndsvda", "nndsvdar", "custom"}), None],
        "solver": [StrOptions({"auto", "cd", "mu"})],
        "beta_loss": [StrOptions(set(NAMES)), Real],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "alpha_W": [Interval(Real, 0, None, closed="left")],
        "alpha_H": [Interval(Real, 0, None, closed="left"), StrOptions({"same"})],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "verbose": ["verbose"],
        "shuffle": ["boolean"],
        "inner_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "dtype": "no_validation",  # checked with the dtype of X
        "missing_values": [StrOptions({"error"})],
    }

    def __init__(
        self,
        n_components: Any = "auto",
        *,
        init: str | None = None,
        solver: str = "auto",
        beta_loss: float | str = "frobenius",
        tol: float = 1e-4,
        max_iter: int = 200,
        random_state: Any = None,
        alpha_W: float = 0.0,
        alpha_H: float | str = "same",
        l1_ratio: float = 0.0,
        verbose: int = 0,
        shuffle: bool = False,
        inner_iter: int | str = "auto",
        dtype: Any = None,
        missing_values: str = "error",
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.solver = solver
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.verbose = verbose
        self.shuffle = shuffle
        self.inner_iter = inner_iter
        self.dtype = dtype
        self.missing_values = missing_values

    def fit(self, X: Any, y: Any = None, **run: Any) -> NMF:
        """Fit the model to X; see `fit_transform` for the parameters.

        Returns
        -------
        self : NMF
        """
        self._fit(X, wants_W=False, **run)
        return self

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        W: Any = None,
        H: Any = None,
        checkpoint: Any = None,
        overwrite: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Any:
        """Fit the model to X and return W.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            NumPy array or SciPy sparse matrix; Dask array with any chunks and any graph behind it;
            Zarr array, or a path or URL of one.
        y : ignored
        W, H : array of shape (n_samples, n_components), (n_components, n_features)
            The start, for ``init="custom"``. W may be a Dask array.
        checkpoint : path, URL or Zarr store, optional
            Where every pass is committed. A run that stands there is resumed, or, where it had
            finished and `max_iter` or `tol` differ, continued.
        overwrite : bool
            Start over where `checkpoint` holds a run.
        callbacks : sequence of callable
            Called after each pass with its `Record`.

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n_samples, n_components)
            A Dask array where X is chunked: over the checkpoint if there is one, else in memory.

        Raises
        ------
        DataError
            If X holds NaN, infinities or negative values, or zeros with β ≤ 0.
        MemoryLimitError
            If a pass, or W without a checkpoint, will not fit in memory.
        RunMismatchError, RunLockedError, RunDamagedError, DataChangedError
            If the checkpoint holds another run, is being written, or is not as it was written; or if
            X changed.
        """
        return self._fit(
            X,
            wants_W=True,
            W=W,
            H=H,
            checkpoint=checkpoint,
            overwrite=overwrite,
            callbacks=callbacks,
        )

    def transform(self, X: Any) -> Any:
        """W of new rows for the fitted H: exact for the Frobenius loss.

        Parameters
        ----------
        X : as for `fit_transform`

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n_samples, n_components)
            Lazy where X is chunked; computing it reads X once.
        """
        return self._by_rows(X, "__call__")

    def inverse_transform(self, X: Any) -> Any:
        """WH for W = X.

        Parameters
        ----------
        X : ndarray, sparse matrix or dask.array.Array of shape (n_samples, n_components)

        Returns
        -------
        X_original : ndarray or dask.array.Array of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        return X @ self.components_

    def score_samples(self, X: Any) -> Any:
        """Error of each row: D(x | wH) with the w that `transform` finds.

        Parameters
        ----------
        X : as for `fit_transform`

        Returns
        -------
        errors : ndarray or dask.array.Array of shape (n_samples,)
            Lazy where X is chunked. Half the squared residual for the Frobenius loss.
        """
        return self._by_rows(X, "scores")

    @classmethod
    def from_run(cls, run: Any) -> NMF:
        """The fitted model of a checkpoint, for `transform` and `inverse_transform`.

        Parameters
        ----------
        run : Run, or the path, URL or Zarr store of one
        """
        run = run if isinstance(run, Run) else Run(run)
        known = cls().get_params()
        model = cls(**{name: value for name, value in run.params.items() if name in known})
        model.components_ = run.H
        model.n_components_ = len(run.H)
        model.n_features_in_ = run.shape[1]
        model.init_ = run.params["init"]
        model.n_iter_ = run.n_iter
        model.history_ = run.history
        return model

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _fit(
        self,
        X: Any,
        *,
        wants_W: bool,
        W: Any = None,
        H: Any = None,
        checkpoint: Any = None,
        overwrite: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Any:
        self._validate_params()
        loss = Loss.named(self.beta_loss)
        solver = self._chosen_solver(loss)
        X = self._validated(X, reset=True)
        dtype = inputs.working_dtype(X.dtype, self.dtype)
        shape = (int(X.shape[0]), int(X.shape[1]))
        W, H = self._checked_start(X, W, H, dtype)
        k = self._chosen_k(shape, W, H)
        init = self._chosen_init(shape, k)
        if inputs.is_chunked(X) and checkpoint is None and wants_W:
            _check_W_fits(shape[0], k, dtype)

        transposed = inputs.rather_transposed(X, parity=self.inner_iter == 1)
        source = inputs.source_of(X, transposed=transposed)
        grid = inputs.grid_of(source)
        given = None if W is None else ((H.T, _in_memory(W).T) if transposed else (W, H))
        identity, budget = self._identity(shape, dtype, loss, solver, init, k, transposed, W, H)
        scheduler = schedulers.current(in_process=source.in_process)

        with ExitStack() as stack:
            scratch = None
            if checkpoint is None and scheduler.client is not None:
                scratch = stack.enter_context(scheduler.scratch())
            where = checkpoint if checkpoint is not None else scratch
            run: MemoryRun | StoredRun
            if where is None:
                run = MemoryRun()
                seed = self._drawn_seed()
            else:
                identity["seed"] = self._drawn_seed()
                run = StoredRun(where, identity, budget, grid, dtype, overwrite=overwrite)
                seed = run.seed
            stack.callback(run.close)
            penalties = Penalties.scaled(self.alpha_W, self.alpha_H, self.l1_ratio, shape)
            if transposed:
                penalties = Penalties(penalties.H, penalties.W)
            model = Model(
                source.shape,
                k,
                dtype,
                loss,
                solver,
                init,
                seed,
                penalties,
                self.inner_iter,  # type: ignore[arg-type]  # validated above
                self.shuffle,
            )
            reports = (*callbacks, _log) if self.verbose else callbacks
            Fit(model, source, grid, run, scheduler, self.max_iter, self.tol, given, reports)()
            result = self._finish(run, grid, dtype, transposed, init)
            if not wants_W:
                return None
            if not inputs.is_chunked(X):
                return np.asarray(result)
            if scratch is not None:
                # The scratch store goes: what is returned has to live in this process.
                return da.from_array(_in_memory(result), chunks=result.chunks)
            return result

    def _finish(self, run: Any, grid: Grid, dtype: np.dtype, transposed: bool, init: str) -> Any:
        """Set the fitted attributes; W, lazily over the run's factors."""
        position, history = run.position, run.history
        state = run.factors.read_states(position.state)[0]
        rows = rows_array(run.factors, position.rows, grid, dtype)
        W, H = oriented(rows, state["H"], transposed=transposed)
        self.components_ = H
        self.n_components_ = len(H)
        self.init_ = init
        self.n_iter_ = position.iteration
        self.n_reads_ = history.reads
        self.history_ = history
        self.reconstruction_err_ = float(np.sqrt(2 * max(history[-1].loss, 0.0)))
        self.dead_components_ = np.flatnonzero((state["usage"] == 0) | (state["H"].max(axis=1) == 0))
        if len(self.dead_components_):
            warnings.warn(
                f"components {self.dead_components_.tolist()} of {len(H)} are zero throughout; they add "
                "nothing to WH: ask for fewer components, or give another init or random_state.",
                UserWarning,
                stacklevel=4,
            )
        if position.outcome == Outcome.MAX_ITER.value and self.tol > 0:
            warnings.warn(
                f"Maximum number of iterations {self.max_iter} reached. Increase it to improve convergence.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return W

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """X as an array that can be cut into panels, checked as far as its metadata goes."""
        X = inputs.opened(X)
        if not inputs.is_chunked(X):
            keep = isinstance(X, np.ndarray) and X.dtype.kind in "biu" and X.dtype.itemsize <= 2
            X = validate_data(
                self,
                X,
                accept_sparse=("csr", "csc"),
                dtype=X.dtype if keep else [np.float64, np.float32],
                reset=reset,
            )
            smallest = X.data.min(initial=0) if scipy.sparse.issparse(X) else X.min(initial=0)
            if smallest < 0:
                place = "NMF initialization" if reset else "X in NMF"
                raise DataError(
                    f"Negative values in data passed to {place}. The smallest is {smallest:g}; "
                    "V = WH with W, H >= 0 cannot be: shift or clip the values, or give them as they "
                    "were before they were centred."
                )
            return X
        check_shape(X.shape)
        inputs.working_dtype(X.dtype)
        if reset:
            self.n_features_in_ = int(X.shape[1])
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but NMF is expecting {self.n_features_in_} features as input."
            )
        return X

    def _by_rows(self, X: Any, method: str) -> Any:
        """Apply the coder to rows of X: at once in memory, lazily where X is chunked."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        loss = Loss.named(self.beta_loss)
        penalties = Penalties.scaled(self.alpha_W, self.alpha_H, self.l1_ratio, X.shape)
        tol = min(self.tol, 1e-4) if self.tol else 1e-6
        dtype = np.dtype(self.components_.dtype)
        coder = Coder(self.components_, loss, penalties.W, tol, max(self.max_iter, 1000))
        if not inputs.is_chunked(X):
            return getattr(coder, method)(X)
        if isinstance(X, zarr.Array):
            edges = inputs.grid_of(inputs.source_of(X)).edges
            X = da.from_array(X, chunks=(tuple(np.diff(edges).tolist()), -1))
        else:
            X = X.rechunk({1: -1})
        # H is one task of the graph, not an argument of every one.
        coded = da.from_array(self.components_, chunks=-1, name=False)
        columns = {"k": self.n_components_} if method == "__call__" else {}
        return da.blockwise(
            _code,
            "ik" if columns else "i",
            X,
            "ij",
            coded,
            "hj",
            coder=Coder(np.empty((0, 0), dtype), loss, penalties.W, tol, coder.max_iter),
            method=method,
            new_axes=columns,
            concatenate=True,
            dtype=dtype if columns else np.float64,
            meta=np.empty((0,) * (1 + bool(columns)), dtype if columns else np.float64),
        )

    def _chosen_solver(self, loss: Loss) -> Any:
        if self.solver == "auto":
            return "cd" if loss.quadratic else "mu"
        if self.solver == "cd" and not loss.quadratic:
            raise ValueError(
                f"Invalid beta_loss parameter: solver 'cd' does not handle beta_loss = {loss.beta}; "
                "use solver='mu', which takes every beta_loss."
            )
        return self.solver

    def _chosen_k(self, shape: tuple[int, int], W: Any, H: Any) -> int:
        if self.n_components not in (None, "auto"):
            return int(self.n_components)
        if H is not None:
            return int(H.shape[0])
        n_features = shape[1]
        if n_features > _MOST_AUTO:
            raise ValueError(
                f"n_components is {self.n_components!r}, which means all {n_features} features; above "
                f"{_MOST_AUTO} that is rarely meant: give a number."
            )
        return n_features

    def _chosen_init(self, shape: tuple[int, int], k: int) -> Init:
        if self.init is None:
            return "nndsvda" if k <= min(shape) else "random"
        if self.init.startswith("nndsvd") and k > min(shape):
            raise ValueError(
                f"init = '{self.init}' can only be used when n_components <= min(n_samples, n_features): "
                f"n_components is {k}, X is {shape[0]} x {shape[1]}; use init='random'."
            )
        return self.init  # type: ignore[return-value]  # validated by _parameter_constraints

    def _checked_start(self, X: Any, W: Any, H: Any, dtype: np.dtype) -> tuple[Any, Any]:
        """A custom start that fits X, or nothing."""
        if self.init != "custom":
            if W is not None or H is not None:
                warnings.warn(
                    "When init!='custom', provided W or H are ignored. Set init='custom' to use them "
                    "as initialization.",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return None, None
        if W is None or H is None:
            missing = " and ".join(name for name, F in (("W", W), ("H", H)) if F is None)
            raise ValueError(
                f"init='custom' needs both W and H, {missing} is None: pass fit(X, W=..., H=...)."
            )
        k = self.n_components if self.n_components not in (None, "auto") else np.shape(H)[0]
        shapes = {"W": (X.shape[0], k), "H": (k, X.shape[1])}
        for name, F in (("W", W), ("H", H)):
            _check_factor(F, shapes[name], f"NMF (input {name})")
        if np.dtype(W.dtype) != dtype or np.dtype(H.dtype) != dtype:
            raise TypeError(
                "H and W should have the same dtype as X. "
                f"Got H.dtype = {H.dtype}, W.dtype = {W.dtype} and X works in {dtype}: convert them."
            )
        return W, np.asarray(H)

    def _drawn_seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _identity(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        loss: Loss,
        solver: str,
        init: str,
        k: int,
        transposed: bool,
        W: Any,
        H: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What must match when a run is resumed, and what may change."""
        seed = int(self.random_state) if isinstance(self.random_state, Integral) else None
        model = {
            "n_components": k,
            "init": init,
            "solver": solver,
            "beta_loss": loss.beta,
            "random_state": seed,
            "alpha_W": float(self.alpha_W),
            "alpha_H": self.alpha_H if isinstance(self.alpha_H, str) else float(self.alpha_H),
            "l1_ratio": float(self.l1_ratio),
            "shuffle": bool(self.shuffle),
            "inner_iter": self.inner_iter if isinstance(self.inner_iter, str) else int(self.inner_iter),
        }
        if H is not None:
            model["H"] = hashlib.sha256(np.ascontiguousarray(H).tobytes()).hexdigest()[:16]
        identity = {
            "shape": list(shape),
            "dtype": dtype.str,
            "transposed": transposed,
            "model": model,
        }
        return identity, {"max_iter": int(self.max_iter), "tol": float(self.tol)}


def non_negative_factorization(
    X: Any,
    W: Any = None,
    H: Any = None,
    n_components: Any = "auto",
    *,
    update_H: bool = True,
    **parameters: Any,
) -> tuple[Any, np.ndarray, int]:
    """Factorize X ≈ WH with one call; the function of the same name in scikit-learn.

    Parameters
    ----------
    X : as for `NMF.fit_transform`
    W, H : array, optional
        The start for ``init="custom"``. With ``update_H=False``, H is kept and W is solved for; a
        given W is ignored.
    n_components : int, None or "auto"
    update_H : bool
        Whether H moves.
    **parameters
        Of `NMF`.

    Returns
    -------
    W : ndarray or dask.array.Array of shape (n_samples, n_components)
    H : ndarray of shape (n_components, n_features)
    n_iter : int
        Exact passes; 1 with ``update_H=False``, which solves W in one read.
    """
    model = NMF(n_components, **parameters)
    if update_H:
        W = model.fit_transform(X, W=W, H=H)
        return W, model.components_, model.n_iter_
    model._validate_params()
    if W is not None:
        warnings.warn(
            "When update_H=False, the provided initial W is not used.", RuntimeWarning, stacklevel=2
        )
    if H is None:
        raise ValueError("update_H=False keeps H, but H is None: give H.")
    X = inputs.opened(X)
    k = model.n_components if model.n_components not in (None, "auto") else np.shape(H)[0]
    _check_factor(H, (k, X.shape[1]), "NMF (input H)")
    model.n_features_in_ = int(X.shape[1])
    model.components_ = np.asarray(H)
    model.n_components_ = len(H)
    return model.transform(X), model.components_, 1


def _code(X: np.ndarray, H: np.ndarray, *, coder: Coder, method: str) -> np.ndarray:
    """One chunk of a lazy transform: the values are checked here, where they are first seen."""
    if hasattr(X, "toarray"):
        X = X.toarray()
    if not np.isfinite(X).all() or (X < 0).any():
        kind = (
            "Negative values in data passed to X in NMF"
            if np.isfinite(X).all()
            else ("Input X contains NaN or infinity")
        )
        raise DataError(f"{kind}; new rows must be finite and nonnegative: mend them first.")
    filled = Coder(np.ascontiguousarray(H), coder.loss, coder.penalty, coder.tol, coder.max_iter)
    return np.asarray(getattr(filled, method)(X))


def _check_factor(F: Any, shape: tuple[int, int], whom: str) -> None:
    """Refuse a factor that cannot start or stay, in scikit-learn's words."""
    found = tuple(np.shape(F))
    if len(found) != 2:
        raise ValueError(f"Expected 2D array, got {len(found)}D array instead: {whom} has shape {found}.")
    for axis, order in enumerate(("first", "second")):
        if found[axis] != shape[axis]:
            raise ValueError(
                f"Array with wrong {order} dimension passed to {whom}. Expected {shape[axis]}, but got "
                f"{found[axis]}: give an array of shape {shape}."
            )
    smallest, largest = (float(each) for each in da.compute(F.min(), F.max()))
    if not np.isfinite(smallest + largest):
        raise ValueError(f"{whom} contains NaN or infinity: give finite values.")
    if smallest < 0:
        raise ValueError(
            f"Negative values in data passed to {whom}: the smallest is {smallest:g}, factors are "
            "nonnegative; clip them."
        )
    if largest == 0:
        raise ValueError(f"Array passed to {whom} is full of zeros: no solver can move it; give a start.")


def _check_W_fits(n_rows: int, k: int, dtype: np.dtype) -> None:
    nbytes = n_rows * k * dtype.itemsize
    if nbytes > _MOST_W_BYTES:
        raise MemoryLimitError(
            f"W would hold {n_rows} x {k} values, {format_bytes(nbytes)}, in this process; without a "
            f"checkpoint at most {format_bytes(_MOST_W_BYTES)} are kept: give fit(..., checkpoint=), "
            "where W stays on disk."
        )


def _in_memory(F: Any) -> np.ndarray:
    return np.asarray(F.compute() if isinstance(F, da.Array) else F)


def _log(record: Any) -> None:
    log.info(
        "%s %d: objective %s, %.2f s, %s read, %g reads of V so far",
        record.phase,
        record.iteration,
        record.objective,
        record.seconds,
        format_bytes(record.bytes_read),
        record.reads,
    )
