"""A run at rest: its identity, its commits, and how it is resumed, pruned and opened.

::

    run            identity, budget, environment: written once (budget and environment: at each start)
    panels         the panel table: edges, and Σv of each panel once the first pass has read V
    W/<pass>-<epoch>        one generation of rows, one chunk per panel
    small/<pass>-<epoch>    H and the solver's small state of each model
    history/<pass>-<epoch>  what the pass achieved
    commit         one record, replaced by one atomic put: where to go on from
    lock           who writes

Everything but the commit is written under a name that is never used twice, and the commit is
written last. A process that dies at any moment leaves the previous commit with all that it names.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from typing import Any

import dask
import numpy as np
import zarr

from dasknmf.errors import RunDamagedError, RunError, RunLockedError, RunMismatchError
from dasknmf.history import History, Record, from_json, to_json
from dasknmf.panels import Grid
from dasknmf.store import records
from dasknmf.store.factors import Generation, MemoryFactors
from dasknmf.store.lock import Lock
from dasknmf.store.zarr_factors import ZarrFactors

FORMAT = 1


@dataclass(frozen=True)
class Position:
    """Where a run stands after its last commit."""

    passes: int = 0
    """Passes committed, of every phase."""
    start: int = 0
    """Start phases done."""
    iteration: int = 0
    """Exact passes done."""
    state: str = ""
    """Name of the pass that left the state."""
    rows: Generation | None = None
    """The live generation."""
    outcome: str | None = None
    """How the fit ended; None while it runs."""


class MemoryRun:
    """A run without a checkpoint, in this process."""

    def __init__(self) -> None:
        self.factors = MemoryFactors()
        self.position = Position()
        self.history = History()
        self.sums: tuple[float, ...] | None = None
        self.epoch = "memory"

    def commit(self, position: Position, record: Record | None, sums: tuple[float, ...] | None) -> None:
        before = self.position.rows
        if before and before != position.rows:
            self.factors.drop(before.name)
        self.position = position
        self.history = self.history.plus(record) if record else self.history
        self.sums = sums

    def forget(self, generation: Generation | None) -> None:
        """Delete rows that were written but not committed."""
        if generation:
            self.factors.drop(generation.name)

    def check_owner(self) -> None:
        """Nobody else can reach this memory."""

    def close(self) -> None:
        """Nothing is open."""


class StoredRun:
    """A run in a Zarr store that this process writes.

    Parameters
    ----------
    target : path, URL or zarr store
    identity, budget : dict
        What must match on resume, and what may change. JSON values only.
    grid : Grid
    dtype : numpy.dtype
        Of the factors.
    overwrite : bool
        Start over where the store holds a run.

    Raises
    ------
    RunMismatchError
        If the store holds another run, or something that is not a run.
    RunLockedError
        If another live process writes the run.
    RunDamagedError
        If a record is not as it was written.
    """

    def __init__(
        self,
        target: Any,
        identity: dict[str, Any],
        budget: dict[str, Any],
        grid: Grid,
        dtype: np.dtype,
        *,
        overwrite: bool,
    ) -> None:
        self.store = _writable(target)
        self._check_is_ours()
        self._lock = Lock(self.store)
        try:
            self.epoch = self._lock.token
            self.factors = ZarrFactors(self.store, len(grid), grid.rows_max, dtype)
            self.position = Position()
            self.history = History()
            self.sums: tuple[float, ...] | None = None
            self._segments: list[tuple[int, str]] = []
            about = None if overwrite else records.read(self.store, "run")
            if about is None:
                if not overwrite and records.read(self.store, "commit") is not None:
                    raise RunDamagedError(
                        f"the run at {str(self.store)!r} has commits but its record 'run' is missing; "
                        "without it nobody knows what was factorized: restore the store from a copy, or "
                        "start over with overwrite=True."
                    )
                self._begin(identity, budget, grid)
            else:
                self._resume(about, identity, budget)
        except BaseException:
            self._lock.release()
            raise

    def commit(self, position: Position, record: Record | None, sums: tuple[float, ...] | None) -> None:
        """Make a pass part of the run: from here on it cannot be lost.

        Without a record only the position changes: how the fit ended.

        Raises
        ------
        RunLockedError
            If another process has taken the run over.
        """
        self.check_owner()
        if sums is not None and self.sums is None:
            _write_sums(self.store, sums)
        if record is not None:
            name = f"{position.passes - 1}-{self.epoch}"
            records.write(self.store, f"history/{name}", to_json(record))
            if not self._segments or self._segments[-1][1] != self.epoch:
                self._segments.append((position.passes - 1, self.epoch))
        content = {
            "format": FORMAT,
            "epoch": self.epoch,
            "segments": self._segments,
            "has_sums": sums is not None,
            **asdict(position),
        }
        records.write(self.store, "commit", content)
        live = {each.name for each in (self.position.rows, position.rows) if each}
        self.position, self.sums = position, sums
        self.history = self.history.plus(record) if record else self.history
        self._prune(live)

    def check_owner(self) -> None:
        """Raise if another process has committed to the run since this one began.

        Raises
        ------
        RunLockedError
        """
        standing = records.read(self.store, "commit")
        if standing is None or standing["epoch"] == self.epoch:
            return
        ours = {epoch for _, epoch in self._segments}
        if standing["passes"] > self.position.passes or standing["epoch"] not in ours:
            raise RunLockedError(
                f"the run at {str(self.store)!r} was taken over by another process, which committed "
                f"pass {standing['passes']} since; a run has one writer: leave it to the other, its "
                "commits are sound."
            )

    @property
    def seed(self) -> int:
        """The seed that the run began with."""
        return int(self._identity["seed"])

    def forget(self, generation: Generation | None) -> None:
        """Delete rows that were written but not committed."""
        if generation:
            self.factors.drop(generation.name)

    def close(self) -> None:
        """Let others write."""
        self._lock.release()

    def _check_is_ours(self) -> None:
        """Never write into, or clear, a store that holds something else."""
        found = set(records.children(self.store, ""))
        ours = {"run", "panels", "W", "small", "history", "commit", "lock"}
        if found - ours or (found - {"lock"} and _format_of(self.store) is None):
            raise RunMismatchError(
                f"{str(self.store)!r} holds {sorted(found)[:5]}, which is not a run; a run needs a place "
                "of its own, and overwrite=True replaces runs only: choose another checkpoint."
            )

    def _begin(self, identity: dict[str, Any], budget: dict[str, Any], grid: Grid) -> None:
        # The commit goes first: a half-cleared run is then a run that has not begun.
        for path in ("commit", "run", "panels", "W", "small", "history"):
            records.delete(self.store, path)
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"dasknmf": {"format": FORMAT}},
        }
        records.put(self.store, "zarr.json", records.encoded(root))
        edges = zarr.create_array(
            self.store,
            name="panels/edges",
            shape=(len(grid.edges),),
            dtype="int64",
            chunks=(len(grid.edges),),
        )
        edges[...] = np.asarray(grid.edges)
        self._write_about(identity, budget)

    def _write_about(self, identity: dict[str, Any], budget: dict[str, Any]) -> None:
        self._identity = identity
        about = {"identity": identity, "budget": budget, "environment": environment()}
        records.write(self.store, "run", about)

    def _resume(self, about: dict[str, Any], identity: dict[str, Any], budget: dict[str, Any]) -> None:
        _check_identity(about["identity"], identity, str(self.store))
        self.position, self.history, self.sums, self._segments = _committed(self.store)
        if (self.position.outcome is not None) and about["budget"] != budget:
            # A finished run with another budget goes on from where it stopped.
            self.position = replace(self.position, outcome=None)
        self._write_about(about["identity"], budget)
        self._prune({self.position.rows.name} if self.position.rows else set())

    def _prune(self, live: set[str]) -> None:
        for name in records.children(self.store, "W"):
            if name not in live:
                self.factors.drop(name)


class Run:
    """A finished or running fit, read from its store.

    Attributes
    ----------
    H : ndarray of shape (n_components, n_features)
    W : dask.array.Array of shape (n_samples, n_components)
        Lazy; it reads the generation that was live when the run was opened, or raises.
    history : History
    params : dict
        Parameters of the model and of the run.
    status : str
        ``"running"``, ``"converged"`` or ``"max_iter"``.
    """

    def __init__(self, target: Any) -> None:
        try:
            self.store = records.opened(target, read_only=True)
            about = records.read(self.store, "run") if _format_of(self.store) is not None else None
        except FileNotFoundError:
            about = None
        if about is None:
            raise RunError(
                f"there is no run at {str(target)!r}; open_run takes the checkpoint of a fit: check the path."
            )
        self.identity: dict[str, Any] = about["identity"]
        self.params: dict[str, Any] = about["identity"]["model"] | about["budget"]
        self.environment: dict[str, Any] = about["environment"]
        self._position, self.history, self.sums, _ = _committed(self.store)
        self.status = self._position.outcome or "running"
        self.shape: tuple[int, int] = (about["identity"]["shape"][0], about["identity"]["shape"][1])
        self._transposed = bool(about["identity"]["transposed"])
        edges = np.asarray(zarr.open_array(self.store, path="panels/edges", mode="r")[...])
        self._grid = Grid(tuple(int(edge) for edge in edges))
        self._dtype = np.dtype(about["identity"]["dtype"])

    def __repr__(self) -> str:
        n, m = self.shape
        k = self.params["n_components"]
        return f"<Run {n} x {m}, {k} components, {self._position.iteration} passes, {self.status}>"

    @property
    def n_iter(self) -> int:
        """Exact passes done."""
        return self._position.iteration

    @property
    def W(self) -> Any:
        return self._factors_of_model()[0]

    @property
    def H(self) -> np.ndarray:
        return np.asarray(self._factors_of_model()[1])

    def _factors_of_model(self) -> tuple[Any, Any]:
        position = self._position
        if position.rows is None or "W" not in {name for _, name, _ in position.rows.widths}:
            raise RunError(
                f"the run at {str(self.store)!r} has not finished its start, it stands after "
                f"{position.passes} passes; factors exist from the first exact pass on: start the same "
                "fit again."
            )
        factors = ZarrFactors(self.store, len(self._grid), self._grid.rows_max, self._dtype)
        rows = rows_array(factors, position.rows, self._grid, self._dtype)
        small = factors.read_states(position.state)[0]["H"]
        return oriented(rows, small, transposed=self._transposed)


def rows_array(factors: Any, generation: Generation, grid: Grid, dtype: np.dtype) -> Any:
    """The rows of a generation as a Dask array, one chunk per panel, pinned to it."""
    import dask.array as da

    read = dask.delayed(_rows_of, pure=True)
    blocks = [
        da.from_delayed(
            read(factors, generation, panel.index, panel.n_rows),
            (panel.n_rows, generation.width),
            dtype=dtype,
        )
        for panel in grid
    ]
    return da.concatenate(blocks)


def _rows_of(factors: Any, generation: Generation, panel: int, n_rows: int) -> np.ndarray:
    return np.asarray(factors.read_rows(generation, panel, n_rows))


def oriented(rows: Any, small: np.ndarray, *, transposed: bool) -> tuple[Any, np.ndarray]:
    """W and H of the model, from the factor that lives in rows and the small one."""
    import dask.array as da

    if not transposed:
        return rows, small
    return da.from_array(np.ascontiguousarray(small.T)), np.ascontiguousarray(rows.compute().T)


def environment() -> dict[str, str]:
    """What made the numbers, for the log line on resume: nothing here has to match."""
    import numba
    import scipy
    import sklearn

    versions = {module.__name__: module.__version__ for module in (np, scipy, sklearn, numba, zarr, dask)}
    return versions | {"python": platform.python_version(), "machine": platform.machine()}


def _committed(
    store: Any,
) -> tuple[Position, History, tuple[float, ...] | None, list[tuple[int, str]]]:
    content = records.read(store, "commit")
    if content is None:
        return Position(), History(), None, []
    if content["format"] > FORMAT:
        raise RunDamagedError(
            f"the run at {str(store)!r} has format {content['format']}; this version reads up to "
            f"{FORMAT}: upgrade dasknmf."
        )
    segments = [(int(first), str(epoch)) for first, epoch in content["segments"]]
    rows = content["rows"]
    if rows is not None:
        widths = tuple((int(m), str(n), int(c)) for m, n, c in rows["widths"])
        rows = Generation(rows["name"], widths)
    position = Position(
        content["passes"],
        content["start"],
        content["iteration"],
        content["state"],
        rows,
        content["outcome"],
    )
    history = []
    for index in range(position.passes):
        epoch = [epoch for first, epoch in segments if first <= index][-1]
        record = records.read(store, f"history/{index}-{epoch}")
        if record is None:
            raise RunDamagedError(
                f"the history of pass {index} of the run at {str(store)!r} is missing; the commit names "
                "it: restore the store from a copy, or start over with overwrite=True."
            )
        history.append(from_json(record))
    sums = _read_sums(store) if content["has_sums"] else None
    return position, History(history), sums, segments


def _check_identity(stored: dict[str, Any], asked: dict[str, Any], where: str) -> None:
    models = stored["model"], asked["model"]
    # A seed that is not asked for is the one that was drawn.
    free = {"random_state"} if asked["model"].get("random_state") is None else set()
    differences = _differences(*models, free) + _differences(stored, asked, {"model", "seed"})
    if differences:
        raise RunMismatchError(
            f"the run at {where!r} is another one: {'; '.join(differences)}. A run goes on only with the "
            "same V and the same model: repeat these, choose another checkpoint, or start over with "
            "overwrite=True."
        )


def _differences(was: dict[str, Any], now: dict[str, Any], free: set[str]) -> list[str]:
    return [
        f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
        for name in sorted((was.keys() | now.keys()) - free)
        if was.get(name) != now.get(name)
    ]


def _format_of(store: Any) -> int | None:
    raw = records.get(store, "zarr.json")
    if raw is None:
        return None
    try:
        return int(records.decoded(raw)["attributes"]["dasknmf"]["format"])
    except (ValueError, KeyError, TypeError):
        return None


def _write_sums(store: Any, sums: tuple[float, ...]) -> None:
    array = zarr.create_array(
        store,
        name="panels/sums",
        shape=(len(sums),),
        chunks=(len(sums),),
        dtype="float64",
        fill_value=np.nan,
        overwrite=True,
    )
    array[...] = np.asarray(sums)
    records.make_durable(store, "panels/sums/c/0")


def _read_sums(store: Any) -> tuple[float, ...]:
    values = np.asarray(zarr.open_array(store, path="panels/sums", mode="r")[...])
    return tuple(float(value) for value in values)


def _writable(target: Any) -> Any:
    try:
        store = records.opened(target)
        records.children(store, "")
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"the checkpoint {str(target)!r} cannot be opened ({error}); it must be a directory or a "
            "store that this process can write: check the path, its permissions and the free space."
        ) from error
    if store.read_only:
        raise RunError(
            f"the checkpoint {str(target)!r} is read-only; a fit writes every pass to it: open it for "
            "writing or choose another."
        )
    return store
