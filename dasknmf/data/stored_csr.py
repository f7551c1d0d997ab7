"""Sparse matrices stored in AnnData's format: CSR, read by rows, or CSC, read by columns.

A matrix is three chunked 1-D arrays: ``data``, ``indices`` and ``indptr``. The client reads indptr once and
cuts panels with about equal numbers of nonzeros, at the first row after an edge of a chunk; a task reads
its panel's part of the three arrays.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import zarr
from scipy.sparse import csr_array
from zarr.storage import MemoryStore

from dasknmf.core.blocks.canonical import rows_of
from dasknmf.core.panels import slab_rows
from dasknmf.data.chunk_stream import Stream, Vector, Walk, ZarrVector, blocks_of
from dasknmf.data.source import Chunks, Facts, Source, check_shape
from dasknmf.errors import DataChangedError, SourceError

FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc"}
"""Format of each encoding-type of a group."""
PARTS = ("data", "indices", "indptr")
_MOST_CUTS = 2**20
_SCANNED = 2**21


@dataclass(frozen=True)
class Vectors:
    """The three arrays of a sparse matrix."""

    data: Vector
    indices: Vector
    indptr: Vector


class Place(Protocol):
    """The place where a sparse matrix is stored. Picklable; holds no open file."""

    label: str
    """Path or URL, for messages."""
    in_process: bool

    def opened(self) -> AbstractContextManager[Vectors]:
        """A context with the arrays, open for reads."""


class ZarrPlace:
    """A Zarr group that holds a sparse matrix."""

    def __init__(self, group: zarr.Group, label: str) -> None:
        self.label = label
        self.in_process = isinstance(group.store, MemoryStore)
        arrays = {name: array for name in PARTS if isinstance(array := group.get(name), zarr.Array)}
        check_parts(arrays, label)
        self._vectors = Vectors(*(ZarrVector(arrays[name]) for name in PARTS))

    def opened(self) -> AbstractContextManager[Vectors]:
        return nullcontext(self._vectors)


class SparseSource(Source):
    """An AnnData-encoded CSR or CSC matrix in a store.

    Parameters
    ----------
    place : Place
    attributes : mapping
        Attributes of the group: encoding and shape.
    feature_names : ndarray of str of shape (n_features,), optional

    Attributes
    ----------
    dtype : numpy.dtype
        Dtype of the nonzeros.
    nnz : int
        Number of stored nonzeros.

    Raises
    ------
    SourceError
        If the arrays do not fit the shape.
    """

    sparse = True

    def __init__(
        self, place: Place, attributes: Mapping[str, Any], feature_names: np.ndarray | None = None
    ) -> None:
        self._place = place
        self.in_process = place.in_process
        self.format, self.shape = encoding_of(attributes, place.label)
        self.by_columns = self.format == "csc"
        self.feature_names = feature_names
        with place.opened() as vectors:
            self.dtype = vectors.data.dtype.newbyteorder("=")
            self.nnz = vectors.data.length
            self._check(vectors)
        self._walk = Walk()
        self._fit = uuid.uuid4().hex

    @classmethod
    def of_group(
        cls, group: zarr.Group, label: str | None = None, feature_names: np.ndarray | None = None
    ) -> SparseSource:
        """The matrix of a Zarr group.

        Raises
        ------
        SourceError
            If the group holds no sparse matrix.
        """
        label = label or str(group.store_path)
        encoding_of(group.attrs, label)
        return cls(ZarrPlace(group, label), group.attrs, feature_names)

    @property
    def label(self) -> str:
        return self._place.label

    @property
    def major(self) -> int:
        """Number of rows of a CSR, of columns of a CSC matrix."""
        return self.shape[self.by_columns]

    def __repr__(self) -> str:
        return f"<SparseSource {self.format} {self.shape} {self.dtype}, {self.nnz} nonzeros, {self.label}>"

    def transposed(self) -> SparseSource:
        if not self.by_columns:
            raise SourceError(
                f"{self.label} is stored as {self.format.upper()}, which can be read by rows only, and its "
                "columns are needed: store it as CSC."
            )
        return self.changed(shape=self.shape[::-1], by_columns=False, feature_names=None)

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        # A new name for each fit, as V may be rewritten between two fits.
        fit = self._fit if of_a_fit else uuid.uuid4().hex
        return self.changed(_walk=Walk(fit if of_a_fit else None), _fit=fit)

    def _check(self, vectors: Vectors) -> None:
        for name, vector in (("indices", vectors.indices), ("indptr", vectors.indptr)):
            if vector.dtype.kind not in "iu":
                raise SourceError(
                    f"{self.label} has {name} of {vector.dtype}; they must be integers: write it again."
                )
        axis = "columns" if self.by_columns else "rows"
        if vectors.indptr.length != self.major + 1:
            raise SourceError(
                f"{self.label} has an indptr of {vectors.indptr.length} entries, its shape {self.shape} has "
                f"{self.major} {axis} and needs {self.major + 1}: the store is damaged, write it again."
            )
        if vectors.indices.length != self.nnz:
            raise SourceError(
                f"{self.label} has {self.nnz} values and {vectors.indices.length} indices; there must be as "
                "many: the store is damaged, write it again."
            )

    def find_facts(self) -> Facts:
        check_shape(self.shape)
        with self._place.opened() as vectors:
            cuts, counts, longest = self._scanned(vectors)
            chunk = max(vectors.data.chunk, vectors.indices.chunk)
            each = self.dtype.itemsize + vectors.indices.dtype.itemsize
            before = counts * each + cuts * vectors.indptr.dtype.itemsize
        # A slab, and the rest of its last chunk, which belongs to the next slab.
        slab = min(self.nnz, max(slab_rows(1, each), longest) + chunk) * each
        return Facts(cuts, before, slab_bytes=slab)

    def _scanned(self, vectors: Vectors) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows where panels may be cut, nonzeros before each, and nonzeros of the longest row."""
        chunk = max(vectors.data.chunk, vectors.indices.chunk)
        step = chunk * max(1, -(-self.nnz // chunk // _MOST_CUTS))
        rows, counts, longest, last = [0], [0], 0, 0
        for first in range(0, self.major, _SCANNED):
            stop = min(first + _SCANNED, self.major)
            offsets = _offsets(vectors.indptr.read(first, stop + 1))
            lengths = np.diff(offsets)
            if offsets[0] != last or lengths.min() < 0:
                raise SourceError(
                    f"{self.label} has an indptr that does not rise from 0 between entries {first} and "
                    f"{stop}: the store is damaged, write it again."
                )
            last, longest = int(offsets[-1]), max(longest, int(lengths.max()))
            edges = np.arange(offsets[0] // step + 1, last // step + 1) * step
            begins = np.unique(np.searchsorted(offsets, edges))
            rows.extend((first + begins).tolist())
            counts.extend(offsets[begins].tolist())
        if last != self.nnz:
            raise SourceError(
                f"{self.label} has an indptr that ends at {last}, and {self.nnz} values; both must be the "
                "same: the store is damaged, write it again."
            )
        if rows[-1] != self.major:
            rows.append(self.major)
            counts.append(self.nnz)
        return np.array(rows), np.array(counts), longest

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[csr_array]:
        """Rows [start, stop) in slabs of a bounded number of nonzeros."""
        with self._place.opened() as vectors:
            offsets = _offsets(blocks_of(vectors.indptr, start, stop + 1, self._walk))
            if offsets[-1] > vectors.data.length or offsets[0] < 0 or np.diff(offsets).min() < 0:
                raise DataChangedError(
                    f"indptr of the sparse V does not rise between entries {start} and {stop}; it did when "
                    "this fit began: V was changed, bring it back or fit anew."
                )
            data, indices = (
                Stream(vector, int(offsets[0]), int(offsets[-1]), self._walk, name)
                for name, vector in (("data", vectors.data), ("indices", vectors.indices))
            )
            most = slab_rows(1, self.dtype.itemsize + vectors.indices.dtype.itemsize)
            first, n_rows = 0, stop - start
            while first < n_rows:
                fitting = np.searchsorted(offsets, offsets[first] + most, side="right") - 1
                last = max(first + 1, int(fitting))
                begin, end = int(offsets[first]), int(offsets[last])
                yield rows_of(
                    _native(data.until(begin, end)),
                    _native(indices.until(begin, end)),
                    offsets[first : last + 1] - begin,
                    self.shape[1],
                )
                first = last


def _offsets(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64, copy=False)


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def encoding_of(attributes: Mapping[str, Any], label: str) -> tuple[str, tuple[int, int]]:
    """Format and shape of a sparse matrix, from the attributes of its group.

    Raises
    ------
    SourceError
        If the attributes do not describe a sparse matrix.
    """
    kind = attributes.get("encoding-type")
    if kind not in FORMATS or len(attributes.get("shape", ())) != 2:
        raise SourceError(
            f"{label} is a group with encoding-type {kind!r}; a sparse V has csr_matrix or csc_matrix, and a "
            "shape: give the path of such a group."
        )
    n_rows, n_columns = attributes["shape"]
    return FORMATS[kind], (int(n_rows), int(n_columns))


def check_parts(found: Mapping[str, Any], label: str) -> None:
    """Raise an error if a group lacks one of the three arrays.

    Raises
    ------
    SourceError
    """
    missing = [name for name in PARTS if name not in found]
    if missing:
        raise SourceError(
            f"{label} lacks {' and '.join(missing)}; a sparse matrix is stored as data, indices and indptr: "
            "the store is damaged or was not written to its end, write it again."
        )
