"""A run that this process writes to a Zarr store: begun or resumed, committed, pruned.

::

    run            identity, written once; budget and environment, written at each start
    panels         the panel table: edges, and Σv of each panel once the first pass has read V
    W/<pass>-<writer_id>        one version of rows, one chunk per panel
    small/<pass>-<writer_id>    H and the solver's small state of each model
    history/<pass>-<writer_id>  loss, time and bytes of the pass
    features       names of the features, where V has them, and their scale
    layout         where rows and columns lie in a stack of images, where V is one
    selection      results of a sweep or a consensus
    plan           how V is stored, and the memory and processes of the passes of this start
    commit         progress of the run: one record, replaced by one atomic put
    lock           the process that writes

A pass writes under a name that is never used twice, and its commit comes last. If the process dies,
the previous commit and all factors that it names are intact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import numpy as np
from msgspec.structs import replace
from zarr.abc.store import Store
from zarr.storage import LocalStore

from dasknmf.core.history import History, Record
from dasknmf.core.image_grid import Layout
from dasknmf.core.panels import Grid
from dasknmf.errors import (
    RunAccessError,
    RunDamagedError,
    RunLockedError,
    RunMismatchError,
    UnavailableError,
)
from dasknmf.io import atomic
from dasknmf.io.retry import without_retries
from dasknmf.store import arrays, image_grid, keys, records, selection
from dasknmf.store import features as described
from dasknmf.store.convert import converted, parsed
from dasknmf.store.factors import pass_of
from dasknmf.store.lock import Lock
from dasknmf.store.mismatch import check_identity, differences
from dasknmf.store.place import unopened
from dasknmf.store.progress import Commit, Progress, committed, format_of, read_grid, read_run
from dasknmf.store.schema import FORMAT, Plan, Problem
from dasknmf.store.zarr_factors import ZarrFactors

log = logging.getLogger("dasknmf")

_PARTS = (
    "commit",
    "run",
    "panels",
    "features",
    "layout",
    "plan",
    "W",
    "small",
    "history",
    "selection",
)
_NO_FEATURES = described.Features()


class StoredRun:
    """A run in a Zarr store that this process writes.

    Parameters
    ----------
    store : zarr store
        A store opened by `writable`.
    problem : Problem
        The problem; its identity must match the stored run, its budget may differ.
    grid : Grid
    overwrite : bool
        Whether a run in the store is replaced.
    features : Features
        Names of the features, their scale, and where they lie in a stack of images.

    Raises
    ------
    RunMismatchError
        If the store holds another run, or something that is not a run.
    RunLockedError
        If another live process writes the run.
    RunDamagedError
        If a record is altered.
    """

    def __init__(
        self,
        store: Store,
        problem: Problem,
        grid: Grid,
        *,
        overwrite: bool,
        features: described.Features = _NO_FEATURES,
    ) -> None:
        self.store = store
        if (place := keys.local_path(store, "")) is not None:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unopened(store, error) from error
        self._check_content(overwrite=overwrite)
        self._lock = Lock(self.store)
        # Versions are deleted during the next pass, as a deletion takes as long as a commit.
        self._pruner = ThreadPoolExecutor(1, "dasknmf-prune")
        self._pruning: Future[None] = self._pruner.submit(lambda: None)
        self._discarded = False
        try:
            self.writer_id = self._lock.token
            # Checked by the types of the schema, so that every written record can be read again.
            self.problem = converted(parsed(records.encoded(records.plain(problem))), Problem)
            identity = self.problem.identity
            self.factors = ZarrFactors(self.store, grid, identity.n_columns, np.dtype(identity.dtype))
            self.progress = Progress()
            self.history = History()
            self.sums: tuple[float, ...] | None = None
            self._segments: list[tuple[int, str]] = []
            self._committed_by: str | None = None
            self._budget_is_new = False
            """Whether the budget differs from the stored one, which the next commit replaces."""
            about = None if overwrite else read_run(self.store)
            if about is None:
                if not overwrite and records.read_record(self.store, "commit", Commit) is not None:
                    raise records.damaged(self.store, "run", "it is missing, and there are commits")
                self._begin(grid, features)
            else:
                described.check(self.store, about.identity, features)
                self._resume(about, grid, features.layout)
        except BaseException:
            self.close()
            raise

    def commit(self, progress: Progress, record: Record | None, sums: tuple[float, ...] | None) -> None:
        """Commit a pass durably; without a record, commit the ending of the fit.

        Raises
        ------
        RunLockedError
            If another process has taken the run over.
        RunAccessError, UnavailableError
            If the store refuses or does not answer; the last commit remains valid.
        """
        if sums is not None and self.sums is None:
            self.check_owner()
            arrays.write_array(self.store, "panels/sums", np.asarray(sums))
        if record is not None:
            name = f"{progress.passes - 1}-{self.writer_id}"
            records.write_record(self.store, f"history/{name}", record)
            if not self._segments or self._segments[-1][1] != self.writer_id:
                self._segments.append((progress.passes - 1, self.writer_id))
        try:
            for version in progress.versions - self.progress.versions:
                keys.flush_names(self.store, f"W/{version}")
        except RunAccessError:
            self.check_owner()  # another writer may have deleted the rows
            raise
        live = self.progress.versions | progress.versions
        states = self.progress.states | progress.states  # by name: the states of a pass are deleted together
        self.progress, self.sums = progress, sums
        self.history = self.history.plus(record) if record else self.history
        # The owner is checked before every attempt, so that little time remains for another to take over.
        self._write_commit(unless=self._check_owner_once)
        if self._budget_is_new:
            # After the commit: if this process dies in between, the old budget is still stored.
            records.write_record(self.store, "run", self.problem)
            self._budget_is_new = False
        # The states of one model are small and kept; those of a sweep would soon be larger than V.
        self._pruning.result()  # so that at most one version waits on the disk to be deleted
        unneeded = states if len(progress.models) > 1 else None
        # In this context, so that its retries are counted.
        self._pruning = self._pruner.submit(copy_context().run, self._prune, live, unneeded)

    def check_owner(self) -> None:
        """Raise an error if another process has taken the lock or committed since this process began.

        Raises
        ------
        RunLockedError
        """
        keys.with_retries(self.store, "commit", "read", self._check_owner_once)

    def _check_owner_once(self) -> None:
        """As `check_owner`, in one attempt and with the errors of the store."""
        raw = keys.get_once(self.store, f"commit/{keys.META}", records.MOST_DOCUMENT)
        current = None if raw is None else records.decoded(self.store, "commit", raw, Commit)
        # A commit that raised an error may have been written.
        ours = (self._committed_by, self.writer_id)
        if (current and current.writer_id) not in ours or not self._lock.is_held_once():
            raise RunLockedError(
                f"the run at {str(self.store)!r} was taken over by another process, or its lock was removed; "
                "a run has one writer: let the other process continue, or stop it and repeat the same call."
            )

    def plan(self, plan: Plan) -> None:
        """Write the plan of the coming passes; a resumed run may have another."""
        records.write_record(self.store, "plan", plan)

    def write_findings(self, content: dict[str, Any], values: dict[str, np.ndarray]) -> None:
        """Write findings about all models: JSON values, and arrays by name."""
        self.check_owner()
        selection.write_findings(self.store, content, values, self.progress.passes)

    @property
    def found(self) -> dict[str, Any] | None:
        """The findings; None if there are none, or models were updated later."""
        return selection.read_findings(self.store, self.progress, self.problem.identity)

    @property
    def concluded(self) -> bool:
        """Whether the conclusion of the run was made from the findings in the store."""
        return selection.concluded(self.store, self.progress)

    def discard(self) -> None:
        """Delete a run that has committed nothing, unless another process has taken it over."""
        try:
            self.check_owner()
        except RunLockedError:
            return
        self._clear()
        keys.delete_key(self.store, "zarr.json")
        self._discarded = True

    def close(self) -> None:
        """Release the lock."""
        self._pruner.shutdown()
        self._lock.release()
        if self._discarded and isinstance(self.store, LocalStore):
            with suppress(OSError):  # something else is in it
                self.store.root.rmdir()

    def _check_content(self, *, overwrite: bool) -> None:
        """Raise an error if the store holds anything but a run."""
        found = {name for name in keys.children(self.store, "") if not name.endswith(atomic.SPARE)}
        foreign = found - {*_PARTS, "lock"}
        if not foreign and (not found - {"lock"} or format_of(self.store) is not None):
            return
        if not foreign and self._has_begun():
            if overwrite:
                return
            raise records.damaged(self.store, "zarr.json", "it is missing, or does not belong to a run")
        raise RunMismatchError(
            f"{str(self.store)!r} contains {sorted(found)[:5]} and is not a run; a run needs a place "
            "of its own, and overwrite=True replaces runs only: choose another checkpoint."
        )

    def _has_begun(self) -> bool:
        with suppress(RunDamagedError):
            return records.read_record(self.store, "run", Problem) is not None
        return False

    def _begin(self, grid: Grid, features: described.Features) -> None:
        self._clear()
        root = {"zarr_format": 3, "node_type": "group", "attributes": {"dasknmf": {"format": FORMAT}}}
        keys.put(self.store, "zarr.json", records.encoded(root))
        if (place := keys.local_path(self.store, "")) is not None:
            atomic.flush_names(place.parent)
        arrays.write_array(self.store, "panels/edges", np.asarray(grid.edges, np.int64))
        described.write_features(self.store, features)
        image_grid.write_layout(self.store, features.layout)
        records.write_record(self.store, "run", self.problem)

    def _clear(self) -> None:
        # The commit is deleted first: a partly deleted run is then a run that has not begun.
        for path in _PARTS:
            keys.delete(self.store, path)

    def _resume(self, about: Problem, grid: Grid, layout: Layout | None) -> None:
        check_identity(about.identity, self.problem.identity, str(self.store))
        self.problem = replace(self.problem, identity=about.identity)
        _check_grid(read_grid(self.store, about.identity), grid, str(self.store))
        image_grid.check(self.store, about.identity, layout)
        changed = differences(about.environment, self.problem.environment, set())
        if changed:
            log.info(
                "%s is resumed with other libraries, so that results agree up to rounding: %s",
                self.store,
                "; ".join(changed),
            )
        found = committed(self.store, about.identity)
        self.progress, self.history, self.sums = found.progress, found.history, found.sums
        self._segments = list(found.segments)
        if self.progress.passes:
            # The first write: a suspended writer will then find another writer_id.
            self._write_commit()
        self._prune(self.progress.versions, None)
        if about.budget == self.problem.budget:
            records.write_record(self.store, "run", self.problem)
            return
        # A finished run with another budget continues. In the store the run stays finished until the next
        # commit, as the next pass may find that V is another.
        self.progress = replace(self.progress, outcome=None, conclusion=None)
        self._budget_is_new = True

    def _write_commit(self, unless: Callable[[], None] | None = None) -> None:
        commit = Commit(self.writer_id, tuple(self._segments), self.sums is not None, self.progress)
        records.write_record(self.store, "commit", commit, unless=unless)
        self._committed_by = self.writer_id

    def _prune(self, live: Collection[str], states: Mapping[str, Collection[int]] | None) -> None:
        """Delete versions that are not live, except those of the running pass.

        A version that cannot be deleted now is deleted after a later pass.
        """
        newest = max((pass_of(name) for name in live), default=-1)
        try:
            with without_retries():
                self.check_owner()  # another owner may need other versions
                for name in keys.children(self.store, "W"):
                    if name not in live and pass_of(name) <= newest:
                        self.factors.drop(name)
                if states is not None:
                    self.factors.forget_states(states)
        except (RunAccessError, RunLockedError, UnavailableError) as error:
            log.warning("files that the run no longer needs could not be deleted yet: %s", error)


def _check_grid(stored: Grid, grid: Grid, where: str) -> None:
    if stored != grid:
        raise RunMismatchError(
            f"the run at {where!r} cuts V into {len(stored)} panels (blocks of rows), and V is now cut into "
            f"{len(grid)} other panels; panels follow the chunks of V: give V with its former chunks, choose "
            "another checkpoint, or start over with overwrite=True."
        )
