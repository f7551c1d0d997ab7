"""Sparse matrices stored in AnnData's format: CSR, read by rows, or CSC, read by columns.

A matrix is three chunked 1-D arrays: ``data``, ``indices`` and ``indptr``. The client reads indptr once and
cuts panels with about equal numbers of nonzeros, at the first row after an edge of a chunk; a task reads
its panel's part of the three arrays.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import zarr
from scipy.sparse import csr_array

from dasknmf.core.blocks.canonical import rows_of
from dasknmf.core.panels import slab_rows
from dasknmf.data.chunk_stream import Stream, Walk, blocks_of, read
from dasknmf.data.hdf5_array import StoredArray
from dasknmf.data.read_ahead import Visits
from dasknmf.data.source import Chunks, Facts, Source, check_shape
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import DataChangedError, SourceError

FORMATS = {"csr_matrix": "csr", "csc_matrix": "csc"}
"""Format of each encoding-type of a group."""
PARTS = ("data", "indices", "indptr")
_MOST_CUTS = 2**20
_SCANNED = 2**21


class SparseSource(Source):
    """An AnnData-encoded CSR or CSC matrix in a store.

    Parameters
    ----------
    parts : mapping of str to ZarrArray or Hdf5Array
        The arrays of the group by their names, ``data``, ``indices`` and ``indptr``.
    attributes : mapping
        Attributes of the group: encoding and shape.
    label : str
        Path or URL, for messages.
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
        If an array is missing, or the arrays do not fit the shape.
    """

    sparse = True

    def __init__(
        self,
        parts: Mapping[str, StoredArray],
        attributes: Mapping[str, Any],
        label: str,
        feature_names: np.ndarray | None = None,
    ) -> None:
        self.label = label
        self.format, self.shape = _encoding(attributes, label)
        self.by_columns = self.format == "csc"
        self.feature_names = feature_names
        missing = [name for name in PARTS if name not in parts]
        if missing:
            raise SourceError(
                f"{label} lacks {' and '.join(missing)}; a sparse matrix is stored as data, indices and "
                "indptr: the store is damaged or was not written to its end, write it again."
            )
        self._data, self._indices, self._indptr = (parts[name] for name in PARTS)
        self.in_process = self._data.in_process
        self.dtype = self._data.dtype.newbyteorder("=")
        self.nnz = self._data.shape[0]
        self._check()
        self._walk = Walk()
        self._visits = Visits()
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
        found = {name: group.get(name) for name in PARTS}
        parts = {name: ZarrArray(each) for name, each in found.items() if isinstance(each, zarr.Array)}
        return cls(parts, group.attrs, label or str(group.store_path), feature_names)

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

    @property
    def ahead_bytes(self) -> int:
        return max(self._data.ahead_bytes, self._indices.ahead_bytes)

    def visiting(self, rows: Sequence[slice]) -> Self:
        facts = self.facts
        assert facts.cut_bytes is not None
        # Panels begin and end at cuts.
        entries = (facts.cut_bytes - facts.cuts * self._indptr.dtype.itemsize) // self._entry_bytes
        ends = np.array([(each.start, each.stop) for each in rows])
        parts = entries[np.searchsorted(facts.cuts, ends)].tolist()
        return self.changed(_visits=Visits(tuple(slice(*part) for part in parts)))

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        # A new name for each fit, as V may be rewritten between two fits.
        fit = self._fit if of_a_fit else uuid.uuid4().hex
        return self.changed(
            _walk=Walk(fit if of_a_fit else None),
            _fit=fit,
            _data=self._data.renewed(),
            _indices=self._indices.renewed(),
            _indptr=self._indptr.renewed(),
        )

    def _check(self) -> None:
        for name, vector in (("indices", self._indices), ("indptr", self._indptr)):
            if vector.dtype.kind not in "iu":
                raise SourceError(
                    f"{self.label} has {name} of {vector.dtype}; they must be integers: write it again."
                )
        axis = "columns" if self.by_columns else "rows"
        if self._indptr.shape[0] != self.major + 1:
            raise SourceError(
                f"{self.label} has an indptr of {self._indptr.shape[0]} entries, its shape {self.shape} has "
                f"{self.major} {axis} and needs {self.major + 1}: the store is damaged, write it again."
            )
        if self._indices.shape[0] != self.nnz:
            raise SourceError(
                f"{self.label} has {self.nnz} values and {self._indices.shape[0]} indices; there must be as "
                "many: the store is damaged, write it again."
            )

    def find_facts(self) -> Facts:
        check_shape(self.shape)
        chunk = max(self._data.chunks[0], self._indices.chunks[0])
        cuts, counts, longest = self._scanned(chunk)
        each = self._entry_bytes
        before = counts * each + cuts * self._indptr.dtype.itemsize
        # A slab, and the rest of its last chunk, which belongs to the next slab.
        slab = min(self.nnz, max(slab_rows(1, each), longest) + chunk) * each
        return Facts(cuts, before, slab_bytes=slab)

    @property
    def _entry_bytes(self) -> int:
        """Decoded bytes of a nonzero and its index."""
        return self.dtype.itemsize + self._indices.dtype.itemsize

    def _scanned(self, chunk: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows where panels may be cut, nonzeros before each, and nonzeros of the longest row."""
        step = chunk * max(1, -(-self.nnz // chunk // _MOST_CUTS))
        rows, counts, longest, last = [0], [0], 0, 0
        for first in range(0, self.major, _SCANNED):
            stop = min(first + _SCANNED, self.major)
            offsets = _offsets(read(self._indptr, first, stop + 1))
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
        offsets = _offsets(blocks_of(self._indptr, start, stop + 1, self._walk))
        if offsets[-1] > self.nnz or offsets[0] < 0 or np.diff(offsets).min() < 0:
            raise DataChangedError(
                f"indptr of the sparse V does not rise between entries {start} and {stop}; it did when "
                "this fit began: V was changed, bring it back or fit anew."
            )
        begin, end = int(offsets[0]), int(offsets[-1])
        data = Stream(self._data, begin, end, self._walk, "data", self._visits)
        indices = Stream(self._indices, begin, end, self._walk, "indices", self._visits)
        most = slab_rows(1, self._entry_bytes)
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


def _encoding(attributes: Mapping[str, Any], label: str) -> tuple[str, tuple[int, int]]:
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
