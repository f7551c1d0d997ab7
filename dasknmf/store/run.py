"""A run, read from its store: W, H and history of a fit."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from msgspec import to_builtins
from zarr.storage import StoreLike

from dasknmf.core.html_repr import card, progress_facts
from dasknmf.core.image_grid import Layout
from dasknmf.core.state import FactorState, State
from dasknmf.core.text import counted
from dasknmf.errors import RunError
from dasknmf.store import features, image_grid, keys, records, selection
from dasknmf.store import lock as locks
from dasknmf.store.progress import committed, read_grid, read_run
from dasknmf.store.raster import in_raster_order
from dasknmf.store.roles import Roles
from dasknmf.store.schema import Identity, Plan
from dasknmf.store.zarr_factors import ZarrFactors


class Run:
    """A fit in a checkpoint, finished or running; opened by `open_run`.

    A run shows the fit as it was when the run was opened: open it again to see later passes.

    Attributes
    ----------
    H : ndarray of shape (n_components, n_features)
    W : dask.array.Array of shape (n_samples, n_components)
        Lazy. Its chunks raise `RunDamagedError` once the fit has replaced the version that they belong to.
        Of a stack of images, rows are in raster order.
    rows : dask.array.Array of shape (n_samples, n_components)
        W in the order in which V is read: of a stack of images, tile by tile.
    history : History
        One record for each pass.
    params : dict
        Parameters of the model, `max_iter` and `tol`.
    status : str
        ``"running"``, ``"converged"`` or ``"max_iter"``.
    shape : tuple of int
        n_samples and n_features.
    n_components, n_iter : int
        Rows of H; exact passes done.
    concluded : bool
        Whether W and H were computed from many factorizations.
    feature_names : ndarray of shape (n_features,) or None
        Names of the columns of H, where V had names.
    layout : Layout or None
        For a stack of images, the positions of rows and columns of V: ``layout.images(W)``,
        ``layout.spectra(H)``.
    preparation : dict
        For `Prepared` data, the steps of every read: `target_sum`, `log1p`, and `scale`, the divisor of each
        column; otherwise empty.
    feature_weight : ndarray of shape (n_features,) or None
        The weight of each feature, where weights were given.
    sum_of_squares : float
        Σ v².
    n_passes : int
        Passes that were committed, with those of the start and the evaluation.
    writer : str or None
        The process that is writing the run; None if the run is finished or was interrupted.
    identity : Identity
        The values that must match when the fit is resumed.
    environment : dict of str
        Versions of the libraries that wrote the run.
    plan : Plan or None
        Storage of V, `memory_projected` and `memory_limit` (bytes, of one process), `processes`, `threads`,
        `scheduler`; None if the run has no plan.
    shares : ndarray of shape (n_components,)
        The share of each component in Σ WH; they add to 1, or are all zero where WH is.
    dead_components : ndarray of int
        Components whose row of H or column of W is zero throughout.
    n_unobserved_samples, n_unobserved_features : int
        Rows and columns of V without an observed entry; their rows of W and columns of H are zero.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dasknmf import NMF, open_run
    >>> V = np.random.default_rng(0).random((60, 8))
    >>> with tempfile.TemporaryDirectory() as checkpoint:
    ...     model = NMF(2, random_state=0, tol=0, max_iter=5).fit(V, checkpoint=checkpoint)
    ...     run = open_run(checkpoint)
    ...     W = run.W.compute()
    ...     assert np.array_equal(run.H, model.components_)
    >>> run
    <Run 60 x 8, 2 components, 5 exact passes, max_iter>
    >>> W.shape
    (60, 2)
    """

    def __init__(self, target: StoreLike) -> None:
        self.store = keys.opened(target, read_only=True)
        about = read_run(self.store)
        if about is None:
            raise RunError(
                f"there is no run at {str(target)!r}; open_run takes the checkpoint of a fit: check the path."
            )
        self.identity: Identity = about.identity
        self.params: dict[str, Any] = to_builtins(about.identity.model) | to_builtins(about.budget)
        self._roles = Roles(about.identity.transposed)
        self.environment = about.environment
        found = committed(self.store, about.identity)
        self.progress, self.history, self.sums = found.progress, found.history, found.sums
        self.status: str = found.progress.outcome or "running"
        self.shape = about.identity.shape
        self.n_iter, self.n_passes = found.progress.iteration, found.progress.passes
        self.concluded = found.progress.conclusion is not None
        self._grid = read_grid(self.store, about.identity)

    def __repr__(self) -> str:
        n, m = self.shape
        k = self.n_components
        passes = counted(self.progress.iteration, "exact pass", "es")
        return f"<Run {n} x {m}, {counted(k, 'component')}, {passes}, {self.status}>"

    def _repr_html_(self) -> str:
        n, m = self.shape
        status = self.status
        if status == "running":
            status = f"running, {self.writer}" if self.writer else "interrupted: repeat the call to resume"
        facts = [
            ("V", f"{n:,} × {m:,}"),
            ("components", str(self.n_components)),
            ("status", status),
            *progress_facts(self.history, self.n_iter),
        ]
        return card("dasknmf run", facts, self.history)

    @property
    def n_components(self) -> int:
        """Number of rows of H; of unfinished factorizations with several ranks, the largest."""
        concluded = self.progress.conclusion
        if concluded is None or concluded.rows is None:
            return int(self.params["n_components"])
        return concluded.rows.widths[0][2]

    @property
    def W(self) -> Any:
        return self.rows if self.layout is None else in_raster_order(self.rows, self.layout)

    @property
    def rows(self) -> Any:
        return self._factors_of_model()[0]

    @property
    def H(self) -> np.ndarray:
        return np.asarray(self._factors_of_model()[1])

    @cached_property
    def feature_names(self) -> np.ndarray | None:
        return features.read_names(self.store, self.identity)

    @cached_property
    def layout(self) -> Layout | None:
        return image_grid.read_layout(self.store, self.identity)

    @cached_property
    def preparation(self) -> dict[str, Any]:
        return features.read_preparation(self.store, self.identity)

    @property
    def feature_weight(self) -> np.ndarray | None:
        return features.read_weight(self.store, self.identity)

    @property
    def sum_of_squares(self) -> float:
        return self.state.squares

    @property
    def factors(self) -> ZarrFactors:
        """The factor store."""
        one = self.identity
        return ZarrFactors(self.store, self._grid, one.n_columns, np.dtype(one.dtype))

    @property
    def found(self) -> dict[str, Any] | None:
        """The findings about many factorizations, once the factors were made from them."""
        if not selection.concluded(self.store, self.progress):
            return None
        return selection.read_findings(self.store, self.progress, self.identity)

    @property
    def writer(self) -> str | None:
        return locks.writer(self.store)

    @cached_property
    def plan(self) -> Plan | None:
        return records.read_record(self.store, "plan", Plan)

    @property
    def shares(self) -> np.ndarray:
        # Where V was read by columns, the factor of the state is Wᵀ, and the sums are of H.
        usage, other = self._usage
        parts = usage * other
        total = float(parts.sum())
        return parts / total if total else parts

    @property
    def dead_components(self) -> np.ndarray:
        usage, other = self._usage
        return np.flatnonzero((usage == 0) | (other == 0))

    @property
    def n_unobserved_samples(self) -> int:
        return self._unobserved[0]

    @property
    def n_unobserved_features(self) -> int:
        return self._unobserved[1]

    @cached_property
    def _unobserved(self) -> tuple[int, int]:
        return self._roles.unobserved(self.state) if self.n_passes else (0, 0)

    @property
    def _usage(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of each component over the left and over the right factor of V, shape (n_components,) each."""
        self._check_has_factors()
        state = FactorState.checked(self.state)
        other = state.factor.sum(axis=1, dtype=np.float64)
        # Unknown after a start.
        return np.ones(len(other)) if state.usage is None else state.usage, other

    @property
    def state(self) -> State:
        """The small state of the result, with H."""
        location = self.progress.location
        return self.factors.read_state(location.state, location.phase_index)

    def _factors_of_model(self) -> tuple[Any, np.ndarray]:
        self._check_has_factors()
        return self._roles.factors(self.factors, self.progress.location, self._grid)

    def _check_has_factors(self) -> None:
        if self.progress.location.rows is None and self.identity.many is not None:
            raise RunError(
                f"the run at {str(self.store)!r} is a sweep or a consensus, whose W is written at the end, "
                f"and has done {counted(self.progress.passes, 'pass', 'es')}: wait for the end, or repeat "
                "the same call to resume."
            )
        # Rows that a start writes may belong to a sketch instead of W.
        has_H = isinstance(self.state, FactorState) and self.state.H is not None
        if self.progress.location.rows is None or not has_H:
            raise RunError(
                f"the run at {str(self.store)!r} has not finished its start, and has done "
                f"{counted(self.progress.passes, 'pass', 'es')}; W and H exist after the first exact pass: "
                "wait for it, or repeat the same call to resume."
            )


def open_run(target: StoreLike) -> Run:
    """The run at a checkpoint: W, H and history of a fit, finished or not.

    Parameters
    ----------
    target : path, URL or Zarr store
        The `checkpoint` of ``NMF.fit``, of `rank_sweep`, `consensus` or ``dasknmf fit``.

    Returns
    -------
    run : Run

    Raises
    ------
    RunError
        If there is no run.
    RunDamagedError
        If a record is damaged, or was written by a version with another format.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dasknmf import NMF, open_run
    >>> V = np.random.default_rng(0).random((60, 8))
    >>> with tempfile.TemporaryDirectory() as checkpoint:
    ...     model = NMF(2, random_state=0, tol=0, max_iter=5).fit(V, checkpoint=checkpoint)
    ...     print(open_run(checkpoint).status)
    max_iter
    """
    return Run(target)
