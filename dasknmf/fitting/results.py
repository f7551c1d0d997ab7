"""The attributes of a fitted `NMF`, from a session that has ended or from a stored run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from dasknmf import data
from dasknmf.core.history import Ending, History
from dasknmf.core.solvers.quadratic import SUM_WEIGHT
from dasknmf.core.state import FactorState, State
from dasknmf.core.text import counted
from dasknmf.fitting.problem import start_seeds
from dasknmf.fitting.session import Session
from dasknmf.fitting.transform import sums_warning
from dasknmf.store.run import Run

if TYPE_CHECKING:
    import dask.array as da


def set_from_session(nmf: BaseEstimator, session: Session) -> da.Array:
    """Set the attributes of a fit that has ended, and issue its warnings.

    Returns
    -------
    W : dask.array.Array of shape (n_samples, n_components)
        Lazy, backed by the factors of the run.
    """
    run, inputs = session.run, session.inputs
    progress, history, location = run.progress, run.history, run.progress.location
    state = FactorState.checked(run.factors.read_state(location.state, location.phase_index))
    W, H = inputs.roles.factors(run.factors, location, inputs.grid)
    _set(nmf, H, history, state)
    nmf.feature_weight_ = inputs.features.weight
    nmf.init_ = inputs.model.init
    nmf.n_iter_ = progress.best.iteration
    nmf.start_seeds_ = np.array(start_seeds(inputs.model.seed, nmf.n_init))
    nmf.start_losses_ = start_losses(history, nmf.n_init)
    nmf.best_start_ = progress.best.model
    nmf.reconstruction_err_ = float(np.sqrt(2 * max(history[-1].loss or 0.0, 0.0)))
    nmf.preparation_ = data.steps_of(inputs.X)
    nmf.n_unobserved_samples_, nmf.n_unobserved_features_ = inputs.roles.unobserved(state)
    usage = np.ones(len(H)) if state.usage is None else state.usage  # unknown after a start
    nmf.dead_components_ = np.flatnonzero((usage == 0) | (state.factor.max(axis=1) == 0))
    weights = inputs.row_weights
    n_rows = W.shape[0] - nmf.n_unobserved_samples_ if weights is None else float(weights.sum())
    for message, category in _warnings(nmf, progress.outcome, n_rows, state.usage):
        warnings.warn(message, category, stacklevel=4)
    return W


def _set(nmf: BaseEstimator, H: np.ndarray, history: History, state: State) -> None:
    nmf.components_ = H
    nmf.n_components_ = len(H)
    nmf.n_reads_ = int(history.reads)
    nmf.history_ = history
    nmf.sum_of_squares_ = state.squares
    nmf.mean_row_square_ = state.sum_to_one_weight / SUM_WEIGHT


def _warnings(
    nmf: BaseEstimator, outcome: str | None, n_rows: float, usage: np.ndarray | None
) -> Iterator[tuple[str, type[Warning]]]:
    """Messages and categories of the warnings about a fit; `usage`: sums of W's columns."""
    if nmf.n_unobserved_samples_ or nmf.n_unobserved_features_:
        counts = (nmf.n_unobserved_samples_, "row"), (nmf.n_unobserved_features_, "column")
        found = " and ".join(counted(count, noun) for count, noun in counts if count)
        message = (
            f"X has {found} without any observed entry; W or H is zero there: leave these out, or check the "
            "missing values and the mask."
        )
        yield message, UserWarning
    if nmf.sum_to_one and usage is not None and (sums := sums_warning(float(usage.sum()), n_rows)):
        yield sums, UserWarning
    if len(nmf.dead_components_):
        message = (
            f"components {nmf.dead_components_.tolist()} of {nmf.n_components_} are zero throughout; they "
            "add nothing to WH: fit fewer components, or give another init or random_state."
        )
        yield message, UserWarning
    if outcome == Ending.MAX_ITER.value and nmf.tol > 0:
        message = f"Maximum number of iterations {nmf.max_iter} reached. Increase it to improve convergence."
        gain = nmf.history_.exact[-1].change
        if gain is not None:
            message += f" The last pass lowered the objective by a share of {max(gain, 0):.2g}"
            message += f"; tol is {nmf.tol:g}: raise it where that is enough." if gain > nmf.tol else "."
        yield message, ConvergenceWarning


def start_losses(history: History, n_init: int) -> np.ndarray:
    """The last known D(V | WH) of each start, shape (n_init,)."""
    losses = np.full(n_init, np.nan)
    for record in history:
        if record.phase == "final":
            continue  # a final pass belongs to no start
        if not record.models and record.loss is not None:
            losses[0] = record.loss
        for advance in record.models:
            losses[advance.model] = np.nan if advance.loss is None else advance.loss
    return losses


def parameters_of(run: Run, known: Iterable[str]) -> dict[str, Any]:
    """The parameters of `NMF` that a run stores."""
    parameters = {name: value for name, value in run.params.items() if name in known}
    parameters["n_components"] = run.n_components
    parameters.pop("fixed_components", None)  # a digest: the rows are among those of H
    entries = run.identity.entries
    if entries is not None and entries.nan is not None:
        parameters["missing_values"] = "nan"
    elif entries is not None and isinstance(entries.nodata, float):
        parameters["missing_values"] = entries.nodata
    return parameters


def set_from_run(nmf: BaseEstimator, run: Run) -> Any:
    """Set the attributes that a run stores, and return `nmf`."""
    _set(nmf, run.H, run.history, run.state)
    nmf.feature_weight_ = run.feature_weight
    nmf.n_features_in_ = run.shape[1]
    nmf.init_ = run.params["init"]
    nmf.n_iter_ = run.n_iter
    nmf.preparation_ = run.preparation
    nmf.n_unobserved_samples_ = run.n_unobserved_samples
    nmf.n_unobserved_features_ = run.n_unobserved_features
    if run.feature_names is not None:
        nmf.feature_names_in_ = run.feature_names
    return nmf
