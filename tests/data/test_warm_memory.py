"""Memory is used again, and never while an array refers to it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse

from dasknmf.data import warm_memory

NBYTES = 3 * 2**20


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(warm_memory, "_unused", type(warm_memory._unused)(list))


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again():
    first = warm_memory.empty(NBYTES)
    place = address(first)
    del first
    assert address(warm_memory.empty(NBYTES + 1)) == place


@pytest.mark.parametrize(
    "view",
    [
        lambda memory: memory,
        lambda memory: memory[5:9],
        lambda memory: memory.view("f4").reshape(-1, 8).T[3:],
        lambda memory: memoryview(memory)[3:],
        lambda memory: scipy.sparse.csr_array(
            (memory.view("f4")[:2], np.array([0, 1]), np.array([0, 2])), shape=(1, 3)
        ),
    ],
    ids=["itself", "slice", "other shape", "memoryview", "CSR"],
)
def test_a_view_keeps_it(view):
    held = view(warm_memory.empty(NBYTES))
    place = address(np.asarray(held.data if scipy.sparse.issparse(held) else held))
    others = [warm_memory.empty(NBYTES) for _ in range(3)]
    assert not any(address(other) <= place < address(other) + NBYTES for other in others)


def test_threads_do_not_write_into_each_other():
    def work(seed):
        rng, held = random.Random(seed), []
        for number in range(200):
            memory = warm_memory.empty(rng.choice([10, 2**17, 2**18 + 1, NBYTES]))
            memory[:100] = (seed + number) % 256
            held.append((memory[:100], (seed + number) % 256))
            if len(held) > 3:
                values, expected = held.pop(rng.randrange(4))
                assert (values == expected).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_only_so_much_is_kept(monkeypatch):
    monkeypatch.setattr(warm_memory, "_KEPT_BYTES", 2 * 4 * 2**20)
    several = [warm_memory.empty(NBYTES) for _ in range(5)]
    del several
    assert [len(kept) for kept in warm_memory._unused.values()] == [2]
