"""Properties that every kind of input has."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from dasknmf.core.panels import Grid
from dasknmf.data import grid_of, source_of
from dasknmf.data.source import nbytes_of
from dasknmf.data.staging import staged
from dasknmf.io.counts import counting
from tests.data.sources import SOURCES, rows_of

pytestmark = pytest.mark.usefixtures("small_panels")


@pytest.fixture
def A():
    return np.random.default_rng(0).poisson(0.7, (90, 12)).astype("f4")


@pytest.fixture(params=SOURCES)
def X(request, tmp_path, A):
    return SOURCES[request.param](tmp_path, A)


def test_slabs_are_the_rows_that_were_given(X, A):
    source = source_of(X)
    assert source.shape == A.shape
    found = rows_of(source, grid_of(source))
    assert found.dtype == source.dtype == A.dtype
    np.testing.assert_array_equal(found, A)
    assert nbytes_of(source) > 0


def test_panels_do_not_matter(X, A):
    source = source_of(X)
    whole = Grid((0, len(A)))
    finest = Grid(tuple(source.facts.cuts.tolist()))
    np.testing.assert_array_equal(rows_of(source, whole), A)
    np.testing.assert_array_equal(rows_of(source, finest), A)


def test_the_copy_for_tasks_is_small_and_reads_the_same(X, A):
    source = source_of(X)
    grid = grid_of(source)
    sent = pickle.dumps(source.for_tasks())
    if not source.in_process:
        assert len(sent) < 10_000
    if not source.chunk_keys(grid[0]):
        np.testing.assert_array_equal(rows_of(pickle.loads(sent), grid), A)


@pytest.mark.parametrize("place", ["memory", "directory"])
def test_a_stage_gives_the_same_slabs(X, A, place, tmp_path):
    source = source_of(X)
    grid = grid_of(source)
    with staged(source, grid, "memory" if place == "memory" else tmp_path / "stage", None) as kept:
        for _ in range(2):
            np.testing.assert_array_equal(rows_of(kept, grid), A)


def test_bytes_are_counted_in_every_walk(X, A):
    source = source_of(X)
    grid = grid_of(source)
    if source.in_process or source.chunk_keys(grid[0]):
        pytest.skip("in memory, or read by Dask")
    nbytes = []
    for _ in range(2):
        with counting() as counts:
            np.testing.assert_array_equal(rows_of(source.renewed(), grid), A)
        nbytes.append(counts.nbytes)
    assert nbytes[0] == nbytes[1] > 0
