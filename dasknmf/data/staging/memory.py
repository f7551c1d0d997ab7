"""Panels kept in this process; and what every stage makes of a slab."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from dask.task_spec import GraphNode

from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Reader, Slab, Source, nbytes_of
from dasknmf.io.metered import fetched


@dataclass(frozen=True)
class Packed:
    """A slab in one piece of memory of its own.

    Parameters
    ----------
    buffer : ndarray
        C-contiguous, so that it comes back from pickles and files as it went.
    order : {"C", "F", "P"}
        How the slab lies in it: as it is, transposed, or padded by a column. Sums run in memory
        order, and a copy in another one would differ in last bits.
    """

    buffer: np.ndarray
    order: str

    @classmethod
    def of(cls, slab: np.ndarray) -> Packed:
        """Its slab in as much memory as its values take."""
        unit = slab.itemsize
        # Where no axis is contiguous, tiles are copied in C order before anything is computed.
        if slab.flags.c_contiguous or unit not in slab.strides:
            return cls(_compact(slab), "C")
        if slab.strides[0] == unit:
            return cls(_compact(slab.T), "F")
        padded = np.zeros((slab.shape[0], slab.shape[1] + 1), slab.dtype)
        padded[:, :-1] = slab
        return cls(padded, "P")

    def slab(self) -> np.ndarray:
        if self.order == "P":
            return self.buffer[:, :-1]
        return self.buffer.T if self.order == "F" else self.buffer

    @property
    def nbytes(self) -> int:
        return int(self.buffer.nbytes)

    @property
    def parts(self) -> list[tuple[str, np.ndarray]]:
        """A letter and a matrix for each piece of memory."""
        return [(self.order, self.buffer)]


@dataclass(frozen=True)
class PackedSparse:
    """A sparse slab, each of its arrays in one piece of memory of its own."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_features: int

    LETTERS = "dipm"

    @classmethod
    def of(cls, slab: scipy.sparse.csr_array) -> PackedSparse:
        """Its slab in as much memory as its nonzeros take."""
        return cls(_compact(slab.data), _compact(slab.indices), _compact(slab.indptr), slab.shape[1])

    @classmethod
    def of_parts(cls, parts: list[np.ndarray]) -> PackedSparse:
        """What `parts` gave, without its letters."""
        data, indices, indptr, n_features = (part[0] for part in parts)
        return cls(data, indices, indptr, int(n_features[0]))

    def slab(self) -> scipy.sparse.csr_array:
        shape = (self.indptr.size - 1, self.n_features)
        return scipy.sparse.csr_array((self.data, self.indices, self.indptr), shape=shape)

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes + self.indices.nbytes + self.indptr.nbytes)

    @property
    def parts(self) -> list[tuple[str, np.ndarray]]:
        """A letter and a matrix for each piece of memory."""
        pieces = (self.data, self.indices, self.indptr, np.array([self.n_features]))
        return [(letter, piece[None]) for letter, piece in zip(self.LETTERS, pieces, strict=True)]


@dataclass(frozen=True)
class PackedWeighted:
    """A dense slab with the weights of its entries."""

    values: Packed
    weights: Packed

    LETTERS = "OVW"

    @classmethod
    def of(cls, slab: WeightedSlab) -> PackedWeighted:
        assert slab.weights is not None
        assert isinstance(slab.values, np.ndarray)
        return cls(Packed.of(slab.values), Packed.of(slab.weights))

    @classmethod
    def of_parts(cls, parts: list[np.ndarray]) -> PackedWeighted:
        """What `parts` gave, without its letters."""
        orders, values, weights = parts
        return cls(Packed(values, chr(orders[0, 0])), Packed(weights, chr(orders[0, 1])))

    def slab(self) -> WeightedSlab:
        return WeightedSlab(self.values.slab(), self.weights.slab())

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.weights.nbytes

    @property
    def parts(self) -> list[tuple[str, np.ndarray]]:
        """A letter and a matrix for each piece of memory."""
        orders = np.array([[ord(self.values.order), ord(self.weights.order)]])
        return [("O", orders), ("V", self.values.buffer), ("W", self.weights.buffer)]


def packed(slab: Any) -> AnyPacked:
    """The slab as a stage keeps it."""
    if isinstance(slab, WeightedSlab):
        return PackedWeighted.of(slab)
    return PackedSparse.of(slab) if scipy.sparse.issparse(slab) else Packed.of(slab)


AnyPacked = Packed | PackedSparse | PackedWeighted


def _compact(array: np.ndarray) -> np.ndarray:
    """The array in C order, copied where it would keep more memory alive than its own."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if array.flags.c_contiguous and root.base is None and root.nbytes == array.nbytes:
        return array
    return np.array(array, order="C")


class Staged(Source):
    """A source behind a stage: what its wrappers share."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shape = source.shape
        self.dtype = source.dtype
        self.in_process = source.in_process
        self.slab_bytes = source.slab_bytes
        self.sparse = source.sparse
        self.cuts, self.cut_bytes = source.cuts, source.cut_bytes
        self.slab_copies = source.slab_copies
        self.kept_bytes = source.kept_bytes
        self.entries = source.entries
        self.negatives_advice = source.negatives_advice
        self.staged_bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of V as it is stored, decoded."""
        return nbytes_of(self._source)


class KeptSource(Staged):
    """A source whose panels stay in this process once they were read."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.staged_bytes = self.nbytes
        self.reader: KeptReader = KeptReader(source.reader)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return [] if self.reader.keeps(panel.start) else self._source.chunk_keys(panel)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._source.upstream()


class KeptReader(Reader):
    """Reads each panel once; never leaves the process, so all tasks share what it keeps."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._panels: dict[int, list[AnyPacked]] = {}

    def keeps(self, start: int) -> bool:
        return start in self._panels

    def anew(self, *, of_a_fit: bool = False) -> Reader:
        again = copy.copy(self)
        again._reader = self._reader.anew(of_a_fit=of_a_fit)
        return again

    def slabs(self, start: int, stop: int, chunks: Chunks) -> Iterator[Slab]:
        if start in self._panels:
            fetched(0)
            for kept in self._panels[start]:
                yield kept.slab()
            return
        panel = []
        for slab in self._reader.slabs(start, stop, chunks):
            panel.append(packed(slab))
            yield panel[-1].slab()
        self._panels[start] = panel
