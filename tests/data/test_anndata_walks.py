"""Walks over a stored sparse matrix: one fetch of each byte, no leftovers between panels."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from dasknmf import Prepared
from dasknmf.core.panels import Grid
from dasknmf.data import chunk_stream, grid_of, open_anndata, opened, source_of
from dasknmf.data.concatenated import Concatenated
from dasknmf.data.stored_csr import SparseSource
from dasknmf.io.counts import counting
from tests.data.anndata_stores import (
    PARAMETERS,
    annotated,
    counts,
    grouped,
    parted,
    rows_of,
    same,
    stored_bytes,
    written,
)
from tests.helpers import fitted

# Newest versions of pandas 3 warn about an option that anndata sets.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("indices_chunk", [None, 400, 555])
def test_each_byte_is_fetched_once(tmp_path, monkeypatch, threads, indices_chunk):
    A = counts(2500)
    monkeypatch.setattr("dasknmf.core.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    X = grouped(tmp_path / "a", A, 200, indices_chunk=indices_chunk)
    source = source_of(X)
    grid = grid_of(source)
    assert len(grid) > 10

    def read(reader, panel):
        with counting() as counts:
            rows = sp.vstack(list(reader.slabs(panel.start, panel.stop, [])))
        same(rows, A[panel.start : panel.stop])
        return counts.nbytes

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(2):
            fetched = sum(pool.map(partial(read, source.renewed()), grid))
            assert fetched == pytest.approx(stored_bytes(tmp_path / "a"), rel=0.02)


def test_ends_of_panels_stay_for_the_walks_of_a_fit(tmp_path, monkeypatch):
    """Each panel is read in a walk of its own, as by separate processes."""
    A = counts(4000)
    monkeypatch.setattr("dasknmf.core.panels._PANEL_BYTES", (800 * 8, 800 * 8))
    source = source_of(grouped(tmp_path / "a", A, 200))

    grid = grid_of(source)  # reads indptr

    def fetched(*, of_a_fit):
        with counting() as counts:
            for panel in grid:
                reader = source.renewed(of_a_fit=of_a_fit)
                rows = sp.vstack(list(reader.slabs(panel.start, panel.stop, [])))
                same(rows, A[panel.start : panel.stop])
        return counts.nbytes

    alone = fetched(of_a_fit=False)
    first, second = fetched(of_a_fit=True), fetched(of_a_fit=True)
    assert first == alone
    assert second < 0.9 * alone
    assert chunk_stream._ends._nbytes <= chunk_stream._ENDS_BYTES


def kept(walk=None):
    """How many parts of chunks this process keeps, of one walk or of all."""
    gc.collect()  # what earlier tests have left to the collector
    return len([key for key in list(chunk_stream._leftovers._arrays) if walk in (None, key[0])])


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("stage", [None, "memory"])
def test_parts_cached_for_other_panels_go_with_a_fit(tmp_path, small_panels, places, stage):
    before = kept()
    parts = [grouped(tmp_path / str(i), counts(60, seed=i), 100) for i in range(places)]
    X = parts[0] if places == 1 else Concatenated(parts, [np.arange(30)] * places)
    fitted(X, **PARAMETERS, run={"stage": stage})
    fitted(Prepared(X, log1p=True), **PARAMETERS)
    assert kept() == before


def test_a_lazy_W_is_of_V_as_it_is_when_it_is_computed(tmp_path, small_panels):
    before = kept()
    A = counts(60)
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    parts = [SparseSource.of_group(group)] * 2
    model, _ = fitted(A, **PARAMETERS)
    W = model.transform(Concatenated(parts, [np.arange(30)] * 2))
    with dask.config.set(scheduler="threads"):
        W[20:30].compute()  # some panels cache parts for others that are not computed
        group["data"][:] = A.data * 3
        found = W.compute()
        assert kept() == before
    del W
    np.testing.assert_allclose(found, model.transform(sp.vstack([A * 3, A * 3])), rtol=1e-3, atol=1e-5)


def test_parts_cached_on_workers_go_too(tmp_path, small_panels, cluster):
    A = counts(60)
    path = written(tmp_path / "a.h5ad", annotated(A))
    with h5py.File(path, "r+") as file:
        del file["X"]
        parted(file.create_group("X"), A, 100)
    fitted(open_anndata([path, path]).matrix(), cluster, {"checkpoint": tmp_path / "run"}, **PARAMETERS)
    deadline = time.monotonic() + 10
    while any(left := cluster.run(_kept_there).values()) and time.monotonic() < deadline:
        time.sleep(0.05)  # the scheduler lets go of a pass a moment after its end
    assert not any(left)


def _kept_there():
    gc.collect()
    return len(chunk_stream._leftovers)


def test_another_walk_does_not_use_cached_parts(tmp_path, small_panels):
    A = counts(60)
    group = parted(zarr.open_group(tmp_path / "a", mode="w"), A, 100)
    source = source_of(SparseSource.of_group(group))
    first, second = list(grid_of(source))[:2]
    walk = source.renewed()
    copy = pickle.loads(pickle.dumps(walk))
    list(walk.slabs(first.start, first.stop, []))
    group["data"][:] = A.data * 3
    later = sp.vstack(list(source.renewed().slabs(second.start, second.stop, [])))
    same(later, A[second.start : second.stop] * 3)
    earlier = sp.vstack(list(copy.slabs(second.start, second.stop, [])))
    assert (earlier != later).sum()  # a task of the same walk takes it
    assert kept(walk._walk.name) > 0
    del walk, copy


def test_panels_read_at_once_in_any_order(tmp_path, small_panels):
    A = counts(600)
    source = source_of(grouped(tmp_path / "a", A, 90))
    panels = list(grid_of(source))
    ready = threading.Barrier(8)
    found = {}

    def read(part):
        ready.wait()
        for panel in part:
            found[panel.start] = sp.vstack(list(source.slabs(panel.start, panel.stop, [])))

    orders = np.random.default_rng(0).permutation(len(panels))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [[panels[i] for i in orders[j::8]] for j in range(8)]))
    same(sp.vstack([found[panel.start] for panel in panels]), A)


def test_the_source_that_tasks_receive_is_small(tmp_path):
    A = sp.csr_matrix(np.ones((20_000, 2)))
    for X in (grouped(tmp_path / "a", A, 500), _in_file(tmp_path / "a.h5", A)):
        assert len(pickle.dumps(source_of(X).for_tasks())) < 10_000
        same(rows_of(pickle.loads(pickle.dumps(X)))[0], A)


def _in_file(path, A):
    with h5py.File(path, "w") as file:
        parted(file.create_group("X"), A, 100)
    return opened(path / "X")


def test_panels_hold_equal_nonzeros_and_dense_grids_are_as_they_were():
    lengths = np.append(np.full(1000, 100), np.full(1000, 10))
    before = np.append(0, np.cumsum(lengths)) * 2**10
    grid = Grid.of(np.arange(2001), 0, before)
    sizes = np.diff(before[list(grid.edges)])
    assert sizes.max() < 1.05 * sizes.min()
    assert Grid.of(np.arange(2001), 0, 5000 * np.arange(2001)) == Grid.of(np.arange(2001), 5000)
