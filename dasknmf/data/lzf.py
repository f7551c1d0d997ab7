"""A decoder of LZF, the fast filter of h5py: HDF5's own decoder can be called with HDF5's lock only.

An encoded chunk is a sequence of literal runs and of references to earlier output. Each begins with a
control byte: below 32, that many bytes plus one follow literally; otherwise the upper three bits are the
length less two (if they are seven, the next byte is added), and the lower five and the next byte are the
distance less one.
"""

from __future__ import annotations

import numpy as np

from dasknmf.core.kernel import kernel


def decode(encoded: np.ndarray | bytes, nbytes: int) -> np.ndarray:
    """The decoded bytes of a chunk.

    Raises
    ------
    ValueError
        If the chunk does not decode to `nbytes` bytes.
    """
    decoded = np.empty(nbytes, np.uint8)
    decode_into(encoded, decoded)
    return decoded


def decode_into(encoded: np.ndarray | bytes, target: np.ndarray) -> None:
    """Decode a chunk into an array of uint8 of the decoded size.

    Raises
    ------
    ValueError
        If the decoded size is not the size of `target`.
    """
    if _decode(np.frombuffer(encoded, np.uint8), target) != len(target):
        raise ValueError(f"an LZF chunk of {len(encoded)} bytes does not decode to {len(target)} bytes")


@kernel
def _decode(encoded: np.ndarray, target: np.ndarray) -> int:
    """Number of decoded bytes; -1 if the encoded bytes are damaged or do not fit the target."""
    size, room = len(encoded), len(target)
    at = end = 0
    while at < size:
        control = int(encoded[at])
        at += 1
        if control < 32:
            length = control + 1
            if at + length > size or end + length > room:
                return -1
            for k in range(length):
                target[end + k] = encoded[at + k]
            at += length
        else:
            length = control >> 5
            if length == 7 and at < size:
                length += int(encoded[at])
                at += 1
            length += 2
            if at >= size or end + length > room:
                return -1
            begin = end - 1 - ((control & 31) << 8) - int(encoded[at])
            at += 1
            if begin < 0:
                return -1
            for k in range(length):  # in this order: a reference may reach into its own output
                target[end + k] = target[begin + k]
        end += length
    return end
