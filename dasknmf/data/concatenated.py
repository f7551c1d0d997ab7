"""Several matrices as one V, one below the other, their columns brought into one order."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from scipy.sparse import csr_array, issparse

from dasknmf.core.dtypes import working_dtype
from dasknmf.data.source import Chunks, Reader, Slab, Source, Stored, check_shape, nbytes_of
from dasknmf.data.zarr_array import ZarrSource
from dasknmf.errors import SourceError


class Concatenated(Stored):
    """Matrices that are stored apart, as one.

    Where one of them is sparse, rows of all are given as sparse ones.

    Parameters
    ----------
    parts : sequence of zarr.Array, StoredSparse or StoredDense
        From the first rows to the last.
    columns : sequence of ndarray of int of shape (n_features,)
        For each part, which of its columns are the columns of V, each at most once.
    feature_names : ndarray of str of shape (n_features,), optional

    Raises
    ------
    SourceError
        If no part is given, or one of them cannot be read by rows.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        columns: Sequence[np.ndarray],
        feature_names: np.ndarray | None = None,
    ) -> None:
        if not parts or len(parts) != len(columns):
            raise SourceError(
                f"{len(parts)} matrices and {len(columns)} lists of columns are given; there must be one "
                "list for each matrix, and at least one."
            )
        for part in parts:
            if not isinstance(part, (Stored, zarr.Array)) or (isinstance(part, Stored) and part.by_columns):
                raise SourceError(
                    f"{part!r} cannot be stacked; parts must be stored matrices whose rows can be read: "
                    "store it as CSR, or as a Zarr array."
                )
        self.parts = tuple(parts)
        self.columns = tuple(np.asarray(column, dtype=np.int64) for column in columns)
        for part, column in zip(self.parts, self.columns, strict=True):
            if len(column) != len(self.columns[0]) or len(np.unique(column)) != len(column):
                raise SourceError(
                    f"the columns of {part!r} are {len(column)}, {len(np.unique(column))} of them different; "
                    f"each part must give {len(self.columns[0])} different ones."
                )
            if len(column) and not 0 <= column.min() <= column.max() < part.shape[1]:
                raise SourceError(
                    f"columns {column.min()} to {column.max()} are asked of {part!r}; it has columns 0 to "
                    f"{part.shape[1] - 1}."
                )
        self.shape = (sum(int(part.shape[0]) for part in parts), len(self.columns[0]))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        working_dtype(self.dtype)
        self.sparse = any(isinstance(part, Stored) and part.sparse for part in parts)
        self.feature_names = feature_names

    def __repr__(self) -> str:
        return f"<Stacked {self.shape} {self.dtype}, {len(self.parts)} parts>"

    def source(self, *, transposed: bool = False) -> ConcatenatedSource:
        if transposed:
            raise SourceError(f"{self!r} is read by rows, and its columns are asked for: store it as one.")
        return ConcatenatedSource(self)


class ConcatenatedSource(Source):
    """The sources of all parts, one below the other."""

    def __init__(self, X: Concatenated) -> None:
        check_shape(X.shape)
        sources = [_source(part) for part in X.parts]
        self.shape = X.shape
        self.dtype = X.dtype
        self.sparse = X.sparse
        self.in_process = all(source.in_process for source in sources)
        share = [X.shape[1] / source.shape[1] for source in sources]
        # A slab, and what is selected of it, as it is converted.
        self.slab_bytes = max(int(s.slab_bytes * (1 + part)) for s, part in zip(sources, share, strict=True))
        edges = np.cumsum([0, *(source.shape[0] for source in sources)])
        sizes = np.cumsum([0, *(nbytes_of(source) for source in sources)])
        # The last cut of a part is the first of the next.
        cuts = [first + source.cuts[:-1] for first, source in zip(edges, sources, strict=False)]
        self.cuts = np.append(np.concatenate(cuts), edges[-1])
        before = [size + _before(source)[:-1] for size, source in zip(sizes, sources, strict=False)]
        self.cut_bytes = np.append(np.concatenate(before), sizes[-1])
        self.reader = ConcatenatedReader(
            tuple(edges.tolist()), [source.reader for source in sources], _distinct(X), X.dtype, X.sparse
        )


class ConcatenatedReader(Reader):
    """Reads the parts that a panel lies in, one after another."""

    def __init__(
        self,
        edges: tuple[int, ...],
        readers: list[Reader],
        columns: list[np.ndarray | None],
        dtype: np.dtype,
        sparse: bool,
    ) -> None:
        self._edges = edges
        self._readers = readers
        self._columns = columns
        self._dtype = dtype
        self._sparse = sparse

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        again = copy.copy(self)
        again._readers = [reader.anew(of_a_fit=of_a_fit) for reader in self._readers]
        return again

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        spans = zip(itertools.pairwise(self._edges), self._readers, self._columns, strict=True)
        for (first, last), reader, columns in spans:
            if max(start, first) >= min(stop, last):
                continue
            for slab in reader.slabs(max(start, first) - first, min(stop, last) - first, []):
                yield self._selected(slab, columns)

    def _selected(self, slab: Slab, columns: np.ndarray | None) -> Slab:
        rows: Any = slab if columns is None else slab[:, columns]
        if self._sparse and not issparse(rows):
            rows = csr_array(rows)
        if issparse(rows):
            rows.sort_indices()
            rows.has_canonical_format = True  # of a canonical slab, each column was taken once
        return rows.astype(self._dtype, copy=False)


def _source(part: zarr.Array | Stored) -> Source:
    return ZarrSource(part) if isinstance(part, zarr.Array) else part.source()


def _before(source: Source) -> np.ndarray:
    if source.cut_bytes is not None:
        return source.cut_bytes
    return source.cuts * (source.shape[1] * source.dtype.itemsize)


def _distinct(X: Concatenated) -> list[np.ndarray | None]:
    """Each part's columns, None where they are all in order; equal ones are one array, sent once."""
    known: dict[bytes, np.ndarray] = {}
    found: list[np.ndarray | None] = []
    for part, columns in zip(X.parts, X.columns, strict=True):
        if np.array_equal(columns, np.arange(part.shape[1])):
            found.append(None)
        else:
            found.append(known.setdefault(columns.tobytes(), columns))
    return found
