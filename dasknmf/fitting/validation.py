"""Checks of parameters and options before anything is read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.utils import format_bytes
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from dasknmf import data
from dasknmf.core.feature_names import aligned
from dasknmf.core.losses import Loss
from dasknmf.core.solvers.resampled import EPSILON, KINDS, Resampling
from dasknmf.core.solvers.table import SOLVERS, default_solver
from dasknmf.core.text import counted
from dasknmf.data.source import Matrix, MatrixLike
from dasknmf.errors import MemoryLimitError, SourceError
from dasknmf.fitting.model import Init
from dasknmf.fitting.problem import Factor, FitOptions

_MOST_AUTO_COMPONENTS = 512
_MOST_W_BYTES = 2**30
_LEAST_ROWS_PER_COMPONENT = 4
_ENOUGH_ROWS_PER_COMPONENT = 100
"""Least sampled rows for each component with which ``init=None`` chooses ``"sample"``, for the Frobenius
loss, whose alternative is a sketch. For other losses a sample of any size is better than singular vectors:
counts of 559 cells with 7 rows for each component took 15 reads instead of 32, digits with Itakura-Saito 110
instead of 204, to a lower loss."""


def chosen_solver(model: BaseEstimator, loss: Loss) -> str:
    """The solver: the parameter, or the default for "auto"."""
    if model.solver == "auto":
        return default_solver(loss, plain=model.inner_iter == 1)
    if not SOLVERS[model.solver].takes(loss):
        raise ValueError(
            f"Invalid beta_loss parameter: solver {model.solver!r} does not handle beta_loss = {loss.beta}; "
            "use solver='auto', which chooses one that does."
        )
    return str(model.solver)


def chosen_k(model: BaseEstimator, n_features: int, H: Factor | None) -> int:
    """The number of components: the parameter, else that of a custom H or of fixed rows, else of features."""
    if model.n_components not in (None, "auto"):
        return int(model.n_components)
    if H is not None:
        return int(H.shape[0])
    if model.fixed_components is not None:
        return len(model.fixed_components)
    if n_features > _MOST_AUTO_COMPONENTS:
        raise ValueError(
            f"n_components is {model.n_components!r}, which means the number of features, {n_features}; "
            f"above {_MOST_AUTO_COMPONENTS} that is rarely meant: give a number."
        )
    return n_features


def chosen_init(
    model: BaseEstimator,
    loss: Loss,
    shape: tuple[int, int],
    k: int,
    row_bytes: float,
    *,
    masked: bool = False,
) -> Init:
    """The start: the parameter, or the default for None; `shape` and `row_bytes` are those of V."""
    n_rows = shape[0]
    sampled = min(n_rows, int(model.sample_bytes // row_bytes))
    if model.init is None:
        if model.n_init > 1:
            return "random"  # fits from random starts differ most
        plain: Init = "nndsvda" if k <= min(shape) and not masked else "random"
        if model.inner_iter == 1:
            return plain
        rows = _ENOUGH_ROWS_PER_COMPONENT if loss.quadratic else _LEAST_ROWS_PER_COMPONENT
        if sampled == n_rows or sampled >= rows * k:
            return "sample"
        return "sketch" if loss.quadratic and plain == "nndsvda" else plain
    if masked and model.init == "sketch":
        raise ValueError(
            "init = 'sketch' needs every entry of X, and entries may be missing (NaN of a stack of floats by "
            "default), hidden or weighted: use init='sample', or missing_values='error' if none is missing."
        )
    least = min(_LEAST_ROWS_PER_COMPONENT * k, n_rows)
    if model.init == "sample" and sampled < least:
        raise ValueError(
            f"sample_bytes is {model.sample_bytes}, enough for {counted(sampled, 'row')} of {row_bytes:.0f} "
            f"bytes; init='sample' needs {least} rows for {k} components: give at least "
            f"{math.ceil(least * row_bytes)}."
        )
    if model.init == "sketch" and not loss.quadratic:
        raise ValueError(
            f"init = 'sketch' can only be used with the Frobenius loss: beta_loss is {loss.beta:g}; use "
            "init='sample'."
        )
    if model.init.startswith(("nndsvd", "sketch")) and k > min(shape):
        raise ValueError(
            f"init = '{model.init}' can only be used when n_components <= min(n_samples, n_features): "
            f"n_components is {k}, the smaller side of X is {min(shape)}; use init='random'."
        )
    return cast(Init, model.init)


def checked_start(
    model: BaseEstimator, X: Matrix, W: Factor | None, H: Factor | None, dtype: np.dtype
) -> tuple[Factor | None, np.ndarray | None]:
    """A custom start, checked against X: W and H, H alone, or neither."""
    if model.init != "custom":
        if W is not None or H is not None:
            warnings.warn(
                "When init!='custom', provided W or H are ignored. Set init='custom' to use them "
                "as initialization.",
                RuntimeWarning,
                stacklevel=6,
            )
        return None, None
    if H is None:
        missing = "H is None" if W is not None else "W is None and H is None"
        raise ValueError(
            f"init='custom' needs H, or both W and H; {missing}: pass fit(X, H=...) or fit(X, W=..., H=...)."
        )
    k = chosen_k(model, int(X.shape[1]), H)
    check_factor(H, (k, X.shape[1]), "NMF (input H)")
    if W is not None:
        check_factor(W, (X.shape[0], k), "NMF (input W)")
    if {np.dtype(F.dtype) for F in (W, H) if F is not None} != {dtype}:
        of_W = "" if W is None else f", W.dtype = {W.dtype}"
        raise TypeError(
            "H and W should have the same dtype as X. "
            f"Got H.dtype = {H.dtype}{of_W} and {dtype} for X: convert them."
        )
    return W, np.asarray(H)


def checked_W(W: Matrix, k: int) -> Any:
    """W of an inverse transform, which has a column for each of k components.

    Raises
    ------
    ValueError
    """
    W = np.asarray(W) if isinstance(W, (list, tuple)) else W
    shape = tuple(W.shape)
    if len(shape) != 2 or shape[1] != k:
        raise ValueError(
            f"X has shape {shape}, but the model has {k} components; inverse_transform takes W, with a "
            f"column for each component: give an array of shape (n_samples, {k})."
        )
    return W


def check_factor(F: Factor, shape: tuple[int, int], label: str) -> None:
    """Raise an error for an invalid W or H, with the messages of scikit-learn."""
    found = tuple(np.shape(F))
    if len(found) != 2:
        raise ValueError(f"Expected 2D array, got {len(found)}D array instead: {label} has shape {found}.")
    for axis, order in enumerate(("first", "second")):
        if found[axis] != shape[axis]:
            raise ValueError(
                f"Array with wrong {order} dimension passed to {label}. Expected {shape[axis]}, but got "
                f"{found[axis]}: give an array of shape {shape}."
            )
    smallest, largest = (float(each) for each in da.compute(F.min(), F.max()))
    if not np.isfinite(smallest + largest):
        raise ValueError(f"{label} contains NaN or infinity: give finite values.")
    if smallest < 0:
        raise ValueError(
            f"Negative values in data passed to {label}: the smallest is {smallest:g}; factors are "
            "nonnegative: clip them."
        )
    if largest == 0:
        raise ValueError(
            f"Array passed to {label} is full of zeros, which updates do not change: give another start."
        )


def check_W_fits(n_rows: int, k: int, dtype: np.dtype) -> None:
    nbytes = n_rows * k * dtype.itemsize
    if nbytes > _MOST_W_BYTES:
        raise MemoryLimitError(
            f"W of shape ({n_rows}, {k}) takes {format_bytes(nbytes)}; without a checkpoint W stays in the "
            f"memory of this process and may take {format_bytes(_MOST_W_BYTES)}: give fit(..., checkpoint=), "
            "which keeps W on disk."
        )


def is_nan(missing: float | str) -> bool:
    """Whether NaN stands for missing entries."""
    return missing == "nan" or (isinstance(missing, Real) and bool(np.isnan(float(missing))))


def check_missing(missing: float | str, X: Matrix) -> None:
    """Raise an error for `missing_values` with a sparse or prepared X."""
    if data.is_sparse(X):
        raise ValueError(
            f"missing_values is {missing!r}, and X is sparse; entries that a sparse X does not store are "
            "zeros, and not missing: give a dense X, or fit(..., sample_weight=, feature_weight=)."
        )
    if isinstance(X, data.Prepared) and not X.keeps_missing(nan=is_nan(missing)):
        raise ValueError(
            f"missing_values is {missing!r}, and X is Prepared with steps that take it for a value (totals "
            "of rows; for a number also log1p and scale): leave out these steps, or prepare X beforehand."
        )


def aligned_options(options: FitOptions, rows: np.ndarray | None, names: np.ndarray | None) -> FitOptions:
    """The options with labelled weights and starts in the order of X's rows and features.

    Parameters
    ----------
    options : FitOptions
    rows, names : ndarray of str or None
        Names of X's rows and features; None: X has none.

    Raises
    ------
    ValueError
        If labels are not those of X.
    """
    W, H = aligned(options.W, rows, "W"), aligned(options.H, names, "H", axis=1)
    return replace(
        options,
        W=W if W is None or isinstance(W, da.Array) else np.asarray(W),
        H=H if H is None or isinstance(H, da.Array) else np.asarray(H),
        sample_weight=aligned(options.sample_weight, rows, "sample_weight"),
        feature_weight=aligned(options.feature_weight, names, "feature_weight"),
        weights=aligned(aligned(options.weights, rows, "weights"), names, "weights", axis=1),
    )


def checked_vector(weight: ArrayLike | None, length: int, name: str, of_what: str) -> np.ndarray | None:
    """Weights of samples or features, float64 of shape (length,), or None."""
    if weight is None:
        return None
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (length,):
        raise ValueError(
            f"{name} has shape {weight.shape}; X has {length} {of_what}: give one weight for each, shape "
            f"({length},)."
        )
    wrong = np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}] is {weight[wrong[0]]:g} (invalid weights: {len(wrong)}); a weight says how "
            "often something counts: give nonnegative, finite weights."
        )
    if not weight.any():
        raise ValueError(f"{name} is zero throughout, and nothing of X would count: give positive weights.")
    return weight


def checked_weights(weights: MatrixLike, X: Matrix) -> Matrix:
    """Weights of entries, opened, of the shape of X; values of chunked weights are checked when read."""
    weights = data.opened(weights)
    if data.is_sparse(weights):
        raise ValueError("weights are sparse; each entry of X needs a weight: give them dense.")
    if not data.is_chunked(weights):
        weights = np.asarray(weights)
    if tuple(weights.shape) != tuple(X.shape):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} and X has {tuple(X.shape)}; each entry of X needs a "
            "weight: give an array of X's shape, or sample_weight and feature_weight for rows and columns."
        )
    if np.dtype(weights.dtype).kind not in "biuf":
        raise ValueError(f"weights are {weights.dtype}; they must be real numbers or booleans: convert them.")
    if data.is_sparse(X):
        raise ValueError(
            "weights of entries need a dense X, and X is sparse: give sample_weight and feature_weight, "
            "which a sparse X may have."
        )
    if isinstance(weights, np.ndarray):
        smallest = float(weights.min(initial=0))
        if not (smallest >= 0 and np.isfinite(weights).all()):
            raise ValueError(
                f"weights are negative or not finite (the smallest is {smallest:g}); a weight says how often "
                "an entry counts: give nonnegative, finite weights, and 0 for missing entries."
            )
    return weights


def checked_holdout(share: float | None) -> float | None:
    """The share of entries that are hidden, or None."""
    if share is None:
        return None
    if not isinstance(share, Real) or isinstance(share, bool) or not 0 < float(share) < 1:
        raise ValueError(
            f"holdout is {share!r}; it is the share of entries that are hidden from the fit: give a number "
            "between 0 and 1, 0.05 for example."
        )
    return float(share)


def checked_fixed(
    fixed: ArrayLike | None, k: int, names: np.ndarray | None, n_features: int, dtype: np.dtype
) -> np.ndarray | None:
    """Fixed rows of H in the order of X's features, shape (n_fixed, n_features), in the working dtype."""
    if fixed is None:
        return None
    fixed = np.asarray(aligned(fixed, names, "fixed_components", axis=1))
    if fixed.ndim != 2 or fixed.shape[1] != n_features or not 0 < len(fixed) <= k:
        raise ValueError(
            f"fixed_components has shape {fixed.shape}; its rows are some of the {k} components, with "
            f"{n_features} features each: give an array of shape (at most {k}, {n_features})."
        )
    if fixed.dtype.kind not in "biuf" or not np.isfinite(fixed).all() or (fixed < 0).any():
        raise ValueError(
            f"fixed_components has values that are negative, not finite or not real ({fixed.dtype}); rows of "
            "H are nonnegative: correct or clip the values."
        )
    if not fixed.any(axis=1).all():
        raise ValueError(
            f"row {int(np.flatnonzero(~fixed.any(axis=1))[0])} of fixed_components is zero throughout; "
            "it adds nothing to WH: leave it out."
        )
    return np.ascontiguousarray(fixed, dtype)


def check_choices(
    model: BaseEstimator, options: FitOptions, shape: tuple[int, int], loss: Loss, solver: str
) -> None:
    """Raise an error if parameters and options contradict each other or the shape of X."""
    if options.many is not None:
        _check_ranks(options.many["ranks"], shape, model.fixed_components)
        if options.many.get("consensus") and options.holdout is not None:
            raise ValueError(
                f"holdout is {options.holdout!r}; a consensus uses all entries of X: leave it out, or use "
                "rank_sweep(holdout=)."
            )
    if model.sum_to_one and not (loss.quadratic and SOLVERS[solver].sum_to_one):
        raise ValueError(
            f"sum_to_one needs the Frobenius loss and a solver that supports it; beta_loss is {loss.beta:g} "
            f"and solver is {solver!r}: use beta_loss='frobenius' with solver 'cd' or 'bpp'."
        )
    _check_resampling(options.resampling, loss)
    if model.n_init > 1 and model.init in ("custom", "nndsvd", "nndsvda"):
        raise ValueError(
            f"n_init is {model.n_init}, and init = {model.init!r} uses no random numbers, so that all starts "
            "would be the same: use init='random', 'sample' or 'nndsvdar', or n_init=1."
        )
    if model.halving and model.n_init == 1:
        raise ValueError(
            "halving is True, and n_init is 1; halving drops the worse half of several starts: give n_init "
            "above 1, or leave halving out."
        )


def _check_ranks(ranks: list[int], shape: tuple[int, int], fixed: Sequence[object] | None) -> None:
    """Raise an error for ranks that are impossible for the shape of X or not ascending."""
    wrong = [rank for rank in ranks if not 1 <= rank <= min(shape)]
    if not ranks or wrong:
        raise ValueError(
            f"n_components has {wrong[0] if ranks else 'no values'}; X is {shape[0]} x {shape[1]}, and ranks "
            f"(numbers of components) are between 1 and {min(shape)}: give ranks in this range."
        )
    if any(later <= earlier for earlier, later in pairwise(ranks)):
        raise ValueError(
            f"n_components is {ranks}; ranks must ascend without repetition: give {sorted(set(ranks))}."
        )
    if fixed is not None and len(fixed) > ranks[0]:
        raise ValueError(
            f"fixed_components has {len(fixed)} rows and the smallest rank is {ranks[0]}; every rank "
            f"includes all of these rows: give ranks from {len(fixed)} on."
        )


def _check_resampling(resampling: Resampling | None, loss: Loss) -> None:
    """Raise an error for an unknown or useless perturbation, or one that the loss does not allow."""
    if resampling is None:
        return
    kind, epsilon = resampling.kind, resampling.epsilon
    if kind not in KINDS:
        raise ValueError(f"perturb is {kind!r}; it must be one of {KINDS}: give one of these.")
    if kind == "uniform" and not 0 < epsilon < 1:
        raise ValueError(
            f"epsilon is {epsilon}; entries are multiplied by 1 + U(-epsilon, epsilon), which must vary and "
            f"be positive: give a number between 0 and 1, {EPSILON} for example."
        )
    if kind == "poisson" and loss.beta <= 0:
        raise ValueError(
            f"perturb is 'poisson' and beta_loss is {loss.beta:g}; the counts that are drawn may be 0, where "
            "this loss is infinite: give 'rows' or 'uniform'."
        )


def chosen_roles(X: Matrix, *, parity: bool, kept: bool) -> bool:
    """Whether Xᵀ is factorized; False with `kept`, which needs the rows of X."""
    transposed = data.rather_transposed(X, parity=parity)
    if not (kept and transposed):
        return transposed
    if isinstance(X, data.Source) and X.by_columns:
        raise SourceError(
            "X is stored as CSC, by columns; sweeps, a consensus, fixed_components, sum_to_one and "
            "perturbations need its rows: store it as CSR."
        )
    return False
