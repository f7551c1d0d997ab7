"""Staging: the same bits with fewer fetches, reads after losses, and cleanup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning

from dasknmf import open_run, rank_sweep
from dasknmf.cli.commands import main
from dasknmf.core import panels
from dasknmf.data import grid_of, source_of, staging
from dasknmf.data.staging import staged
from dasknmf.data.staging.cache import MemoryCache
from dasknmf.data.staging.packed import Packed
from dasknmf.errors import DataChangedError, DataError, MemoryLimitError, StageError
from dasknmf.io.process_owner import signed
from tests.helpers import fitted, stored

pytestmark = pytest.mark.usefixtures("small_panels")

PARAMETERS = {"n_components": 3, "init": "random", "max_iter": 4, "tol": 0}
STAGES = ["memory", "directory"]


@pytest.fixture
def counts(low_rank):
    """Integers that stay integers in a stage."""
    return np.random.default_rng(1).poisson(20 * low_rank).astype("u2")


@pytest.fixture
def V(tmp_path, counts):
    return stored(tmp_path / "v.zarr", counts, (9, 5))


@pytest.fixture
def place(tmp_path):
    """What `stage=` takes for each kind of stage; a directory with a file of somebody else."""
    directory = tmp_path / "stage"
    directory.mkdir()
    (directory / "theirs").write_text("theirs")
    return {"memory": "memory", "directory": directory, None: None}


def left_in(place) -> list[str]:
    return sorted(str(path.relative_to(place["directory"])) for path in place["directory"].rglob("*"))


def forgets_all(client):
    """Released tasks are forgotten a moment later."""
    deadline = time.monotonic() + 10
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_of(place) -> list[Path]:
    """The panels in a stage's directory."""
    return sorted(place["directory"].glob("dasknmf-stage-*/*"))


def same(left, right):
    (model, W), (other, W_other) = left, right
    np.testing.assert_array_equal(W, W_other)
    np.testing.assert_array_equal(model.components_, other.components_)
    assert [record.loss for record in model.history_] == [record.loss for record in other.history_]
    assert [record.measures for record in model.history_] == [record.measures for record in other.history_]
    assert model.n_reads_ == other.n_reads_


class Counted:
    """Chunks of X that count how often they are made, in this process."""

    def __init__(self, X, chunks) -> None:
        self.made: Counter = Counter()
        self._X = X
        self.array = da.map_blocks(self._chunk, chunks=chunks, dtype=X.dtype, meta=np.empty((0, 0), X.dtype))

    def _chunk(self, block_info=None):
        where = block_info[None]["chunk-location"]
        self.made[where] += 1
        (first, stop), (left, right) = block_info[None]["array-location"]
        return self._X[first:stop, left:right]


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("beta_loss", [2, 1])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_the_same_bits_from_zarr(V, place, kind, beta_loss, scheduler):
    parameters = PARAMETERS | {"beta_loss": beta_loss}
    same(fitted(V, scheduler, {"stage": place[kind]}, **parameters), fitted(V, scheduler, **parameters))
    assert left_in(place) == ["theirs"]


@pytest.mark.parametrize("kind", STAGES)
def test_the_same_bits_from_a_cluster(V, place, cluster, kind):
    parameters = PARAMETERS | {"init": "nndsvda"}
    same(fitted(V, cluster, {"stage": place[kind]}, **parameters), fitted(V, **parameters))
    assert left_in(place) == ["theirs"]


def _laid_out(X, layout):
    """X in chunks that each lie in memory as `layout` makes them: of more rows than a tile, which fewer
    would be copied into."""
    return da.from_array(X, chunks=(1100, X.shape[1])).map_blocks(layout, dtype=X.dtype)


LAYOUTS = {
    "columns side by side": lambda X: da.from_array(X, chunks=(1100, 5)),
    "columns first": lambda X: _laid_out(X, np.asfortranarray),
    "rows with gaps": lambda X: _laid_out(X, lambda block: np.tile(block, 2)[:, : block.shape[1]]),
    "columns first with gaps": lambda X: _laid_out(X, lambda block: np.tile(block.T, 2)[:, : len(block)].T),
    "strided": lambda X: _laid_out(X, lambda block: np.repeat(block, 2, axis=1)[:, ::2]),
    "backwards": lambda X: _laid_out(X, lambda block: block[::-1, ::-1]),
    "rows backwards": lambda X: _laid_out(X, lambda block: block[::-1]),
    "big-endian": lambda X: da.from_array(X.astype(X.dtype.newbyteorder(">")), chunks=(1100, 14)),
    "sparse": lambda X: _laid_out(X, scipy.sparse.csr_matrix),
    "empty chunks": lambda X: da.from_array(X, chunks=(50, 14)).rechunk(((0, len(X) - 50, 0, 50), (14,))),
}


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("beta_loss", [2, 0.5])
def test_the_same_bits_from_dask(place, kind, layout, beta_loss):
    X = LAYOUTS[layout](np.random.default_rng(0).gamma(0.3, size=(4000, 14)).astype("f4"))
    parameters = PARAMETERS | {"beta_loss": beta_loss, "inner_iter": 1}
    same(fitted(X, run={"stage": place[kind]}, **parameters), fitted(X, **parameters))


@pytest.mark.parametrize("kind", STAGES)
def test_the_same_bits_from_dask_on_a_cluster(low_rank, place, cluster, kind):
    X = LAYOUTS["rows with gaps"](low_rank) / low_rank.mean()
    same(fitted(X, cluster, {"stage": place[kind]}, **PARAMETERS), fitted(X, **PARAMETERS))


@pytest.mark.parametrize("order", ["C", "F", "gaps", "gaps F", "strided"])
@pytest.mark.parametrize("dtype", ["u1", "i2", ">f4", "f8", "?"])
def test_packed_slabs_keep_values_dtype_and_order(order, dtype):
    wide = (np.random.default_rng(0).random((40, 30)) * 9).astype(dtype)
    slab = {
        "C": wide.copy(),
        "F": np.asfortranarray(wide),
        "gaps": wide[:, :13],
        "gaps F": wide.T[:, :13],
        "strided": wide[:, ::2],
    }[order]
    packed = Packed.of(slab)
    again = packed.slab()
    np.testing.assert_array_equal(again, slab)
    assert again.dtype == slab.dtype
    assert again.base is None or again.base.nbytes <= slab.nbytes + 40 * slab.itemsize
    if order != "strided":
        assert np.argsort(again.strides).tolist() == np.argsort(slab.strides).tolist()
        assert again.flags.c_contiguous == slab.flags.c_contiguous


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_zarr_source_is_fetched_once(V, place, request, kind, where):
    scheduler = request.getfixturevalue("cluster") if where == "cluster" else where
    size = sum(path.stat().st_size for path in V.store.root.rglob("c/*/*") if path.is_file())
    rows = 90 * 3 * 4
    model, _ = fitted(V, scheduler, {"stage": place[kind]}, **PARAMETERS)
    if kind == "memory" or where == "threads":
        assert [record.bytes_read for record in model.history_] == [size, 0, *[rows] * 4]
    assert [record.reads for record in model.history_] == [1, 1, 2, 3, 4, 5]
    model, _ = fitted(V, scheduler, **PARAMETERS)
    assert [record.bytes_read for record in model.history_] == [size, 0, *[size + rows] * 4]


@pytest.mark.parametrize("kind", [*STAGES, None])
def test_dask_chunks_are_made_once(low_rank, place, kind):
    X = Counted(low_rank, ((20, 30, 40), (7, 7)))
    model, _ = fitted(X.array, run={"stage": place[kind]}, **PARAMETERS)
    assert set(X.made.values()) == {1 if kind else 5}
    assert len(X.made) == 6
    assert model.history_[0].bytes_read == low_rank.nbytes
    assert model.history_.exact[0].bytes_read == 90 * 3 * 8 + (0 if kind else low_rank.nbytes)


def test_dask_chunks_are_made_once_on_a_cluster(low_rank, cluster, tmp_path):
    def leave_a_mark(block, block_id=None):
        (tmp_path / f"{block_id[0]}-{os.urandom(8).hex()}").touch()
        return block

    X = da.from_array(low_rank, chunks=(30, 14)).map_blocks(leave_a_mark, dtype=float, meta=np.empty((0, 0)))
    fitted(X, cluster, {"stage": "memory"}, **PARAMETERS)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_integers_stay_integers(V, place, counts):
    sizes = []

    def look(record):
        sizes.append(sum(path.stat().st_size for path in files_of(place)))

    fitted(V, run={"stage": place["directory"], "callbacks": [look]}, **PARAMETERS)
    assert set(sizes) == {sizes[0]}
    assert counts.nbytes <= sizes[0] < 2 * counts.nbytes
    grid = grid_of(source_of(V))
    with staging.staged(source_of(V), grid, "memory", None) as source:
        slabs = [slab for panel in grid for slab in source.slabs(panel.start, panel.stop, [])]
        assert {slab.dtype for slab in slabs} == {np.dtype("u2")}
        assert source.staged_bytes == counts.nbytes


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "a header altered": lambda path: path.write_bytes(
        path.read_bytes()[:9] + b"\xff" + path.read_bytes()[10:]
    ),
    "a value altered": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_file_is_read_again_from_zarr(V, place, damage, monkeypatch):
    # Slabs of one chunk's rows, so that damage comes in the middle of a panel.
    monkeypatch.setattr(panels, "_PANEL_BYTES", (700, 700))
    monkeypatch.setattr(panels, "_SLAB_BYTES", 1)
    assert len(grid_of(source_of(V))) == 4
    _lose_one(V, place, damage)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_panel_of_one_slab(V, place, damage):
    _lose_one(V, place, damage)


def _lose_one(V, place, damage):
    def lose(record):
        files = files_of(place)
        if record.iteration == 2:
            assert not [path for path in files if path.suffix == ".partial"]
            DAMAGES[damage](files[0])

    model, W = fitted(V, run={"stage": place["directory"], "callbacks": [lose]}, **PARAMETERS)
    same((model, W), fitted(V, **PARAMETERS))
    rows = 90 * 3 * 4
    lost = [record.bytes_read - rows for record in model.history_.exact]
    assert lost[:2] == [0, 0]
    assert 0 < lost[2] < model.history_[0].bytes_read / 2  # that panel only
    assert lost[3] == 0  # and it was written again


@pytest.mark.parametrize("damage", ["missing", "cut", "a value altered"])
def test_a_lost_file_is_made_again_from_dask(low_rank, place, damage):
    def lose(record):
        if record.iteration == 2:
            for path in files_of(place)[:2]:
                DAMAGES[damage](path)

    X = Counted(low_rank, ((20, 30, 40), (14,)))
    model, W = fitted(X.array, run={"stage": place["directory"], "callbacks": [lose]}, **PARAMETERS)
    assert sorted(X.made.values()) == [1, 2, 2]
    same((model, W), fitted(X.array, **PARAMETERS))


def test_a_lost_file_is_made_again_on_a_cluster(low_rank, place, cluster):
    def lose(record):
        if record.iteration == 2:
            files_of(place)[0].unlink()

    X = da.from_array(low_rank, chunks=(30, 14))
    left = fitted(X, cluster, {"stage": place["directory"], "callbacks": [lose]}, **PARAMETERS)
    same(left, fitted(X, **PARAMETERS))


def test_a_directory_that_vanishes_is_a_stage_lost(V, place):
    def lose(record):
        if record.iteration == 1:
            shutil.rmtree(place["directory"])

    same(
        fitted(V, run={"stage": place["directory"], "callbacks": [lose]}, **PARAMETERS),
        fitted(V, **PARAMETERS),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_a_killed_worker_loses_only_its_panels(V, place, tmp_path, kind):
    """Dask reads them again; the scheduler remembers no more than before."""
    tasks, killed = [], []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def kill(record):
            tasks.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
            if record.iteration == 2:
                held = client.run(lambda dask_worker: (os.getpid(), len(dask_worker.data)))
                killed.append(min(held.values(), key=lambda each: each[1]))
                os.kill(killed[0][0], signal.SIGKILL)
                deadline = time.monotonic() + 30
                while killed[0][0] in client.run(os.getpid, on_error="ignore").values():
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

        run = {"stage": place[kind], "callbacks": [kill]}
        model, W = fitted(V, client, run, **PARAMETERS)
        forgets_all(client)
    same((model, W), fitted(V, **PARAMETERS))
    size, rows = model.history_[0].bytes_read, 90 * 3 * 4
    again = [record.bytes_read - rows for record in model.history_.exact]
    if kind == "memory":
        assert killed[0][1] > 0
        assert again[:2] == [0, 0]
        assert 0 < again[2] < size
        assert again[3] == 0
        assert max(tasks) <= 10 + 1 + 10 + 2 + 5  # panels held, their reader, and one pass
    assert left_in(place) == ["theirs"]


def test_the_scheduler_holds_each_panel_once(V, cluster):
    held = []

    def look(record):
        data = cluster.run(lambda dask_worker: sorted(map(str, dask_worker.data)))
        held.append([key for keys in data.values() for key in keys if "stage-" in key])

    fitted(V, cluster, {"stage": "memory", "callbacks": [look]}, **PARAMETERS)
    assert len({tuple(sorted(set(keys))) for keys in held}) == 1
    assert len(set(held[0])) == 10
    forgets_all(cluster)


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_nothing_stays_behind_an_error(tmp_path, counts, place, request, kind, where):
    scheduler = request.getfixturevalue("cluster") if where == "cluster" else where
    X = counts.astype("f4")
    X[50, 3] = np.nan
    V = stored(tmp_path / "bad.zarr", X, (9, 14))
    with pytest.raises(DataError):
        fitted(V, scheduler, {"stage": place[kind]}, **PARAMETERS)
    assert left_in(place) == ["theirs"]

    seen = []

    def interrupt(record):
        if record.iteration == 1:
            seen.extend(files_of(place))
            raise KeyboardInterrupt

    good = stored(tmp_path / "good.zarr", counts, (9, 14))
    with pytest.raises(KeyboardInterrupt):
        fitted(good, scheduler, {"stage": place[kind], "callbacks": [interrupt]}, **PARAMETERS)
    assert len(seen) == (10 if kind == "directory" else 0)
    assert left_in(place) == ["theirs"]
    if where == "cluster":
        forgets_all(scheduler)


def test_a_task_that_ends_late_leaves_no_file(V, place):
    grid = grid_of(source_of(V))
    with staging.staged(source_of(V), grid, place["directory"], None) as source:
        late, later = (source.slabs(grid[i].start, grid[i].stop, []) for i in (0, 1))
        next(late)
    assert [len(slab) for slab in late] == []
    assert [len(slab) for slab in later] == [9]
    assert left_in(place) == ["theirs"]


def test_panels_are_still_summed(V, place):
    """A panel that changed in its store is noticed when the stage has to read it again."""

    def change(record):
        if record.iteration == 1:
            V[:9] = 1
            files_of(place)[0].unlink()

    with pytest.raises(DataChangedError, match="panel 0 "):
        fitted(V, run={"stage": place["directory"], "callbacks": [change]}, **PARAMETERS)


def test_staged_panels_are_summed_too(V, tmp_path, monkeypatch):
    """A flipped bit in the memory of a stage is detected, as one in V is."""
    kept = []
    original = MemoryCache.__init__

    def keep(self):
        original(self)
        kept.append(self)

    def flip(record):
        if record.iteration == 1:
            kept[0].panels[18][0].pieces[0][0, 0] += 64

    monkeypatch.setattr(MemoryCache, "__init__", keep)
    with pytest.raises(DataChangedError, match="panel 2 "):
        fitted(
            V,
            run={"stage": "memory", "callbacks": [flip], "checkpoint": tmp_path / "run"},
            **PARAMETERS,
        )


@pytest.mark.parametrize(
    ("first", "second"), [(None, "memory"), ("memory", "directory"), ("directory", None)]
)
def test_a_run_goes_on_with_another_stage(V, place, tmp_path, first, second):
    class Stop(Exception):
        pass

    def stop(record):
        if record.iteration == 2:
            raise Stop

    run = {"checkpoint": tmp_path / "run"}
    with pytest.raises(Stop):
        fitted(V, run={**run, "stage": place[first], "callbacks": [stop]}, **PARAMETERS)
    resumed = fitted(V, run={**run, "stage": place[second]}, **PARAMETERS)
    same(resumed, fitted(V, **PARAMETERS))
    assert open_run(tmp_path / "run").n_iter == 4


def test_a_memory_stage_that_does_not_fit_is_refused_unread(tmp_path, low_rank, monkeypatch):
    X = Counted(np.ones((90, 14)), ((30, 30, 30), (14,)))
    monkeypatch.setattr("dasknmf.data.staging.cache.nbytes_of", lambda source: 7 * 2**50)
    with pytest.raises(
        MemoryLimitError,
        match=r"peak at 7\.00 PiB .*and 7\.00 PiB of V in stage='memory'.*"
        r"a process has .* GiB: .*give stage= a directory",
    ) as caught:
        fitted(X.array, run={"stage": "memory"}, **PARAMETERS)
    assert "\n" not in str(caught.value)
    assert not X.made


def test_workers_share_the_memory_of_a_stage(V, cluster, monkeypatch):
    from dasknmf.fitting import execution

    shares = []
    original = execution.models_per_read

    def recorded(*arguments, **parameters):
        per_read, projections = original(*arguments, **parameters)
        shares.extend(each.staged for each in projections)
        return per_read, projections

    monkeypatch.setattr(execution, "models_per_read", recorded)
    fitted(V, cluster, {"stage": "memory"}, **PARAMETERS)
    assert set(shares) == {90 * 14 * 2 // 2}
    shares.clear()
    fitted(V, run={"stage": "memory"}, **PARAMETERS)
    assert set(shares) == {90 * 14 * 2}


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_disk_without_room_is_refused_unread(low_rank, place, request, where, monkeypatch):
    scheduler = request.getfixturevalue("cluster") if where == "cluster" else where
    X = Counted(low_rank, ((30, 30, 30), (14,)))
    monkeypatch.setattr(staging.files, "_made", _almost_full)
    with pytest.raises(StageError, match=r"has 0\.98 kiB free for .*V take 9\.84 kiB: make room") as caught:
        fitted(
            X.array if where == "threads" else da.ones((90, 14)),
            scheduler,
            {"stage": place["directory"]},
            **PARAMETERS,
        )
    assert "\n" not in str(caught.value)
    assert not X.made
    assert left_in(place) == ["theirs"]


def _almost_full(path):
    return 1000


def test_a_stage_that_is_no_directory(V, place):
    with pytest.raises(StageError, match=r"cannot be made by this process \(Not a directory\).*give another"):
        fitted(V, run={"stage": place["directory"] / "theirs"}, **PARAMETERS)
    with pytest.raises(TypeError, match="stage is 3; it must be None, 'memory' or"):
        fitted(V, run={"stage": 3}, **PARAMETERS)
    with pytest.raises(
        ValueError, match=r"stage is 'Memory'; .* is called 'memory': give that, or './Memory'"
    ):
        fitted(V, run={"stage": "Memory"})
    with pytest.raises(ValueError, match="stage is 's3://bucket/stage'; it must be a directory"):
        fitted(V, run={"stage": "s3://bucket/stage"}, **PARAMETERS)


def test_a_full_disk_is_an_error(V, place, monkeypatch):
    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            raise OSError(28, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

    original = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *a, **k: Full(original(path, *a, **k)) if a == ("xb",) else original(path, *a, **k),
    )
    with pytest.raises(StageError, match=r"does not take V's panels \(No space left on device\): make room"):
        fitted(V, run={"stage": place["directory"]}, **PARAMETERS)
    assert left_in(place) == ["theirs"]


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_matrix])
def test_input_in_memory_needs_no_stage(counts, place, kind, make):
    seen = []
    run = {"stage": place[kind], "callbacks": [lambda record: seen.extend(files_of(place))]}
    same(
        fitted(make(counts.astype("f8")), run=run, **PARAMETERS),
        fitted(make(counts.astype("f8")), **PARAMETERS),
    )
    assert not seen


def test_a_memory_store_is_decoded_once(counts):
    import zarr

    V = stored(zarr.storage.MemoryStore(), counts, (9, 14))
    model, W = fitted(V, run={"stage": "memory"}, **PARAMETERS)
    assert [record.bytes_read for record in model.history_.exact] == [90 * 3 * 4] * 4
    same((model, W), fitted(V, **PARAMETERS))


def test_many_panels_in_one_task(V, place, cluster, monkeypatch):
    monkeypatch.setattr(panels, "_MOST_TASKS", 4)
    expected = fitted(V, **PARAMETERS)
    for scheduler in ("threads", cluster):
        for kind in STAGES:
            same(fitted(V, scheduler, {"stage": place[kind]}, **PARAMETERS), expected)


@pytest.mark.parametrize("kind", STAGES)
def test_the_command_line_stages(V, place, tmp_path, kind):
    run = tmp_path / "run"
    arguments = [
        "fit",
        str(tmp_path / "v.zarr"),
        str(run),
        "-k",
        "3",
        "--max-iter",
        "2",
        "--random-state",
        "0",
    ]
    result = CliRunner().invoke(main, [*arguments, "--stage", str(place[kind])])
    assert result.exit_code == 0, result.output
    exact = open_run(run).history.exact
    assert exact[-1].bytes_read < open_run(run).history[0].bytes_read
    assert left_in(place) == ["theirs"]
    refused = CliRunner().invoke(
        main, [*arguments, "--overwrite", "--stage", str(place["directory"] / "theirs")]
    )
    assert refused.exit_code == 5, refused.output


def test_files_of_several_machines_are_no_stage_for_dask_arrays(low_rank):
    class Elsewhere:
        def scheduler_info(self, n_workers):
            return {"workers": {"a": {"host": "10.0.0.1"}, "b": {"host": "10.0.0.2"}}}

    source = source_of(da.from_array(low_rank, chunks=(30, 14)))
    with pytest.raises(StageError, match="2 machines"), staged(source, grid_of(source), "/tmp", Elsewhere()):
        pass


@pytest.mark.parametrize("stage", ["", "run", "v.zarr"])
def test_places_that_are_no_stage(small_panels, low_rank, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    V = stored(tmp_path / "v.zarr", low_rank, (30, 14))
    with pytest.raises(ValueError, match="stage"):
        fitted(V, run={"checkpoint": tmp_path / "run", "stage": stage}, n_components=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.zarr"]


def test_a_home_directory_is_found(small_panels, low_rank, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fitted(stored(tmp_path / "v.zarr", low_rank, (30, 14)), run={"stage": "~/kept"}, n_components=2)
    assert (tmp_path / "kept").is_dir()
    assert not any((tmp_path / "kept").iterdir())


def test_reads_after_the_fits_restore_lost_panels(low_rank, place):
    """The read that scores every rank reads lost panels again, as passes do."""

    def lose(record):
        if record.iteration == 2:
            lost.append(files_of(place)[0].unlink())

    lost: list[None] = []
    parameters = {"n_init": 2, "max_iter": 2, "tol": 0, "random_state": 0}
    X = da.from_array(low_rank, chunks=(30, 14))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="no rank has a smallest silhouette")
        found = rank_sweep(X, [2, 3], **parameters, stage=place["directory"], callbacks=[lose])
        whole = rank_sweep(X, [2, 3], **parameters)
    assert lost
    assert found.to_dataframe().equals(whole.to_dataframe())
    np.testing.assert_array_equal(np.asarray(found.W), np.asarray(whole.W))


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_what_a_killed_fit_left_in_a_stage_goes_with_the_next(V, place, request, where):
    scheduler = request.getfixturevalue("cluster") if where == "cluster" else where
    sign = "from dasknmf.io.process_owner import signed; print(signed(), end='')"
    dead = subprocess.run([sys.executable, "-c", sign], check=True, capture_output=True, text=True).stdout
    ours = [f"dasknmf-stage-{signed()}", "dasknmf-stage-of-somebody"]
    for name in [*ours, f"dasknmf-stage-{dead}", f"dasknmf-stage-{dead}-ended"]:
        (place["directory"] / name).mkdir()
        (place["directory"] / name / "0-9").touch()
    fitted(V, scheduler, {"stage": place["directory"]}, **PARAMETERS | {"max_iter": 1})
    assert {path.name for path in place["directory"].iterdir()} == {*ours, "theirs"}
