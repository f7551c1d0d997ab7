"""Several stored matrices concatenated into one V, with their columns in a common order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from scipy.sparse import csr_array

from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.core.dtypes import working_dtype
from dasknmf.data.source import Chunks, Facts, Slab, Source, bytes_before, check_shape, nbytes_of
from dasknmf.errors import SourceError


class Concatenated(Source):
    """Stored matrices, concatenated along the rows. All slabs are sparse if one of the matrices is.

    Parameters
    ----------
    parts : sequence of Source
        The matrices, from the first rows to the last.
    columns : sequence of ndarray of int of shape (n_features,)
        For each part, indices of its columns in V's order, without repetition.
    feature_names : ndarray of str of shape (n_features,), optional

    Raises
    ------
    SourceError
        If a part cannot be read by rows.
    """

    def __init__(
        self,
        parts: Sequence[Source],
        columns: Sequence[np.ndarray],
        feature_names: np.ndarray | None = None,
    ) -> None:
        for part in parts:
            if part.by_columns:
                raise SourceError(
                    f"{part!r} cannot be stacked; parts must be stored matrices whose rows can be read: "
                    "store it as CSR, or as a Zarr array."
                )
        wanted = [np.asarray(column, dtype=np.int64) for column in columns]
        self._parts = tuple(parts)
        self._columns = _distinct(parts, wanted)
        self._edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self._edges[-1]), len(wanted[0]))
        self.dtype = np.result_type(*(part.dtype for part in parts))
        working_dtype(self.dtype)
        self.in_process = all(part.in_process for part in parts)
        self.sparse = any(part.sparse for part in parts)
        self.feature_names = feature_names

    def __repr__(self) -> str:
        return f"<Concatenated {self.shape} {self.dtype}, {len(self._parts)} parts>"

    def find_facts(self) -> Facts:
        check_shape(self.shape)
        sizes = np.cumsum([0, *map(nbytes_of, self._parts)])
        # The last cut of a part is the first of the next.
        cuts = [first + part.facts.cuts[:-1] for first, part in zip(self._edges, self._parts, strict=False)]
        before = [size + bytes_before(part)[:-1] for size, part in zip(sizes, self._parts, strict=False)]
        # A slab, and the columns that are selected from it, as they are converted.
        slabs = [int(part.facts.slab_bytes * (1 + self.shape[1] / part.shape[1])) for part in self._parts]
        return Facts(
            np.concatenate([*cuts, self._edges[-1:]]),
            np.concatenate([*before, sizes[-1:]]),
            slab_bytes=max(slabs),
        )

    def for_tasks(self) -> Self:
        return self.changed(_parts=tuple(part.for_tasks() for part in self._parts))

    @property
    def ahead_bytes(self) -> int:
        return max(part.ahead_bytes for part in self._parts)

    def visiting(self, rows: Sequence[slice]) -> Self:
        spans: list[list[slice]] = [[] for _ in self._parts]
        for each in rows:
            number = int(np.searchsorted(self._edges, each.start, side="right")) - 1
            while number < len(spans) and (first := int(self._edges[number])) < each.stop:
                last = int(self._edges[number + 1])
                spans[number].append(slice(max(each.start, first) - first, min(each.stop, last) - first))
                number += 1
        parts = (part.visiting(own) for part, own in zip(self._parts, spans, strict=True))
        return self.changed(_parts=tuple(parts))

    def renewed(self, *, of_a_fit: bool = False) -> Self:
        return self.changed(_parts=tuple(part.renewed(of_a_fit=of_a_fit) for part in self._parts))

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Slab]:
        spans = zip(itertools.pairwise(self._edges.tolist()), self._parts, self._columns, strict=True)
        for (first, last), part, columns in spans:
            if max(start, first) < min(stop, last):
                for slab in part.slabs(max(start, first) - first, min(stop, last) - first):
                    yield self._selected(slab, columns)

    def _selected(self, slab: Slab, columns: np.ndarray | None) -> Slab:
        assert not isinstance(slab, WeightedSlab)
        rows = slab if columns is None else slab[:, columns]
        if not self.sparse:
            return rows.astype(self.dtype, copy=False)
        rows = csr_array(rows)
        rows.sort_indices()
        rows.has_canonical_format = True  # the slab was canonical, and each column is selected once
        return rows.astype(self.dtype, copy=False)


def _distinct(parts: Sequence[Source], columns: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """Columns of each part; None for all in order. Equal arrays become one object, pickled once."""
    known: dict[bytes, np.ndarray] = {}
    found: list[np.ndarray | None] = []
    for part, chosen in zip(parts, columns, strict=True):
        in_order = np.array_equal(chosen, np.arange(part.shape[1]))
        found.append(None if in_order else known.setdefault(chosen.tobytes(), chosen))
    return found
