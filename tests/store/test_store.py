"""Run stores: resumed after death at any moment, and checked for every kind of damage."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from dasknmf import NMF, open_run
from dasknmf.core.state import FactorState, State
from dasknmf.data import grid_of, source_of
from dasknmf.engine import graph
from dasknmf.errors import (
    DataChangedError,
    RunAccessError,
    RunDamagedError,
    RunError,
    RunLockedError,
    RunMismatchError,
)
from dasknmf.store import arrays, keys, zarr_factors
from dasknmf.store.lock import Lock
from dasknmf.store.zarr_factors import ZarrFactors
from tests.helpers import DyingStore, Killed, fitted, stored

pytestmark = pytest.mark.usefixtures("small_panels")

MODELS = {
    "cd": {"init": "nndsvda", "solver": "cd"},
    "kl": {"init": "random", "beta_loss": "kullback-leibler"},
    "custom": {"init": "custom"},
    "sketch": {"init": "sketch"},
    "sample": {"init": "sample", "beta_loss": "kullback-leibler", "sample_bytes": 45 * 14 * 8},
}


@pytest.fixture
def V(tmp_path, low_rank):
    return stored(tmp_path / "v.zarr", low_rank, (30, 14))


def start_of(name, shape):
    if name != "custom":
        return {}
    rng = np.random.default_rng(5)
    return {"W": rng.random((shape[0], 3)), "H": rng.random((3, shape[1]))}


def fit(V, store, name, max_iter=4, **more):
    run = {"checkpoint": store, **start_of(name, V.shape)}
    model, W = fitted(V, "synchronous", run, n_components=3, max_iter=max_iter, **MODELS[name], **more)
    return W, model.components_, model


@pytest.mark.parametrize(
    ("name", "max_iter"),
    # The others take minutes together.
    [("kl", 2), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in MODELS)],
)
def test_death_at_any_write_changes_nothing(V, tmp_path, name, max_iter):
    quiet = DyingStore(tmp_path / "quiet")
    W, H, model = fit(V, quiet, name, max_iter=max_iter)
    assert quiet.writes > 35
    for after in range(quiet.writes):
        root = tmp_path / "run"
        shutil.rmtree(root, ignore_errors=True)
        with pytest.raises(Killed):
            fit(V, DyingStore(root, after=after), name, max_iter=max_iter)
        W_again, H_again, again = fit(V, root, name, max_iter=max_iter)
        np.testing.assert_array_equal(W_again, W, err_msg=quiet.keys[after])
        np.testing.assert_array_equal(H_again, H, err_msg=quiet.keys[after])
        assert [r.objective for r in again.history_] == [r.objective for r in model.history_]


def test_death_at_any_write_of_a_continued_run(V, tmp_path):
    fit(V, tmp_path / "begun", "kl", max_iter=2)
    shutil.copytree(tmp_path / "begun", tmp_path / "quiet")
    quiet = DyingStore(tmp_path / "quiet")
    W, H, _ = fit(V, quiet, "kl", max_iter=3)
    for after in range(quiet.writes):
        root = tmp_path / "run"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "begun", root)
        with pytest.raises(Killed):
            fit(V, DyingStore(root, after=after), "kl", max_iter=3)
        W_again, H_again, again = fit(V, root, "kl", max_iter=3)
        assert again.n_iter_ == 3
        np.testing.assert_array_equal(W_again, W, err_msg=quiet.keys[after])
        np.testing.assert_array_equal(H_again, H, err_msg=quiet.keys[after])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("inner_iter", "dtype"), [(1, "f8"), ("auto", "f4"), ("auto", "f8")])
def test_any_budget_may_follow_any_other(tmp_path, low_rank, name, inner_iter, dtype):
    """Converged, then longer, then finer: as if the last budget had been the first."""
    exact = low_rank if dtype == "f8" else np.outer(low_rank[:, 0], low_rank[0]) + 0.01 * low_rank
    V = stored(tmp_path / "w.zarr", exact.astype(dtype), (30, 14))
    parameters = {"n_components": 3, "inner_iter": inner_iter, **MODELS[name]}
    start = {key: F.astype(dtype) for key, F in start_of(name, V.shape).items()}
    for budget in (
        {"tol": 1e-1, "max_iter": 30},
        {"tol": 1e-1, "max_iter": 40},
        {"tol": 1e-2, "max_iter": 25},
    ):
        run = {"checkpoint": tmp_path / "run", **start}
        model, W = fitted(V, "synchronous", run, **parameters | budget)
    whole, W_whole = fitted(V, "synchronous", start, **parameters | budget)
    if model.n_iter_ == whole.n_iter_:
        np.testing.assert_array_equal(W, W_whole)
        np.testing.assert_array_equal(model.components_, whole.components_)
    else:
        assert model.n_iter_ > whole.n_iter_  # an earlier, longer budget had already gone further


def test_other_chunks_are_other_panels(V, tmp_path, low_rank):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    for rows in (9, 45):
        other = stored(tmp_path / f"v{rows}.zarr", low_rank, (rows, 14))
        with pytest.raises(RunMismatchError, match="cuts V into 3 panels"):
            fit(other, tmp_path / "run", "cd", max_iter=5)


def test_a_writer_that_slept_commits_nothing(V, tmp_path):
    """Another client opens the run while a pass of the first is still being written."""

    def sleep(record):
        if record.iteration == 2:
            (tmp_path / "run" / "lock").unlink()
            fit(V, tmp_path / "run", "cd", max_iter=2, tol=0)  # opens, and finds its budget spent

    model = NMF(3, max_iter=6, random_state=0, tol=0, **MODELS["cd"])
    with pytest.raises(RunLockedError, match="taken over"):
        model.fit(V, checkpoint=tmp_path / "run", callbacks=[sleep])
    assert open_run(tmp_path / "run").n_iter == 2
    assert np.isfinite(open_run(tmp_path / "run").W.compute()).all()


def test_another_custom_start_is_refused(V, tmp_path):
    start = start_of("custom", V.shape)
    fitted(V, run={"checkpoint": tmp_path / "run", **start}, n_components=3, init="custom")
    start["W"] = da.from_array(start["W"] + 0.1, chunks=(40, 3))
    with pytest.raises(RunMismatchError, match="W: "):
        fitted(V, run={"checkpoint": tmp_path / "run", **start}, n_components=3, init="custom")


@pytest.mark.parametrize("name", MODELS)
def test_passes_in_two_runs_are_passes_in_one(V, tmp_path, name):
    W, H, _ = fit(V, tmp_path / "one", name, max_iter=7, tol=0)
    fit(V, tmp_path / "two", name, max_iter=3, tol=0)
    W_two, H_two, model = fit(V, tmp_path / "two", name, max_iter=7, tol=0)
    assert model.n_iter_ == 7
    np.testing.assert_array_equal(W_two, W)
    np.testing.assert_array_equal(H_two, H)


def test_a_finished_run_is_not_read_again(V, tmp_path):
    _, _, first = fit(V, tmp_path / "run", "cd")
    _, _, again = fit(V, tmp_path / "run", "cd")
    assert again.n_reads_ == first.n_reads_
    assert len(again.history_) == len(first.history_)


def test_a_smaller_tol_continues_a_converged_run(V, tmp_path):
    _, _, rough = fit(V, tmp_path / "run", "cd", max_iter=100, tol=1e-1)
    _, _, fine = fit(V, tmp_path / "run", "cd", max_iter=100, tol=3e-2)
    assert rough.n_iter_ < fine.n_iter_ < 100
    _, _, whole = fit(V, tmp_path / "whole", "cd", max_iter=100, tol=3e-2)
    np.testing.assert_array_equal(fine.components_, whole.components_)


def test_open_run_tells_what_the_model_tells(V, tmp_path):
    W, H, model = fit(V, tmp_path / "run", "cd")
    run = open_run(tmp_path / "run")
    assert isinstance(run.W, da.Array)
    np.testing.assert_array_equal(run.W.compute(), W)
    np.testing.assert_array_equal(run.H, H)
    assert run.status == "max_iter"
    assert run.params["n_components"] == 3
    assert run.n_iter == 4
    assert [r.loss for r in run.history] == [r.loss for r in model.history_]
    again = NMF.from_run(run)
    np.testing.assert_array_equal(np.asarray(again.transform(V)), np.asarray(model.transform(V)))


def test_W_survives_its_estimator(V, tmp_path):
    W = NMF(3, init="random", random_state=0, max_iter=3, tol=0).fit_transform(V)
    assert np.isfinite(W.compute()).all()
    kept = NMF(3, init="random", random_state=0, max_iter=3, tol=0).fit_transform(
        V, checkpoint=tmp_path / "run"
    )
    np.testing.assert_array_equal(kept.compute(), W.compute())
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunDamagedError, match="chunk is missing"):
        kept.compute()


def test_W_of_a_generation_that_has_moved_on_raises(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    old = open_run(tmp_path / "run").W
    fit(V, tmp_path / "run", "cd", max_iter=6)
    with pytest.raises(RunDamagedError, match="open the run again"):
        old.compute()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"solver": "mu"}, "solver: 'cd' in the run, 'mu' now"),
        ({"alpha_W": 0.5}, "alpha_W: 0.0 in the run, 0.5 now"),
        ({"random_state": 9}, "random_state: 0 in the run, 9 now"),
        ({"init": "random"}, "init: 'nndsvda' in the run, 'random' now"),
        ({"n_components": 2}, "n_components: 3 in the run, 2 now"),
    ],
)
def test_another_model_is_refused(V, tmp_path, change, named):
    fit(V, tmp_path / "run", "cd")
    parameters = {"n_components": 3, "max_iter": 4, **MODELS["cd"]} | change
    with pytest.raises(RunMismatchError, match=named):
        fitted(V, run={"checkpoint": tmp_path / "run"}, **parameters)
    fitted(V, run={"checkpoint": tmp_path / "run", "overwrite": True}, **parameters)


def test_another_shape_is_refused(V, tmp_path, low_rank):
    fit(V, tmp_path / "run", "cd")
    with pytest.raises(RunMismatchError, match=r"shape: \[90, 14\] in the run, \[60, 14\] now"):
        fit(da.from_array(low_rank[:60], chunks=(30, 14)), tmp_path / "run", "cd")


def test_a_drawn_seed_is_kept(V, tmp_path):
    parameters = {"n_components": 3, "init": "random", "random_state": None}
    fitted(V, run={"checkpoint": tmp_path / "run"}, max_iter=2, **parameters)
    two, _ = fitted(V, run={"checkpoint": tmp_path / "run"}, max_iter=5, **parameters)
    seed = open_run(tmp_path / "run").identity.seed
    one, _ = fitted(V, max_iter=5, **parameters | {"random_state": seed})
    np.testing.assert_array_equal(two.components_, one.components_)


def test_what_is_not_a_run_is_left_alone(V, tmp_path):
    precious = stored(tmp_path / "precious", np.ones((4, 4)), (2, 2))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("irreplaceable")
    for place in ("precious", "notes"):
        with pytest.raises(RunMismatchError, match="not a run"):
            fit(V, tmp_path / place, "cd", max_iter=2)
        with pytest.raises(RunMismatchError, match="not a run"):
            fitted(V, run={"checkpoint": tmp_path / place, "overwrite": True}, n_components=3)
    assert precious[...].sum() == 16
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "irreplaceable"


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("part", ["W", "H"])
def test_damaged_factors_are_seen(V, tmp_path, damage, part):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    run = open_run(tmp_path / "run")
    below = {
        "W": tmp_path / "run" / "W" / run.progress.location.rows.name / "c.1.0.0",
        "H": next((tmp_path / "run" / "small" / run.progress.state / "0").glob("values-*")) / "c.0",
    }[part]
    content = bytearray(below.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
        below.write_bytes(bytes(content))
    elif damage == "truncated":
        below.write_bytes(bytes(content[:-8]))
    else:
        below.unlink()
    with pytest.raises(RunDamagedError, match="restore the store"):
        fit(V, tmp_path / "run", "cd", max_iter=5)


@pytest.mark.parametrize("record", ["commit", "run"])
@pytest.mark.parametrize("damage", ["garbage", "edited"])
def test_a_damaged_record_is_seen(V, tmp_path, record, damage):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    path = tmp_path / "run" / record / "zarr.json"
    if damage == "garbage":
        path.write_bytes(b"\x00" * 40)
    else:
        document = json.loads(path.read_text())
        document["attributes"]["record"]["edited"] = True
        path.write_text(json.dumps(document))
    with pytest.raises(RunDamagedError, match=f"record '{record}'"):
        fit(V, tmp_path / "run", "cd", max_iter=5)
    with pytest.raises(RunDamagedError):
        open_run(tmp_path / "run")
    fitted(V, run={"checkpoint": tmp_path / "run", "overwrite": True}, n_components=3)


def test_a_changed_V_is_seen(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    V[45, 3] += 1e-3
    with pytest.raises(DataChangedError, match="panel 1 "):
        fit(V, tmp_path / "run", "cd", max_iter=5)


def test_a_changed_V_in_memory_is_seen(low_rank, tmp_path):
    fit(low_rank, tmp_path / "run", "cd", max_iter=2)
    low_rank[45, 3] += 1e-3
    with pytest.raises(DataChangedError, match="panel 0 "):
        fit(low_rank, tmp_path / "run", "cd", max_iter=5)


@pytest.mark.parametrize("scheme", ["memory://runs-{}", "file://{}/run"])
def test_urls_of_any_file_system(V, tmp_path, scheme):
    url = scheme.format(tmp_path)
    fit(V, url, "kl", max_iter=2)
    W, _, _ = fit(V, url, "kl", max_iter=4)
    W_expected, H_expected, _ = fit(V, tmp_path / "plain", "kl", max_iter=4)
    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(open_run(url).H, H_expected)


def test_parameters_may_be_numbers_of_numpy(V, tmp_path):
    """As a grid search gives them: penalties make the objective a NumPy number, too."""
    parameters = {"alpha_W": np.float64(0.01), "max_iter": np.int64(2), "random_state": np.int64(0)}
    model = NMF(np.int64(3), init="random", tol=0, **parameters).fit(V, checkpoint=tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.params["alpha_W"] == 0.01
    np.testing.assert_array_equal(run.H, model.components_)


def test_another_environment_is_one_log_line(V, tmp_path, monkeypatch, caplog):
    from dasknmf.fitting import decide

    fit(V, tmp_path / "run", "cd", max_iter=2)
    monkeypatch.setattr(decide, "environment", lambda: {"numpy": "9.9"})
    with caplog.at_level("INFO", "dasknmf"):
        fit(V, tmp_path / "run", "cd", max_iter=3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "numpy: " in line
    assert "'9.9' now" in line


def test_a_V_that_changes_between_passes_is_seen(V):
    def spoil(record):
        if record.iteration == 2:
            V[80, 0] = 0.5

    with pytest.raises(DataChangedError, match="panel 2 "):
        NMF(3, init="random", random_state=0, tol=0).fit(V, callbacks=[spoil])


def test_a_missing_chunk_of_V_is_seen(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    (tmp_path / "v.zarr" / "c" / "2" / "0").unlink()
    with pytest.raises(DataChangedError, match="panel 2 "):
        fit(zarr.open_array(tmp_path / "v.zarr", mode="r"), tmp_path / "run", "cd", max_iter=5)


def test_one_writer_at_a_time(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    lock = Lock(keys.opened(tmp_path / "run"))
    with pytest.raises(RunLockedError, match=r"is being written by process \d+"):
        fit(V, tmp_path / "run", "cd", max_iter=5)
    lock.release()
    fit(V, tmp_path / "run", "cd", max_iter=5)


def test_the_lock_of_a_dead_process_is_taken_over(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    code = (
        "import os, sys; from dasknmf.store import keys; from dasknmf.store.lock import Lock;"
        "Lock(keys.opened(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / "lock").exists()
    _, _, model = fit(V, tmp_path / "run", "cd", max_iter=5)
    assert model.n_iter_ == 5
    assert not (tmp_path / "run" / "lock").exists()


def test_a_writer_that_lost_its_run_stops(V, tmp_path):
    other = {}

    def lose(record):
        if record.iteration == 2:
            # Another client, blind to the lock, goes on with the run and finishes it.
            (tmp_path / "run" / "lock").unlink()
            other["W"], other["H"], _ = fit(V, tmp_path / "run", "cd", max_iter=6)

    model = NMF(3, max_iter=6, random_state=0, **MODELS["cd"])
    with pytest.raises(RunLockedError, match="taken over"):
        model.fit(V, checkpoint=tmp_path / "run", callbacks=[lose])
    run = open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.W.compute(), other["W"])
    np.testing.assert_array_equal(run.H, other["H"])


def test_a_late_write_cannot_reach_live_factors(V, tmp_path):
    """A task of pass t has read its rows, sleeps, and writes after pass t + 2 was committed."""
    late = []
    original = ZarrFactors.write_rows

    def write_rows(self, generation, panel, block):
        if panel == 1:
            late.append((self, generation, panel, block + 7.0))  # what it writes is not even right
        original(self, generation, panel, block)

    def wake(record):
        if record.iteration >= 3:
            factors, generation, panel, block = late[-3]
            with contextlib.suppress(RunAccessError, FileNotFoundError):
                original(factors, generation, panel, block)

    parameters = {"n_components": 3, "max_iter": 6, **MODELS["cd"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrFactors, "write_rows", write_rows)
        run = {"checkpoint": tmp_path / "run", "callbacks": [wake]}
        _, W = fitted(V, "synchronous", run, **parameters)
    _, expected = fitted(V, "synchronous", **parameters)
    np.testing.assert_array_equal(W, expected)


def test_a_late_task_cannot_begin(V, tmp_path):
    """A visit of pass t that is only started after pass t + 2 was committed."""
    late = []

    parameters = {"n_components": 3, "max_iter": 4, **MODELS["cd"]}
    original = graph.run

    def run(one, *arguments):
        late.append(one)
        return original(one, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "run", run)
        _, W = fitted(V, "synchronous", {"checkpoint": tmp_path / "run"}, **parameters)
    exact = [one for one in late if one.work.phases[0].name == "exact"]
    tasks, _ = graph.graph_of(exact[-3])
    with pytest.raises(RunDamagedError):  # what it needs is gone: it cannot even begin
        dask.get(tasks, list(tasks)[1])
    np.testing.assert_array_equal(open_run(tmp_path / "run").W.compute(), W)


def test_nothing_is_committed_of_bad_data(tmp_path, low_rank):
    low_rank[50, 2] = -1
    V = stored(tmp_path / "bad.zarr", low_rank, (30, 14))
    with pytest.raises(ValueError, match="Negative values in data passed to NMF"):
        fit(V, tmp_path / "run", "cd")
    with pytest.raises(RunError, match="no run at"):
        open_run(tmp_path / "run")
    fit(stored(tmp_path / "good.zarr", np.abs(low_rank), (30, 14)), tmp_path / "run", "kl")


def test_a_run_that_has_not_finished_its_start_says_so(V, tmp_path):
    with pytest.raises(Killed):
        fit(V, DyingStore(tmp_path / "run", after=20), "cd")
    run = open_run(tmp_path / "run")
    assert run.status == "running"
    with pytest.raises(RunError, match="not finished its start"):
        _ = run.W


def test_only_live_generations_are_kept(V, tmp_path):
    kept = []

    def look(record):
        kept.append(len(list((tmp_path / "run" / "W").glob("*-*"))))

    NMF(3, init="random", random_state=0, max_iter=6, tol=0).fit(
        V, checkpoint=tmp_path / "run", callbacks=[look]
    )
    assert max(kept) <= 3  # the third is being deleted
    assert len(list((tmp_path / "run" / "W").glob("*-*"))) == 2
    assert len(list((tmp_path / "run" / "small").glob("*-*"))) == len(kept)


def test_a_checkpoint_that_cannot_be_written(V, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RunError, match="cannot be"):
        fit(V, tmp_path / "file", "cd")
    from zarr.storage import LocalStore

    (tmp_path / "readonly").mkdir()
    with pytest.raises(RunError, match="read-only"):
        fit(V, LocalStore(tmp_path / "readonly", read_only=True), "cd")


def test_a_full_disk_is_told_and_survived(V, tmp_path):
    class FullStore(DyingStore):
        async def set(self, key, value):
            if self.writes >= 60:
                raise OSError(28, "No space left on device")
            await super().set(key, value)

    with pytest.raises(RunAccessError, match=r"No space left on device.*make room"):
        fit(V, FullStore(tmp_path / "run"), "cd")
    W, H, _ = fit(V, tmp_path / "run", "cd")
    W_whole, H_whole, _ = fit(V, tmp_path / "whole", "cd")
    np.testing.assert_array_equal(W, W_whole)
    np.testing.assert_array_equal(H, H_whole)


def test_open_run_of_nothing(tmp_path):
    with pytest.raises(RunError, match="no run at"):
        open_run(tmp_path / "nowhere")


def test_the_grid_of_a_run_is_the_grid_of_V(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    assert open_run(tmp_path / "run")._grid == grid_of(source_of(V))


def test_a_task_that_runs_twice_leaves_what_stands(tmp_path):
    """A worker that was taken for dead may write again what is committed, and die at it."""
    several = [FactorState(H=np.full((2, 3), value), mean=value) for value in (1.0, 2.0)]
    zarr_factors.write_part(LocalStore(tmp_path), "small/3-a/0", several)
    for after in range(3):
        with pytest.raises(Killed):
            zarr_factors.write_part(DyingStore(tmp_path, after=after), "small/3-a/0", several)
        found = zarr_factors.read_part(LocalStore(tmp_path), "small/3-a/0", [0, 1])
        for model, state in enumerate(several):
            np.testing.assert_array_equal(found[model].H, state.H)
            assert found[model].mean == state.mean


def test_lists_of_a_state_are_no_text(tmp_path):
    """Digits take four times the room, and as JSON the time of a read of V where models are many."""
    observed = np.random.default_rng(0).random(1000)
    state = State(observed=observed, sums=np.arange(9.0))
    zarr_factors.write_part(LocalStore(tmp_path), "small/1-a/0", [state] * 3)
    assert (tmp_path / "small/1-a/0/zarr.json").stat().st_size < 6000
    for found in zarr_factors.read_part(LocalStore(tmp_path), "small/1-a/0", [0, 2]).values():
        assert found.named().keys() == state.named().keys()
        for name, value in state.named().items():
            np.testing.assert_array_equal(found.named()[name], value)


def test_a_format_of_another_version_is_told(V, tmp_path):
    fit(V, tmp_path / "run", "cd", max_iter=2)
    root = tmp_path / "run" / "zarr.json"
    root.write_text(root.read_text().replace('"format": 4', '"format": 2'))
    for use in (lambda: open_run(tmp_path / "run"), lambda: fit(V, tmp_path / "run", "cd", max_iter=3)):
        with pytest.raises(RunDamagedError, match="has format 2; this version reads 4: use the version"):
            use()


def test_a_reader_that_was_overtaken_is_told(V, tmp_path):
    """States of several models are pruned: the reader of a run at work may be too late."""
    seen = []

    def look(record):
        seen.append(open_run(tmp_path / "run"))

    parameters = {"n_components": 2, "n_init": 2, "init": "random", "max_iter": 5, "tol": 0}
    fitted(V, run={"checkpoint": tmp_path / "run", "callbacks": [look]}, **parameters)
    assert seen[-1].H.shape == (2, 14)
    with pytest.raises(RunDamagedError, match=r"a later pass has replaced it.*open the run again"):
        _ = seen[3].H


def test_the_names_of_an_array_are_made_durable(tmp_path, monkeypatch):
    """A file that is on disk under no name is lost with the power."""
    synced = []
    sync = os.fsync

    def noted(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    arrays.write_array(LocalStore(tmp_path), "panels/sums", np.ones(3))
    directory, chunk = ((tmp_path / name).stat().st_ino for name in ("panels/sums", "panels/sums/c.0"))
    assert directory in synced[synced.index(chunk) :]
