"""Graph of a pass: size, names, reads and the processes that run tasks."""

from __future__ import annotations

from collections import Counter

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from dasknmf import NMF
from dasknmf.core import panels
from dasknmf.core.blocks import PanelSpec, block_of
from dasknmf.core.panels import Grid
from dasknmf.core.phase import Tally, Visitor, add, visit
from dasknmf.core.starts.random_start import normal_rows
from dasknmf.core.state import FactorState
from dasknmf.data import grid_of, source_of
from dasknmf.engine import graph
from tests.helpers import computing, cuts, fitted, stored


@given(lengths=cuts(5000, most=30), row_bytes=st.integers(1, 10**6))
def test_a_grid_cuts_only_where_it_may(lengths, row_bytes):
    allowed = np.append(0, np.cumsum(lengths))
    grid = Grid.of(allowed, row_bytes)
    assert set(grid.edges) <= set(allowed.tolist())
    assert grid.edges[0] == 0
    assert grid.edges[-1] == 5000
    assert (np.diff(grid.edges) > 0).all()
    assert [panel for group in grid.groups() for panel in group] == list(grid)


def test_a_grid_has_a_bounded_number_of_tasks():
    grid = Grid(tuple(range(100_001)))
    groups = grid.groups()
    assert len(groups) <= 4096
    assert {len(group) for group in groups[:-1]} == {25}
    assert sum(map(len, groups)) == 100_000


def test_panels_are_about_a_sixty_fourth_between_limits():
    for n_bytes, expected in [(2**20, 1), (2**30, 64), (2**34, 128)]:
        grid = Grid.of(np.arange(0, n_bytes // 1024 + 1), 1024)
        assert len(grid) == pytest.approx(expected, rel=0.02)


def test_visit_is_the_sum_over_tiles(low_rank):
    """The serial walk, against one product over the whole matrix."""
    from dasknmf.core.solvers.inner_steps import Inner
    from dasknmf.core.solvers.quadratic import QuadraticPass

    phase = QuadraticPass(3, 14, np.dtype(float), "cd", Inner(1, 1))
    rng = np.random.default_rng(0)
    H, W = rng.random((3, 14)), rng.random((90, 3))
    small = phase.prepare(FactorState(H=H, eps=1e-7))
    tallies = []
    for first, stop in ((0, 40), (40, 90)):
        spec = PanelSpec(stop - first, first, 14, np.dtype(float), checked=True)
        block = block_of([low_rank[first:stop]], spec)
        rows = {"W": W[first:stop]}
        tallies += visit(block, [Visitor(phase, small, rows)])
        assert block.total == pytest.approx(low_rank[first:stop].sum())
    total = add(tallies)
    np.testing.assert_allclose(total["A"], W.T @ low_rank)
    np.testing.assert_allclose(total["G"], W.T @ W)
    assert isinstance(total, Tally)


def test_rows_draw_the_same_numbers_however_they_are_cut():
    whole = normal_rows(3, 0, np.arange(1000), 7)
    parts = [normal_rows(3, 0, np.arange(first, first + 125), 7) for first in range(0, 1000, 125)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert abs(whole.mean()) < 0.05
    assert whole.std() == pytest.approx(1, abs=0.05)
    assert not np.isclose(normal_rows(3, 1, np.arange(1000), 7), whole).any()
    assert not np.isclose(normal_rows(4, 0, np.arange(1000), 7), whole).any()


@pytest.mark.usefixtures("small_panels")
class TestPasses:
    @pytest.fixture
    def V(self, tmp_path, low_rank):
        return stored(tmp_path / "v.zarr", low_rank, (9, 5))

    def graphs(self, X, **parameters):
        """The graphs of every pass of a fit."""
        graphs = []
        original = graph.graph_of

        def keep(one):
            made, keys = original(one)
            graphs.append((one.work.phases[0].name, made))
            return made, keys

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "graph_of", keep)
            fitted(X, n_components=3, **parameters)
        return graphs

    def test_the_graph_is_constant_and_small(self, V):
        sizes = [
            len(made) for name, made in self.graphs(V, init="random", max_iter=30, tol=0) if name == "exact"
        ]
        assert len(sizes) == 30
        assert set(sizes) == {10 + 2 + 1 + 3}  # visits, additions, load; update, keep and root

    def test_tasks_read_well_on_the_dashboard(self, V):
        from dask.utils import key_split

        names = {key_split(key) for _, made in self.graphs(V, max_iter=1, init="nndsvda") for key in made}
        assert names == {
            "add-tallies",
            "exact",
            "keep",
            "load",
            "projection",
            "range-finder",
            "singular-vectors",
            "start",
            "update",
        }

    def test_every_chunk_is_read_once_a_pass(self, low_rank):
        """Through a Dask graph whose chunks count how often they are made."""
        made = Counter()

        def chunk(block_info=None):
            where = block_info[None]["chunk-location"]
            made[where] += 1
            (first, stop), (left, right) = block_info[None]["array-location"]
            return low_rank[first:stop, left:right]

        X = da.map_blocks(chunk, chunks=((20, 30, 40), (7, 7)), dtype=float, meta=np.empty((0, 0)))
        for beta, reads in ((2, 3 + 5), (1, 3 + 5 + 1)):
            made.clear()
            model, _ = fitted(X, n_components=2, beta_loss=beta, init="nndsvda", max_iter=5, tol=0)
            assert set(made.values()) == {reads}
            assert len(made) == 6
            assert model.n_reads_ == reads

    def test_private_ancestors_are_part_of_the_visit(self, low_rank):
        X = da.from_array(low_rank, chunks=(30, 7))
        X = (X * 2 + 1).map_blocks(np.sqrt)
        for name, made in self.graphs(X, max_iter=1, init="random"):
            if name == "exact":
                visits = [key for key in made if str(key).startswith("('exact")]
                assert len(visits) == 3
                assert len(made) <= 3 + 1 + 3 + 1 + 6  # at most the data of each chunk beside it

    def test_shared_ancestors_are_computed_once(self, low_rank):
        calls = []

        def scale(X):
            calls.append(1)
            return X

        D = da.from_array(low_rank, chunks=(30, 14))
        X = D / D.map_blocks(scale).mean()
        calls.clear()  # building the graph asked for the type of its result
        _, W = fitted(X, n_components=2, init="random", max_iter=2, tol=0)
        assert len(calls) == 3 * 3  # three panels; survey and two passes
        np.testing.assert_allclose(
            W,
            fitted(low_rank / low_rank.mean(), n_components=2, init="random", max_iter=2, tol=0)[1],
        )

    def test_a_chunk_that_another_panel_needs_too(self, low_rank):
        D = da.from_array(low_rank, chunks=(30, 14)).map_blocks(np.array)
        X = D + 0.1 * D[::-1]
        _, W = fitted(X, n_components=2, init="random")
        _, expected = fitted(low_rank + 0.1 * low_rank[::-1], n_components=2, init="random")
        np.testing.assert_allclose(W, expected, rtol=1e-8)

    def test_persisted_chunks_are_used_in_place(self, low_rank, cluster):
        with computing(cluster):
            X = da.from_array(low_rank, chunks=(30, 7)).map_blocks(np.array)
            X = cluster.persist(X)
            _, W = fitted(X, cluster, n_components=3, init="random")
        _, expected = fitted(low_rank, n_components=3, init="random")
        np.testing.assert_allclose(W, expected, rtol=1e-7)

    @pytest.mark.parametrize("chunks", [(1, 14), (90, 1), ((0, 40, 0, 50), (14,)), (33, 6)])
    def test_odd_chunks(self, low_rank, chunks):
        X = da.from_array(low_rank, chunks=(10, 7)).rechunk(chunks)
        parameters = {"n_components": 3, "init": "random", "inner_iter": 1, "max_iter": 4}
        _, W = fitted(X, **parameters)
        np.testing.assert_allclose(W, fitted(low_rank, **parameters)[1], rtol=1e-7)

    def test_sparse_chunks(self, low_rank):
        low_rank[low_rank < 0.8] = 0
        X = da.from_array(low_rank, chunks=(30, 14)).map_blocks(scipy.sparse.csr_matrix)
        _, W = fitted(X, n_components=3, init="random")
        np.testing.assert_allclose(W, fitted(low_rank, n_components=3, init="random")[1], rtol=1e-7)

    def test_fortran_and_strided_chunks(self, low_rank):
        X = da.from_array(np.asfortranarray(low_rank), chunks=(30, 14))
        parameters = {"init": "random", "beta_loss": 0.5, "inner_iter": 2}
        _, expected = fitted(low_rank, n_components=3, **parameters)
        _, W = fitted(X, n_components=3, **parameters)
        np.testing.assert_allclose(W, expected, rtol=1e-7)
        wide = np.zeros((90, 28))
        wide[:, ::2] = low_rank
        _, W = fitted(wide[:, ::2], n_components=3, **parameters)
        np.testing.assert_allclose(W, expected, rtol=1e-7)

    def test_many_panels_make_one_task(self, V, monkeypatch):
        _, W = fitted(V, n_components=3, init="random")
        monkeypatch.setattr(panels, "_MOST_TASKS", 4)
        _, W_grouped = fitted(V, n_components=3, init="random")
        np.testing.assert_allclose(W_grouped, W, rtol=1e-9)
        assert len(grid_of(source_of(V)).groups()) == 4

    def test_bytes_are_those_that_the_store_gave(self, V):
        model, _ = fitted(V, n_components=3, init="random")
        stored_bytes = sum(path.stat().st_size for path in V.store.root.rglob("c/*/*") if path.is_file())
        survey = model.history_[0]
        assert survey.bytes_read == stored_bytes
        exact = model.history_.exact[0]
        assert exact.bytes_read == stored_bytes + 90 * 3 * 8
        assert exact.bytes_written == 90 * 3 * 8

    def test_columns_of_a_wide_array_are_panels(self, tmp_path, low_rank):
        wide = stored(tmp_path / "wide.zarr", low_rank.T.copy(), (14, 9))
        model, W = fitted(wide, n_components=3, init="nndsvda", max_iter=30)
        assert W.shape == (14, 3)
        expected, _ = fitted(low_rank, n_components=3, init="nndsvda", max_iter=30)
        assert model.reconstruction_err_ == pytest.approx(expected.reconstruction_err_, rel=1e-3)
        _, W_kept = fitted(
            wide, run={"checkpoint": tmp_path / "run"}, n_components=3, init="nndsvda", max_iter=30
        )
        np.testing.assert_array_equal(W_kept, W)

    def test_sharded_arrays(self, tmp_path, low_rank):
        V = stored(tmp_path / "sharded.zarr", low_rank, (5, 7), shards=(20, 14))
        assert grid_of(source_of(V)).edges == (0, 20, 40, 60, 80, 90)
        _, W = fitted(V, n_components=3, init="random")
        np.testing.assert_allclose(W, fitted(low_rank, n_components=3, init="random")[1], rtol=1e-7)


def test_a_cluster_without_shared_files_is_told_so(low_rank, cluster, monkeypatch):
    from dasknmf.engine import scheduler

    monkeypatch.setattr(scheduler, "_read_probe", lambda path: "")
    X = da.from_array(low_rank, chunks=(30, 14))
    with (
        computing(cluster),
        pytest.raises(RuntimeError, match=r"do not see this process's directory.*give fit\(\.\.\., check"),
    ):
        NMF(3, init="random").fit(X)


@pytest.mark.usefixtures("small_panels")
def test_scheduler_forgets_every_pass(tmp_path, low_rank, cluster):
    V = stored(tmp_path / "v.zarr", low_rank, (9, 14))
    counts = []

    def count(record):
        counts.append(cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    with computing(cluster):
        NMF(3, init="random", tol=0, max_iter=5, random_state=0).fit(V, callbacks=[count])
    assert max(counts) <= 10 + 2 + 5  # what one pass makes, at the most


def test_what_may_deadlock_in_a_worker_rests_while_a_fit_works_there(cluster, tmp_path, low_rank):
    """On Pythons whose `sys._current_frames` waits for the collector that waits for it."""
    from dasknmf.engine.worker import _PROFILE_DEADLOCKS

    def running(dask_worker):
        return dask_worker.periodic_callbacks["profile"].is_running()

    seen = []

    def look(record):
        seen.append(set(cluster.run(running).values()))

    V = stored(tmp_path / "v.zarr", low_rank, (9, 5))
    fitted(V, cluster, {"callbacks": [look]}, n_components=2, max_iter=1)
    assert seen
    assert all(each == {not _PROFILE_DEADLOCKS} for each in seen)
    assert set(cluster.run(running).values()) == {True}
