"""Slabs as a stage keeps them: in their own memory, with unchanged values, dtype and memory order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from dasknmf.core.blocks.entries import WeightedSlab
from dasknmf.data.source import Slab


@dataclass(frozen=True)
class Packed:
    """A slab as C-contiguous arrays, which pickles and files preserve.

    Parameters
    ----------
    kind : str
        "C", "F" or "P" for a dense slab stored as it is, transposed, or padded by a column: sums run in
        memory order, and another order would change the last bits. Two such letters for a slab with
        weights of its entries. "S" and the number of columns for a sparse slab.
    pieces : tuple of ndarray
        The arrays.
    """

    kind: str
    pieces: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, slab: Slab) -> Packed:
        """The packed form of a slab, without unused memory."""
        if isinstance(slab, WeightedSlab):
            assert slab.weights is not None
            values, weights = cls.of(slab.values), cls.of(slab.weights)
            return cls(values.kind + weights.kind, values.pieces + weights.pieces)
        if not isinstance(slab, np.ndarray):
            return cls(f"S{slab.shape[1]}", tuple(map(_compact, (slab.data, slab.indices, slab.indptr))))
        unit = slab.itemsize
        # If no axis is contiguous, tiles are copied to C order before any computation.
        if slab.flags.c_contiguous or unit not in slab.strides:
            return cls("C", (_compact(slab),))
        if slab.strides[0] == unit:
            return cls("F", (_compact(slab.T),))
        padded = np.zeros((slab.shape[0], slab.shape[1] + 1), slab.dtype)
        padded[:, :-1] = slab
        return cls("P", (padded,))

    @staticmethod
    def n_pieces(kind: str) -> int:
        """Number of arrays of a kind of slab."""
        return 3 if kind.startswith("S") else len(kind)

    def slab(self) -> Slab:
        """The slab, as views of the arrays."""
        if self.kind.startswith("S"):
            shape = (self.pieces[2].size - 1, int(self.kind[1:]))
            return scipy.sparse.csr_array(self.pieces, shape=shape)
        matrices = [_laid_out(piece, order) for piece, order in zip(self.pieces, self.kind, strict=True)]
        return matrices[0] if len(matrices) == 1 else WeightedSlab(*matrices)

    @property
    def nbytes(self) -> int:
        return sum(int(piece.nbytes) for piece in self.pieces)


def _laid_out(piece: np.ndarray, order: str) -> np.ndarray:
    if order == "P":
        return piece[:, :-1]
    return piece.T if order == "F" else piece


def _compact(array: np.ndarray) -> np.ndarray:
    """The array in C order, copied if it is a view of a larger array."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if array.flags.c_contiguous and root.base is None and root.nbytes == array.nbytes:
        return array
    return np.array(array, order="C")
