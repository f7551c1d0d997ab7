"""Chunks fetched ahead from stores that answer late: the same results, each chunk once, within a bound."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import zarr
from zarr.storage import LocalStore, WrapperStore

from dasknmf import Prepared
from dasknmf.data import read_ahead, zarr_chunks
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.data.zarr_chunks import ZarrChunks
from dasknmf.errors import SourceError
from tests.helpers import fitted, stored, stored_sparse


class Late(WrapperStore[Any]):
    """A store that answers after a while, and counts the requests for each key and those at once."""

    def __init__(self, store: Any, *, wait: float = 0.01, failures: int = 0, broken: str = "\0") -> None:
        super().__init__(store)
        self.wait, self.failures, self.broken = wait, failures, broken
        self.keys: Counter[str] = Counter()
        self.now = self.most = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.wait)
            if key.endswith(self.broken):
                raise PermissionError(f"{key} is closed")
            if self.failures and "/c/" in f"/{key}":
                self.failures -= 1
                raise ConnectionError("try again")
            self.keys[key] += byte_range is None
            return await self._store.get(key, prototype, byte_range)
        finally:
            self.now -= 1


def chunks_of(late: Late) -> dict[str, int]:
    return {key: count for key, count in late.keys.items() if "/c/" in f"/{key}"}


def opened(path: Path, **options: Any) -> tuple[Any, Late]:
    late = Late(LocalStore(path, read_only=True), **options)
    return zarr.open(late, mode="r"), late


@pytest.fixture
def V() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((400, 3)) @ rng.random((3, 30)) + 0.1 * rng.random((400, 30))


PARAMETERS = {"n_components": 3, "init": "random", "max_iter": 3, "tol": 0}


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        ((10, 30), {}),
        ((10, 7), {}),  # several chunks side by side
        ((400, 3), {}),  # read by columns
        ((10, 30), {"shards": (20, 30)}),
    ],
    ids=["rows", "both ways", "columns", "shards"],
)
def test_the_results_and_the_bytes_are_those_of_files(small_panels, tmp_path, V, chunks, options) -> None:
    path = tmp_path / "v.zarr"
    files = stored(path, V, chunks, **options)
    X, late = opened(path)
    expected, W_expected = fitted(files, **PARAMETERS)
    found, W = fitted(X, **PARAMETERS)

    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(found.components_, expected.components_)
    ours, theirs = ([r.bytes_read for r in m.history_] for m in (found, expected))
    assert late.most > 4
    if options:  # each index of a shard is fetched once in a pass
        assert all(0 < here <= there for here, there in zip(ours, theirs, strict=True) if there)
    else:
        assert ours == theirs
        assert set(chunks_of(late).values()) == {found.n_reads_}


def test_sparse_chunks_are_fetched_once(small_panels, tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    X = scipy.sparse.csr_matrix(np.where(np.quantile(V, 0.6) < V, V, 0))
    files = stored_sparse(path, X, chunk=64)
    group, late = opened(path)
    expected, W_expected = fitted(files, **PARAMETERS)
    found, W = fitted(group, **PARAMETERS)

    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(found.components_, expected.components_)
    counts = {key: count for key, count in chunks_of(late).items() if "indptr" not in key}
    assert set(counts.values()) == {found.n_reads_}
    assert late.most > 4


@pytest.mark.parametrize("empty", [0, 20])
def test_what_is_on_the_way_or_waits_is_bounded(tmp_path, V, monkeypatch, empty) -> None:
    """Also after chunks that were never written."""
    path = tmp_path / "v.zarr"
    V[:empty] = 0
    stored(path, V, (10, 30), compressors=None)
    chunk = 10 * 30 * 8
    monkeypatch.setattr(zarr_chunks, "MOST_BYTES", 5 * chunk)
    monkeypatch.setattr(read_ahead, "_BATCH_BYTES", chunk)
    X, late = opened(path, wait=0)
    array = ZarrArray(X)
    for first in range(0, 400, 10):
        array.read(slice(first, first + 10), 0, "rows", [slice(first + 10, 400)])
        time.sleep(0.01)  # all that was asked for arrives
        taken = max(0, first + 10 - empty) // 10
        assert len(chunks_of(late)) - first // 10 - 1 <= (5 if taken else 5 * 16)
    assert len(chunks_of(late)) == 40
    assert set(chunks_of(late).values()) == {1}


def test_one_thread_fetches_ahead_too(small_panels, tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    stored(path, V, (10, 30))
    X, late = opened(path)
    fitted(X, "synchronous", **PARAMETERS)
    assert late.most > 10


@pytest.mark.parametrize("options", [{}, {"shards": (20, 30)}], ids=["chunks", "shards"])
def test_the_same_bits_on_a_cluster(small_panels, cluster, tmp_path, V, options) -> None:
    path = tmp_path / "v.zarr"
    files = stored(path, V, (10, 30), **options)
    X, _ = opened(path)
    expected, W_expected = fitted(files, **PARAMETERS)
    found, W = fitted(X, cluster, **PARAMETERS)
    np.testing.assert_array_equal(W, W_expected)
    np.testing.assert_array_equal(found.components_, expected.components_)


def test_chosen_columns_of_a_V_in_columns_are_fetched_alone(small_panels, tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    X = np.hstack([V, V, V])
    files = stored(path, X, (400, 3))
    late_X, late = opened(path)
    columns = [*range(6), *range(60, 90)]
    found, W = fitted(Prepared(late_X, columns=columns), **PARAMETERS)
    _, W_expected = fitted(Prepared(files, columns=columns), **PARAMETERS)
    np.testing.assert_array_equal(W, W_expected)
    assert set(chunks_of(late)) == {f"c/0/{number}" for number in (0, 1, *range(20, 30))}
    assert set(chunks_of(late).values()) == {found.n_reads_}


def test_transient_errors_are_retried_and_counted(small_panels, tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    stored(path, V, (10, 30))
    X, _ = opened(path, failures=5)
    found, _ = fitted(X, **PARAMETERS)
    assert sum(record.retries for record in found.history_) == 5


def test_a_chunk_that_cannot_be_read_ends_the_fit(small_panels, tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    stored(path, V, (10, 30))
    X, _ = opened(path, broken="c/25/0")
    with pytest.raises(SourceError, match="c/25/0 is closed"):
        fitted(X, **PARAMETERS)


@pytest.mark.parametrize("options", [{}, {"shards": (20, 30)}], ids=["chunks", "shards"])
def test_a_copy_for_another_process_has_no_chunks_on_their_way(tmp_path, V, options) -> None:
    path = tmp_path / "v.zarr"
    stored(path, V, (10, 30), **options)
    X, late = opened(path)
    array = ZarrArray(X)
    first = array.read(slice(0, 10), 0, "rows", [slice(10, 400)])
    copy = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(first, V[:10])
    np.testing.assert_array_equal(copy.read(slice(10, 20), 0, "rows"), V[10:20])
    np.testing.assert_array_equal(array.read(slice(380, 400), 0, "rows"), V[380:])
    if not options:
        assert late.keys["c/39/0"] == 1


def test_a_chunk_that_another_task_took_is_fetched_again(tmp_path, V) -> None:
    path = tmp_path / "v.zarr"
    stored(path, V, (10, 30))
    X, _ = opened(path)
    chunks = ZarrChunks.of(ZarrArray(X)._array)
    chunks._ahead.need([0, 1], lambda row: [(row, 0)])
    assert set(chunks._ahead.take([(0, 0)])) == {(0, 0)}
    assert set(chunks._ahead.take([(0, 0), (1, 0)])) == {(0, 0), (1, 0)}
    assert chunks._ahead.held == 0
