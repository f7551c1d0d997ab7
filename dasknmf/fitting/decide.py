"""Decisions before a fit: the `Problem` and the `Inputs`, from X, the parameters of `NMF` and the options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeVar

import dask.array as da
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from zarr.abc.store import Store

from dasknmf import data
from dasknmf.core.blocks.entries import EntryWeights, Holdout
from dasknmf.core.dtypes import working_dtype
from dasknmf.core.feature_names import labels_of
from dasknmf.core.losses import Loss
from dasknmf.core.panels import Grid
from dasknmf.core.penalties import Penalties
from dasknmf.core.solvers.coder import Coder
from dasknmf.core.solvers.table import SOLVERS
from dasknmf.core.solvers.variant import Variant
from dasknmf.data.source import Matrix, MatrixLike
from dasknmf.data.staging import check_stage
from dasknmf.data.weighted import WeightedSource
from dasknmf.fitting import validation
from dasknmf.fitting.matrix import validated
from dasknmf.fitting.model import Model
from dasknmf.fitting.problem import Factor, FitOptions, described_entries, digest, start_seeds
from dasknmf.fitting.transform import by_rows
from dasknmf.store import features, records, schema
from dasknmf.store.convert import converted
from dasknmf.store.place import writable
from dasknmf.store.progress import environment, read_run
from dasknmf.store.roles import Roles

T = TypeVar("T")

_ROUNDING = 1e-6
"""Relative tolerance between two scales of the same data: far above rounding, far below another X."""


@dataclass(frozen=True)
class Inputs:
    """The live objects of a fit; rows and columns are those of V.

    Parameters
    ----------
    X : array
        X, opened and checked.
    options : FitOptions
    roles : Roles
    source : Source
        Source of V, without weights; `weighted` adds them after staging.
    grid : Grid
    model : Model
    entries : EntryWeights or None
        The decoding and weights of stored values; None: every entry is observed and has weight 1.
    row_weights : ndarray of shape (n_rows,) or None
        Weights of rows of V.
    entry_weights : Source or None
        Weights of entries of V.
    start : tuple of arrays or None
        A custom start.
    features : Features
    store : Store or None
        The opened store of the checkpoint.
    """

    X: Matrix
    options: FitOptions
    roles: Roles
    source: data.Source
    grid: Grid
    model: Model
    entries: EntryWeights | None
    row_weights: np.ndarray | None
    entry_weights: data.Source | None
    start: tuple[Factor, np.ndarray] | None
    features: features.Features
    store: Store | None = None

    def seeded(self, seed: int) -> Inputs:
        """The inputs with the seed of the run: for the start, the order of coordinates and hidden entries."""
        entries = self.entries
        if entries is not None and entries.holdout is not None:
            entries = replace(entries, holdout=replace(entries.holdout, seed=seed))
        model = self.model.reseeded(seed)
        variant = replace(model.variant, hidden_columns=_hidden_columns(entries, self.source))
        return replace(self, model=replace(model, variant=variant), entries=entries)

    def restarted(self, n_init: int) -> tuple[Model, ...]:
        """The model with each of `n_init` seeds, the first of them its own."""
        return tuple(self.model.reseeded(seed) for seed in start_seeds(self.model.seed, n_init))

    def weighted(self, source: data.Source) -> data.Source:
        """A source of V, staged or not, with the weights of its rows and entries."""
        if self.entries is None and self.row_weights is None and self.entry_weights is None:
            return source
        return WeightedSource(
            source, self.entries or EntryWeights(), rows=self.row_weights, weights=self.entry_weights
        )


def open_problem(nmf: BaseEstimator, X: MatrixLike, options: FitOptions) -> tuple[schema.Problem, Inputs]:
    """The problem and the inputs of a fit, after X is opened and all arguments are checked.

    Parameters
    ----------
    nmf : NMF
        The model; its numbers and names of features are set.
    X : array
        As for `NMF.fit`.
    options : FitOptions

    Raises
    ------
    ValueError, TypeError, DataError, SourceError, MemoryLimitError
        If parameters, options and X contradict each other.
    """
    nmf._validate_params()
    check_stage(options.stage, options.checkpoint)
    rows = labels_of(X, 0)
    X = validated(nmf, X, reset=True)
    options = validation.aligned_options(options, rows, getattr(nmf, "feature_names_in_", None))
    store = None if options.checkpoint is None else writable(options.checkpoint)
    if store is not None and not options.overwrite:
        X = _with_stored_scale(X, store)
    inputs = replace(decide(nmf, X, options), store=store)
    return problem_of(nmf, inputs), inputs


def _with_stored_scale(X: Matrix, store: Store) -> Matrix:
    """X with the scale of a stored run, where both scales are equal up to rounding.

    A scale computed again may differ in the last bits on another kind of CPU; with the stored scale, V is
    bit for bit that of the run.
    """
    if not isinstance(X, data.Prepared) or X.preparation.scale is None:
        return X
    problem = read_run(store)
    if problem is None:
        return X
    stored = features.read_preparation(store, problem.identity).get("scale")
    if stored is None or stored.shape != X.preparation.scale.shape:
        return X
    return X.rescaled(stored) if np.allclose(X.preparation.scale, stored, rtol=_ROUNDING, atol=0) else X


def decide(nmf: BaseEstimator, X: Matrix, options: FitOptions) -> Inputs:
    """The inputs of a fit of an opened and checked X; parameters as for `open_problem`."""
    loss = Loss.named(nmf.beta_loss)
    solver = validation.chosen_solver(nmf, loss)
    dtype = working_dtype(X.dtype, nmf.dtype)
    n, m = shape = (int(X.shape[0]), int(X.shape[1]))
    W, H = validation.checked_start(nmf, X, options.W, options.H, dtype)
    k = validation.chosen_k(nmf, m, H)
    if options.returns_W and options.checkpoint is None and data.is_chunked(X):
        validation.check_W_fits(n, k * nmf.n_init, dtype)
    names = getattr(nmf, "feature_names_in_", None)
    fixed = validation.checked_fixed(nmf.fixed_components, k, names, m, dtype)
    validation.check_choices(nmf, options, shape, loss, solver)

    # Fixed rows of H, rows of W that sum to one, and noise are defined for V = X only.
    needs_rows = fixed is not None or nmf.sum_to_one or options.resampling is not None or options.many
    roles = Roles(validation.chosen_roles(X, parity=nmf.inner_iter == 1, kept=bool(needs_rows)))
    source = data.source_of(X, transposed=roles.transposed)
    grid = data.grid_of(source)
    index = source.pixel_index
    seed = _drawn_seed(nmf.random_state)

    a = validation.checked_vector(options.sample_weight, n, "sample_weight", "samples")
    b = validation.checked_vector(options.feature_weight, m, "feature_weight", "features")
    row_weights, column_weights = roles.swapped(a, b)
    entry_weights = None
    if options.weights is not None:
        entry_weights = _source_of_weights(validation.checked_weights(options.weights, X), X, grid, roles)
    entries = entries_of(nmf, X)
    if column_weights is not None:
        entries = replace(entries or EntryWeights(), weights=column_weights)
    masked = (entries is not None and entries.masks) or entry_weights is not None or source.masked
    holdout = validation.checked_holdout(options.holdout)
    if holdout is not None:
        hidden = Holdout(holdout, seed, m, roles.transposed, index)
        entries = replace(entries or EntryWeights(), holdout=hidden)
    variant = Variant(
        masked=masked or holdout is not None,
        groups=None if entries is None else entries.groups,
        hidden=holdout is not None,
        hidden_columns=_hidden_columns(entries, source),
        column_weights=column_weights,
        fixed=fixed,
        sum_to_one=bool(nmf.sum_to_one),
        resampling=options.resampling and replace(options.resampling, seed=seed, rows=index),
    )

    row_bytes = data.row_bytes_of(source, dtype)
    init = validation.chosen_init(nmf, loss, source.shape, k, row_bytes, masked=variant.masked)
    totals = (n if a is None else float(a.sum()), m if b is None else float(b.sum()))
    model = Model(
        source.shape,
        k,
        dtype,
        loss,
        solver,
        init,
        seed,
        roles.penalties(Penalties.scaled(nmf.alpha_W, nmf.alpha_H, nmf.l1_ratio, totals)),
        nmf.inner_iter,
        row_bytes,
        nmf.shuffle,
        nmf.sample_bytes,
        streamed=not source.in_process,
        variant=variant,
        rows=index,
    )
    start = None
    if H is not None:
        H = _with_fixed(H, fixed)
        W = _first_W(X, H, loss, solver, entries_of(nmf, X), b) if W is None else W
        start = roles.start(W, H)
    known = features.Features(names, data.steps_of(X).get("scale"), b, source.layout)
    return Inputs(X, options, roles, source, grid, model, entries, row_weights, entry_weights, start, known)


def problem_of(nmf: BaseEstimator, inputs: Inputs) -> schema.Problem:
    """The problem of a fit; with a checkpoint, digests of arrays are computed for comparison with the run."""
    X, options, model, known = inputs.X, inputs.options, inputs.model, inputs.features
    variant, resampling = model.variant, model.variant.resampling

    def marked(array: object) -> str | None:
        """The digest of an array that was given; without a checkpoint, only that it was given."""
        if array is None:
            return None
        return "given" if inputs.store is None else digest(array)

    several = nmf.n_init > 1
    custom = inputs.start is not None
    parameters = schema.Parameters(
        n_components=model.k,
        init=model.init,
        solver=model.solver,
        beta_loss=model.loss.beta,
        random_state=int(nmf.random_state) if isinstance(nmf.random_state, Integral) else None,
        alpha_W=float(nmf.alpha_W),
        alpha_H=nmf.alpha_H if isinstance(nmf.alpha_H, str) else float(nmf.alpha_H),
        l1_ratio=float(nmf.l1_ratio),
        shuffle=bool(model.shuffle),
        inner_iter=model.inner_iter if isinstance(model.inner_iter, str) else int(model.inner_iter),
        n_init=int(nmf.n_init) if several else None,
        halving=bool(nmf.halving) if several else None,
        sample_bytes=int(model.sample_bytes) if model.init == "sample" else None,
        X_in_memory=None if model.loss.quadratic or model.inner_iter != "auto" else not model.streamed,
        fixed_components=marked(variant.fixed),
        sum_to_one=variant.sum_to_one or None,
        perturbation=None if resampling is None else resampling.described,
        W=marked(options.W) if custom else None,
        H=marked(options.H) if custom else None,
    )
    sample_weight, feature_weight = inputs.roles.swapped(inputs.row_weights, variant.column_weights)
    weights = None
    if inputs.entry_weights is not None:
        # Weights that are read with V are compared at every read, by sums of panels.
        weights = marked(options.weights) if inputs.entry_weights.in_process else "in chunks"
    identity = schema.Identity(
        shape=(int(X.shape[0]), int(X.shape[1])),
        dtype=model.dtype.str,
        transposed=inputs.roles.transposed,
        seed=model.seed,
        model=parameters,
        feature_names=None if known.names is None else features.digest(known.names),
        preparation=_record(X.described(), schema.Preparation) if isinstance(X, data.Prepared) else None,
        layout=None if known.layout is None else _record(known.layout.geometry(), schema.Geometry),
        entries=None if inputs.entries is None else described_entries(inputs.entries),
        sample_weight=marked(sample_weight),
        feature_weight=marked(feature_weight),
        weights=weights,
        mask=inputs.source.described_mask(),
        many=None if options.many is None else _record(options.many, schema.Many),
    )
    return schema.Problem(identity, schema.Budget(int(nmf.max_iter), float(nmf.tol)), environment())


def _record(fields: dict[str, Any], kind: type[T]) -> T:
    return converted(records.plain(fields), kind)


def entries_of(nmf: BaseEstimator, X: Matrix) -> EntryWeights | None:
    """The decoding and weights of the entries of X for an estimator; None: every entry is observed."""
    entries = X.entries if isinstance(X, data.Source) else None
    missing = nmf.missing_values
    if missing == "error":
        return entries
    validation.check_missing(missing, X)
    if validation.is_nan(missing):
        return replace(entries or EntryWeights(), nan=True)
    return replace(entries or EntryWeights(), nodata=float(missing))


def _hidden_columns(entries: EntryWeights | None, source: data.Source) -> np.ndarray | None:
    """Columns of the hidden block of a sparse V."""
    if entries is None or entries.holdout is None or not source.sparse:
        return None
    return entries.holdout.hidden_columns(source.shape[1])


def _source_of_weights(weights: Matrix, X: Matrix, grid: Grid, roles: Roles) -> data.Source:
    """The source of the weights of entries, cut into the panels of V."""
    if isinstance(weights, da.Array):
        if data.is_chunked(X):
            rows = tuple(int(rows) for rows in np.diff(grid.edges))
            weights = weights.rechunk({int(roles.transposed): rows})
        else:
            weights = weights.compute()
    return data.source_of(weights, transposed=roles.transposed)


def _first_W(
    X: Matrix,
    H: np.ndarray,
    loss: Loss,
    solver: str,
    entries: EntryWeights | None,
    weights: np.ndarray | None,
) -> Factor:
    """W for the H of a custom start, as `NMF.transform` finds it; lazy where X is chunked."""
    free = Penalties.scaled(0.0, 0.0, 0.0, X.shape).W
    coder = Coder(H, loss, free, tol=1e-4, max_iter=1000, entries=entries, weights=weights)
    W = by_rows(coder, X, "transform")
    if SOLVERS[solver].moves_zeros:
        return W
    return W.map_blocks(_floored, meta=W._meta) if isinstance(W, da.Array) else _floored(W)


def _floored(W: np.ndarray) -> np.ndarray:
    """W with small values in place of zeros, which multiplicative updates cannot change, row by row."""
    return np.maximum(W, W.dtype.type(1e-4) * W.max(axis=1, keepdims=True, initial=0))


def _with_fixed(H: np.ndarray, fixed: np.ndarray | None) -> np.ndarray:
    """H with its first rows replaced by the fixed components."""
    if fixed is None:
        return H
    H = H.copy()
    H[: len(fixed)] = fixed
    return H


def _drawn_seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
