"""From what a user asks of `NMF` and of `fit` to one model of one source: every choice settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import dask.array as da
import numpy as np
from sklearn.utils import check_random_state

from dasknmf import data
from dasknmf.core.blocks.entries import EntryWeights, Holdout
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.image_grid import PixelIndex
from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.resampled import Resampling
from dasknmf.core.solvers.variant import Variant
from dasknmf.data.weighted import WeightedSource
from dasknmf.fitting import validation
from dasknmf.fitting.fingerprint import identity_of
from dasknmf.fitting.model import Init, Model
from dasknmf.store.features import Features


@dataclass(frozen=True)
class FitOptions:
    """What `fit` is given for the model, beside X.

    Parameters
    ----------
    W, H : array or None
        The start, for ``init="custom"``.
    sample_weight : array of shape (n_samples,) or None
    feature_weight : array of shape (n_features,) or None
    weights : array of shape (n_samples, n_features) or None
    holdout : float or None
    perturbation : Resampling or None
        What X is met with; its seed and its places are those of the model.
    """

    W: Any = None
    H: Any = None
    sample_weight: Any = None
    feature_weight: Any = None
    weights: Any = None
    holdout: float | None = None
    resampling: Resampling | None = None


@dataclass(frozen=True)
class Problem:
    """One fit, before anything is read.

    Parameters
    ----------
    source : Source
        In the roles that are worked on; weights come to it by `observed`, once it is staged.
    entries : EntryWeights or None
    rows : ndarray or None
        Weights of V's rows.
    weights : Source or None
        Of the weights of entries.
    given : tuple of arrays or None
        A custom start, in the roles that are worked on.
    identity : callable
        Gives the identity and the budget of a run; digests of arrays are made for it.
    """

    source: Any
    grid: Grid
    model: Model
    transposed: bool
    entries: EntryWeights | None
    rows: np.ndarray | None
    weights: Any
    given: tuple[Any, Any] | None
    features: Features
    identity: Callable[[], tuple[dict[str, Any], dict[str, Any]]]

    @property
    def init(self) -> Init:
        return self.model.init

    def seeded(self, seed: int) -> Problem:
        """The same with the seed that its run has: of its start, its order and what it hides."""
        entries = self.entries
        if entries is not None and entries.holdout is not None:
            entries = replace(entries, holdout=replace(entries.holdout, seed=seed))
        variant = replace(
            self.model.variant,
            hidden_columns=_hidden_columns(entries, self.source),
            resampling=_resampling(self.model.variant.resampling, seed, self.model.rows),
        )
        return replace(self, model=replace(self.model, seed=seed, variant=variant), entries=entries)

    def restarted(self, n_init: int) -> tuple[Model, ...]:
        """The model from so many starts, the first of them its own."""
        return tuple(self.model.reseeded(seed) for seed in spawned(self.model.seed, n_init))

    def observed(self, source: Any) -> Any:
        """The source, staged or not, with what is told of its entries."""
        if self.entries is None and self.rows is None and self.weights is None:
            return source
        return WeightedSource(source, self.entries or EntryWeights(), rows=self.rows, weights=self.weights)


def decide(nmf: Any, X: Any, asked: FitOptions, *, kept: bool, keeps_roles: bool = False) -> Problem:
    """One model of one source.

    Parameters
    ----------
    nmf : NMF
        Its attributes of X are set, and `feature_weight_`.
    X : array
        As `validation.validated` gives it.
    asked : FitOptions
    kept : bool
        Whether W has to live in this process.
    keeps_roles : bool
        Whether X must not be worked on as Xᵀ, whatever its shape.

    Raises
    ------
    ValueError, TypeError, MemoryLimitError
        If the parameters do not go together, or not with X.
    """
    loss = Loss.named(nmf.beta_loss)
    solver = validation.chosen_solver(nmf, loss)
    dtype = working_dtype(X.dtype, nmf.dtype)
    shape = (int(X.shape[0]), int(X.shape[1]))
    W, H = validation.checked_start(nmf, X, asked.W, asked.H, dtype)
    k = validation.chosen_k(nmf, shape, W, H)
    if kept:
        validation.check_W_fits(shape[0], k * nmf.n_init, dtype)
    fixed = validation.checked_fixed(nmf.fixed_components, k, shape[1], dtype)
    validation.check_sum_to_one(nmf, loss, solver)
    validation.check_resampling(asked.resampling, loss)

    # Which factor is whose matters to rows of H that are known, to rows of W that sum to one, and to noise.
    keeps_roles |= fixed is not None or nmf.sum_to_one or asked.resampling is not None
    transposed = validation.chosen_roles(X, parity=nmf.inner_iter == 1, kept=keeps_roles)
    source = data.source_of(X, transposed=transposed)
    grid = data.grid_of(source)
    places = data.places_of(X, transposed=transposed)
    a = validation.checked_vector(asked.sample_weight, shape[0], "sample_weight", "samples")
    b = validation.checked_vector(asked.feature_weight, shape[1], "feature_weight", "features")
    totals = (shape[0] if a is None else float(a.sum()), shape[1] if b is None else float(b.sum()))
    rows, columns = (b, a) if transposed else (a, b)
    seed = _drawn_seed(nmf.random_state)
    holdout = validation.checked_holdout(asked.holdout)
    entries = _entries(nmf, X, source, columns)
    masked = (entries is not None and entries.masks) or asked.weights is not None
    masked = masked or (isinstance(X, data.Stored) and X.masked)
    if holdout is not None:
        hidden = Holdout(holdout, seed, shape[1], transposed, places)
        entries = replace(entries or EntryWeights(), holdout=hidden)
    given_weights = None if asked.weights is None else validation.checked_weights(asked.weights, X)
    weights = _weights(given_weights, X, grid, transposed)

    row_bytes = data.row_bytes_of(source, dtype)
    variant = Variant(
        masked=masked or holdout is not None,
        groups=None if entries is None else entries.groups,
        hidden=holdout is not None,
        hidden_columns=_hidden_columns(entries, source),
        column_weights=columns,
        fixed=fixed,
        sum_to_one=bool(nmf.sum_to_one),
        resampling=_resampling(asked.resampling, seed, places),
    )
    validation.check_restarts(nmf)
    init = validation.chosen_init(nmf, loss, source.shape, k, row_bytes, masked=variant.masked)
    given = None
    if W is not None:
        if fixed is not None:
            H = H.copy()
            H[: len(fixed)] = fixed
        given = (H.T, computed(W).T) if transposed else (W, H)
    penalties = Penalties.scaled(nmf.alpha_W, nmf.alpha_H, nmf.l1_ratio, totals)
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
        nmf.inner_iter,
        row_bytes,
        nmf.shuffle,
        nmf.sample_bytes,
        streamed=not source.in_process,
        variant=variant,
        rows=places,
    )
    layout = X.layout if isinstance(X, data.Stored) else None
    known = Features(getattr(nmf, "feature_names_in_", None), nmf.preparation_.get("scale"), b, layout)
    nmf.feature_weight_ = b

    def identity() -> tuple[dict[str, Any], dict[str, Any]]:
        told = {"sample_weight": a, "feature_weight": b, "weights": given_weights}
        return identity_of(
            nmf,
            model,
            shape,
            (W, H),
            transposed=transposed,
            preparation=X.described() if isinstance(X, data.Prepared) else None,
            names=known.names,
            layout=layout,
            entries=entries,
            weights=told | {"mask": _described_mask(X)},
        )

    return Problem(source, grid, model, transposed, entries, rows, weights, given, known, identity)


def spawned(seed: int, count: int) -> list[int]:
    """Seeds of so many starts: the first is the given one, the others follow from it."""
    return [seed, *np.random.SeedSequence(seed).generate_state(count - 1).tolist()]


def computed(F: Any) -> np.ndarray:
    """A factor as NumPy."""
    return np.asarray(F.compute() if isinstance(F, da.Array) else F)


def _entries(nmf: Any, X: Any, source: Any, columns: np.ndarray | None) -> EntryWeights | None:
    """What is told of V's entries; None: each is observed, and counts once."""
    entries = _told(nmf.missing_values, X, source.entries)
    return entries if columns is None else replace(entries or EntryWeights(), weights=columns)


def entries_of(nmf: Any, X: Any) -> EntryWeights | None:
    """What is told of the entries of new rows; None: each is observed."""
    return _told(nmf.missing_values, X, getattr(X, "entries", None))


def _told(missing: Any, X: Any, entries: EntryWeights | None) -> EntryWeights | None:
    if missing == "error":
        return entries
    validation.check_missing(missing, X)
    if validation.is_nan(missing):
        return replace(entries or EntryWeights(), nan=True)
    return replace(entries or EntryWeights(), nodata=float(missing))


def _described_mask(X: Any) -> str | None:
    while isinstance(X, data.Prepared):
        X = X.X
    return X.described_mask() if isinstance(X, data.Stored) else None


def _resampling(asked: Resampling | None, seed: int, places: PixelIndex) -> Resampling | None:
    """The one of a model: a model of another seed sees another version of V."""
    return None if asked is None else replace(asked, seed=seed, rows=places)


def _hidden_columns(entries: EntryWeights | None, source: Any) -> np.ndarray | None:
    """Of the block that is hidden, where V is sparse."""
    if entries is None or entries.holdout is None or not source.sparse:
        return None
    return entries.holdout.hidden_columns(source.shape[1])


def _weights(weights: Any, X: Any, grid: Grid, transposed: bool) -> Any:
    """The source of the weights of entries, cut where V is."""
    if weights is None:
        return None
    if isinstance(weights, da.Array):
        if not data.is_chunked(X):
            weights = weights.compute()
        else:
            axis = int(transposed)
            weights = weights.rechunk({axis: tuple(int(rows) for rows in np.diff(grid.edges))})
    return data.source_of(weights, transposed=transposed)


def _drawn_seed(random_state: Any) -> int:
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
