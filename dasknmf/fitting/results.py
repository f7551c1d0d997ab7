"""What a fitted `NMF` knows: its attributes, from a run that has ended or from one that is opened."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dasknmf.core.history import Ending, History
from dasknmf.core.panels import Grid
from dasknmf.core.solvers.quadratic import SUM_WEIGHT
from dasknmf.fitting.problem import spawned
from dasknmf.store.run import Run, oriented, unobserved


def take_fit(nmf: Any, run: Any, grid: Grid, *, transposed: bool, init: str, seed: int) -> Any:
    """Set the attributes of a fit that has just ended, and warn of what a user should know.

    Returns
    -------
    W : dask.array.Array of shape (n_samples, n_components)
        Lazily over the factors of the run.
    """
    position, history = run.progress, run.history
    answer = position.location
    state = run.factors.read_state(answer.state, answer.phase_index)
    W, H = oriented(run.factors, answer, grid, transposed=transposed)
    nmf.components_ = H
    nmf.n_components_ = len(H)
    nmf.init_ = init
    nmf.n_iter_ = position.best.iteration
    nmf.n_reads_ = history.reads
    nmf.history_ = history
    nmf.start_seeds_ = np.array(spawned(seed, nmf.n_init))
    nmf.start_losses_ = start_losses(history, nmf.n_init)
    nmf.best_start_ = position.best.model
    nmf.sum_of_squares_ = float(state["squares"])
    nmf.mean_row_square_ = float(state["sum_to_one_weight"]) / SUM_WEIGHT
    nmf.reconstruction_err_ = float(np.sqrt(2 * max(history[-1].loss, 0.0)))
    _tell_unobserved(nmf, state, transposed=transposed)
    usage = state.get("usage", np.ones(len(H)))  # a start has not counted it
    nmf.dead_components_ = np.flatnonzero((usage == 0) | (state["H"].max(axis=1) == 0))
    if len(nmf.dead_components_):
        warnings.warn(
            f"components {nmf.dead_components_.tolist()} of {len(H)} are zero throughout; they add "
            "nothing to WH: ask for fewer components, or give another init or random_state.",
            UserWarning,
            stacklevel=4,
        )
    if position.outcome == Ending.MAX_ITER.value and nmf.tol > 0:
        warnings.warn(
            f"Maximum number of iterations {nmf.max_iter} reached. Increase it to improve convergence.",
            ConvergenceWarning,
            stacklevel=4,
        )
    return W


def start_losses(history: History, n_init: int) -> np.ndarray:
    """The last D(V | WH) that is known of each start, shape (n_init,)."""
    losses = np.full(n_init, np.nan)
    for record in history:
        if record.phase == "evaluation":
            continue  # of a conclusion, which is none of the starts
        if not record.models and record.loss is not None:
            losses[0] = record.loss
        for advance in record.models:
            losses[advance.model] = np.nan if advance.loss is None else advance.loss
    return losses


def _tell_unobserved(nmf: Any, state: Any, *, transposed: bool) -> None:
    counts = unobserved(state, transposed=transposed)
    nmf.n_unobserved_samples_, nmf.n_unobserved_features_ = counts
    if any(counts):
        warnings.warn(
            f"{nmf.n_unobserved_samples_} rows and {nmf.n_unobserved_features_} columns of X have "
            "nothing observed; theirs of W and H are zero: leave them out, or see what is missing.",
            UserWarning,
            stacklevel=5,
        )


def parameters_of(run: Run, known: Iterable[str]) -> dict[str, Any]:
    """The parameters of `NMF` with which a run was made, as far as it tells them."""
    told = {name: value for name, value in run.params.items() if name in known}
    told["n_components"] = run.n_components
    told.pop("fixed_components", None)  # a digest: the rows are among those of H
    entries = run.identity.get("entries", {})
    if "nan" in entries:
        told["missing_values"] = "nan"
    elif isinstance(entries.get("nodata"), float):
        told["missing_values"] = entries["nodata"]
    return told


def take_run(nmf: Any, run: Run) -> Any:
    """Set the attributes that a run tells; `nmf` itself."""
    nmf.components_ = run.H
    nmf.n_components_ = len(run.H)
    nmf.n_features_in_ = run.shape[1]
    nmf.init_ = run.params["init"]
    nmf.n_iter_ = run.n_iter
    nmf.n_reads_ = run.history.reads
    nmf.history_ = run.history
    nmf.sum_of_squares_ = run.sum_of_squares
    nmf.mean_row_square_ = run.sum_to_one_weight / SUM_WEIGHT
    nmf.preparation_ = run.preparation
    nmf.feature_weight_ = run.feature_weight
    if run.feature_names is not None:
        nmf.feature_names_in_ = run.feature_names
    return nmf
