"""Sparse matrices as AnnData stores them, read by tasks in rows: CSR, or the columns of CSC.

Three 1-D arrays in chunks of nonzeros: ``data``, ``indices`` and ``indptr``. The client reads indptr once
and cuts panels of about equal nonzeros at rows that begin just behind an edge of a chunk; a task reads
its panel's part of all three.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import zarr
from scipy.sparse import csr_array
from zarr.storage import MemoryStore

from dasknmf.core.blocks.canonical import rows_of
from dasknmf.core.panels import slab_rows
from dasknmf.data.chunk_stream import Stream, Vector, ZarrVector, blocks_of, forget
from dasknmf.data.source import Chunks, Reader, Source, Stored, check_shape
from dasknmf.errors import DataChangedError, SourceError

FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc"}
"""By the encoding-type of their group."""
PARTS = ("data", "indices", "indptr")
_MOST_CUTS = 2**20
_SCANNED = 2**21


@dataclass(frozen=True)
class Vectors:
    """What a sparse matrix is stored as."""

    data: Vector
    indices: Vector
    indptr: Vector


class Place(Protocol):
    """Where a sparse matrix is stored. Picklable; holds no open file."""

    in_process: bool

    def opened(self) -> AbstractContextManager[Vectors]:
        """Its parts, for as long as they are read."""


class ZarrPlace:
    """A Zarr group.

    Parameters
    ----------
    arrays : dict of str to zarr.Array
        data, indices, indptr.
    """

    def __init__(self, arrays: dict[str, zarr.Array]) -> None:
        self.in_process = isinstance(arrays["data"].store, MemoryStore)
        self._vectors = Vectors(**{name: ZarrVector(array) for name, array in arrays.items()})

    def opened(self) -> AbstractContextManager[Vectors]:
        return nullcontext(self._vectors)


class StoredSparse(Stored):
    """An AnnData-encoded CSR or CSC matrix in a store.

    Parameters
    ----------
    place : Place
    shape : tuple of int
    format : {"csr", "csc"}
    label : str
        Path or URL, for messages.
    feature_names : ndarray of str, optional

    Attributes
    ----------
    dtype : numpy.dtype
        Of the nonzeros.
    nnz : int
        Stored nonzeros.

    Raises
    ------
    SourceError
        If the parts do not make a matrix of that shape.
    """

    sparse = True

    def __init__(
        self,
        place: Place,
        shape: tuple[int, int],
        format: str,
        label: str,
        feature_names: np.ndarray | None = None,
    ) -> None:
        self.place = place
        self.shape = (int(shape[0]), int(shape[1]))
        self.format = format
        self.by_columns = format == "csc"
        self.label = label
        self.feature_names = feature_names
        with place.opened() as vectors:
            self.dtype = vectors.data.dtype.newbyteorder("=")
            self.nnz = vectors.data.length
            self.index_bytes = vectors.indices.dtype.itemsize
            self.offset_bytes = vectors.indptr.dtype.itemsize
            self._check(vectors)

    @classmethod
    def of_group(
        cls, group: zarr.Group, label: str | None = None, feature_names: np.ndarray | None = None
    ) -> StoredSparse:
        """The matrix of a Zarr group.

        Raises
        ------
        SourceError
            If the group holds none.
        """
        label = label or str(group.store_path)
        format, shape = encoding_of(group.attrs, label)
        found = {name: array for name in PARTS if isinstance(array := group.get(name), zarr.Array)}
        check_parts(found, label)
        return cls(ZarrPlace(found), shape, format, label, feature_names)

    @property
    def major(self) -> int:
        """Rows of a CSR, columns of a CSC matrix."""
        return self.shape[self.by_columns]

    def __repr__(self) -> str:
        return f"<StoredSparse {self.format} {self.shape} {self.dtype}, {self.nnz} nonzeros, {self.label}>"

    def source(self, *, transposed: bool = False) -> SparseSource:
        if transposed != self.by_columns:
            held, asked = ("rows", "columns") if transposed else ("columns", "rows")
            raise SourceError(
                f"{self.label} is stored as {self.format.upper()}, which can be read by {held} only, and "
                f"its {asked} are asked for: store it as {'CSC' if transposed else 'CSR'}."
            )
        return SparseSource(self)

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

    def scanned(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Read indptr: rows where panels may be cut, the nonzeros before each, the longest row's."""
        with self.place.opened() as vectors:
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


class SparseSource(Source):
    """Rows of a stored CSR matrix, or columns of a CSC matrix as the rows of Vᵀ."""

    sparse = True

    def __init__(self, X: StoredSparse) -> None:
        check_shape(X.shape)
        self.in_process = X.place.in_process
        self.shape = X.shape[::-1] if X.by_columns else X.shape
        self.dtype = X.dtype
        self.cuts, counts, longest = X.scanned()
        each = X.dtype.itemsize + X.index_bytes
        self.cut_bytes = counts * each + self.cuts * X.offset_bytes
        most = slab_rows(1, each)
        with X.place.opened() as vectors:
            chunk = max(vectors.data.chunk, vectors.indices.chunk)
        # A slab, and what of its last chunk belongs to the next one.
        self.slab_bytes = min(X.nnz, max(most, longest) + chunk) * each
        # A source of its own for every fit: nothing stays from a V that was rewritten between two.
        self.reader = SparseReader(X.place, self.shape[1], most, uuid.uuid4().hex)


class SparseReader(Reader):
    """Reads slabs of a bounded number of nonzeros, one after another.

    What its panels leave for each other in a process is forgotten there with the reader of the walk.

    Parameters
    ----------
    place : Place
    n_columns : int
    most : int
        Nonzeros of a slab.
    fit : str
        Names the fit, to which ends of panels may stay.
    stays : bool
        Whether they do.
    """

    def __init__(self, place: Place, n_columns: int, most: int, fit: str, *, stays: bool = False) -> None:
        self._place = place
        self._n_columns = n_columns
        self._most = most
        self._fit = fit
        self._stays = stays
        self._walk = uuid.uuid4().hex
        self._forget_in_the_end()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_in_the_end()

    def _forget_in_the_end(self) -> None:
        weakref.finalize(self, forget, self._walk).atexit = False

    def anew(self, *, of_a_fit: bool = False) -> SparseReader:
        return SparseReader(self._place, self._n_columns, self._most, self._fit, stays=of_a_fit)

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[csr_array]:
        fit = self._fit if self._stays else None
        with self._place.opened() as vectors:
            offsets = _offsets(blocks_of(vectors.indptr, start, stop + 1, (self._walk, "indptr")))
            if offsets[-1] > vectors.data.length or offsets[0] < 0 or np.diff(offsets).min() < 0:
                raise DataChangedError(
                    f"indptr of the sparse V does not rise between entries {start} and {stop}; it did when "
                    "this fit began: V was changed, bring it back or fit anew."
                )
            data, indices = (
                Stream(vector, int(offsets[0]), int(offsets[-1]), (self._walk, name), fit)
                for name, vector in (("data", vectors.data), ("indices", vectors.indices))
            )
            first, n_rows = 0, stop - start
            while first < n_rows:
                fitting = np.searchsorted(offsets, offsets[first] + self._most, side="right") - 1
                last = max(first + 1, int(fitting))
                begin, end = int(offsets[first]), int(offsets[last])
                yield rows_of(
                    _native(data.until(begin, end)),
                    _native(indices.until(begin, end)),
                    offsets[first : last + 1] - begin,
                    self._n_columns,
                )
                first = last


def _offsets(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64, copy=False)


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def encoding_of(attributes: Any, label: str) -> tuple[str, tuple[int, int]]:
    """Format and shape of a sparse matrix, from the attributes of its group.

    Raises
    ------
    SourceError
        If they tell none.
    """
    kind = attributes.get("encoding-type")
    if kind not in FORMATS or len(attributes.get("shape", ())) != 2:
        raise SourceError(
            f"{label} is a group with encoding-type {kind!r}; a sparse V has csr_matrix or csc_matrix, and a "
            "shape: give the path of such a group."
        )
    n_rows, n_columns = attributes["shape"]
    return FORMATS[kind], (int(n_rows), int(n_columns))


def check_parts(found: Any, label: str) -> None:
    """Refuse a group that lacks a part.

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
