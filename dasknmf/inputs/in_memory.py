"""NumPy and SciPy matrices in this process's memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
from dask.task_spec import GraphNode
from dask.utils import format_bytes

from dasknmf.blocks.dense import tile_rows
from dasknmf.errors import MemoryLimitError
from dasknmf.inputs.base import Chunks
from dasknmf.panels import Panel, slab_rows

_MOST_DENSE_BYTES = 2**30


class MemorySource:
    """A matrix that is already here. Panels are views of it, or dense copies of sparse rows."""

    in_process = True
    staged_bytes = 0
    before: np.ndarray | None = None

    def __init__(self, X: Any) -> None:
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(X.dtype)
        self.nbytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        self.reader = MemoryReader(X)
        row_bytes = self.shape[1] * max(4, self.dtype.itemsize)
        # Finer than tiles, so that a few panels take a few threads the same time.
        self._step = max(16, tile_rows(self.shape[1], max(4, self.dtype.itemsize)) // 8)
        dense = self.shape[0] * row_bytes
        if self.reader.sparse and dense > _MOST_DENSE_BYTES:
            raise MemoryLimitError(
                f"X is sparse with {X.nnz} nonzeros and is worked on as dense tiles, "
                f"{format_bytes(dense)} in all; the limit is {format_bytes(_MOST_DENSE_BYTES)}: "
                "drop empty or rare columns, or store it as a dense, compressed Zarr array."
            )
        self.slab_bytes = self.reader.height * row_bytes if self.reader.sparse else 0

    @property
    def cuts(self) -> np.ndarray:
        return np.append(np.arange(0, self.shape[0], self._step), self.shape[0])

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return []

    def upstream(self) -> dict[Hashable, GraphNode]:
        return {}


class MemoryReader:
    """Rows of a NumPy array as they are; rows of a sparse matrix made dense a slab at a time."""

    def __init__(self, X: Any) -> None:
        self.sparse = scipy.sparse.issparse(X)
        self._X = X.tocsr() if self.sparse else X
        self.height = slab_rows(1, X.shape[1] * X.dtype.itemsize)

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[np.ndarray]:
        if not self.sparse:
            yield self._X[start:stop]
            return
        for first in range(start, stop, self.height):
            yield self._X[first : min(first + self.height, stop)].toarray()
