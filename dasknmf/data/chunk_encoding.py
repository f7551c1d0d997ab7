"""How chunks are stored: which codecs, in which order of bytes and axes, in which shards of a Zarr array."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import google_crc32c
import numpy as np
import zarr
from numcodecs import Shuffle, get_codec
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest

from dasknmf.data import lzf

_NEVER_WRITTEN = 2**64 - 1
"""Offset and size, in the index of a shard, of a chunk that was never written."""

Encoded: TypeAlias = "np.ndarray | bytes"


class TruncatedChunk(ValueError):
    """Error for a chunk that is shorter than it was written: Blosc would decode the memory behind it."""


@dataclass(frozen=True)
class Encoding:
    """The encoding of chunks.

    Parameters
    ----------
    axes : tuple of int
        The array's axes, from the slowest to the fastest in a stored chunk.
    dtype : numpy.dtype
        Dtype of the stored values, with their byte order.
    codecs : tuple of str
        Names of codecs of bytes, in the order in which they decode.
    index : ShardIndex or None
        None if the array has no shards.
    """

    axes: tuple[int, ...]
    dtype: np.dtype
    codecs: tuple[str, ...]
    index: ShardIndex | None = None

    @classmethod
    def of(cls, array: zarr.Array) -> Encoding | None:
        """The encoding of an array's chunks; None if it is not supported here."""
        axes, dtype, index = tuple(range(array.ndim)), np.dtype(array.dtype), None
        if dtype.kind not in "biuf":
            return None
        metadata = array.metadata
        if metadata.zarr_format == 2:
            axes = axes[::-1] if metadata.order == "F" else axes
            names = (f"numcodecs.{metadata.compressor.codec_id}",) if metadata.compressor else ()
            return None if metadata.filters or set(names) - set(_CODECS) else cls(axes, dtype, names)
        steps: Sequence[Any] = [codec.to_dict() for codec in metadata.codecs]
        if array.shards:
            sharding = steps[0]["configuration"]
            steps, index = sharding["codecs"], ShardIndex.of(array, sharding)
            if index is None:
                return None
        return cls.of_steps(steps, axes, dtype, index)

    @classmethod
    def of_steps(
        cls, steps: Sequence[Any], axes: tuple[int, ...], dtype: np.dtype, index: ShardIndex | None = None
    ) -> Encoding | None:
        """The encoding by codecs of format 3, which are given as in metadata, in the order of encoding."""
        names = [step["name"] for step in steps]
        at = names.index("bytes") if "bytes" in names else len(names)
        if at == len(names) or set(names[:at]) - {"transpose"} or set(names[at + 1 :]) - set(_CODECS):
            return None
        for step in steps[:at]:
            axes = tuple(axes[axis] for axis in step["configuration"]["order"])
        order = steps[at].get("configuration", {}).get("endian", "little")
        return cls(axes, dtype.newbyteorder(order), tuple(names[:at:-1]), index)

    def decode(self, encoded: Encoded, target: np.ndarray) -> None:
        """Decode a chunk.

        Parameters
        ----------
        encoded : ndarray of uint8, or bytes
        target : ndarray of uint8
            Contiguous memory of the decoded size.

        Raises
        ------
        TruncatedChunk
        ValueError
            If the chunk has another size, or a wrong checksum. Codecs raise exceptions of other classes.
        """
        for place, name in enumerate(self.codecs, 1):
            codec = _CODECS[name]
            if codec.into and place == len(self.codecs) and codec.fills(encoded, target.nbytes):
                codec.into(encoded, target)
                return
            encoded = codec.decode(encoded, target.nbytes)
        values = np.frombuffer(encoded, np.uint8)
        if len(values) != len(target):
            raise ValueError(f"a chunk has {len(values)} bytes instead of {len(target)}")
        target[:] = values


@dataclass(frozen=True)
class ShardIndex:
    """The index of shards: offset and size of each chunk, in bytes.

    Parameters
    ----------
    shape : tuple of int
        Number of chunks of a shard along each axis.
    encoding : Encoding
        The encoding of the index.
    at_start : bool
        Whether the index is at the start of a shard; otherwise it is at the end.
    """

    shape: tuple[int, ...]
    encoding: Encoding
    at_start: bool

    @classmethod
    def of(cls, array: zarr.Array, sharding: Any) -> ShardIndex | None:
        """The index by the configuration of the sharding codec; None if it is not supported here."""
        shape = tuple(
            shard // chunk for shard, chunk in zip(array.shards or array.chunks, array.chunks, strict=True)
        )
        axes = tuple(range(array.ndim + 1))
        encoding = Encoding.of_steps(sharding["index_codecs"], axes, np.dtype(np.uint64))
        if encoding is None or encoding.axes != axes or set(encoding.codecs) - {"crc32c"}:
            return None  # the size of an index with other codecs varies
        return cls(shape, encoding, sharding["index_location"] == "start")

    @property
    def request(self) -> ByteRequest:
        """The place of the index in a shard."""
        nbytes = self._nbytes + 4 * len(self.encoding.codecs)
        return RangeByteRequest(0, nbytes) if self.at_start else SuffixByteRequest(nbytes)

    @property
    def _nbytes(self) -> int:
        return 16 * math.prod(self.shape)

    def spans(self, encoded: Encoded, chunks: Sequence[tuple[int, ...]]) -> list[RangeByteRequest | None]:
        """The place of each chunk in the shard; None for chunks that were never written."""
        decoded = np.empty(self._nbytes, np.uint8)
        self.encoding.decode(encoded, decoded)
        entries = decoded.view(self.encoding.dtype).reshape(*self.shape, 2)
        places = (tuple(at % n for at, n in zip(chunk, self.shape, strict=True)) for chunk in chunks)
        found = (entries[place].tolist() for place in places)
        return [
            None if start == size == _NEVER_WRITTEN else RangeByteRequest(start, start + size)
            for start, size in found
        ]


@dataclass(frozen=True)
class _Codec:
    """A codec of bytes.

    Parameters
    ----------
    decode : callable
        Decodes bytes; its second argument is the probable decoded size.
    into : callable, optional
        Decodes bytes into a target.
    fills : callable
        Whether the decoded size is that of a target, in bytes: a codec that decodes into a larger target
        raises no error. `into` is called only after this check.
    """

    decode: Callable[[Encoded, int], Encoded]
    into: Callable[[Encoded, np.ndarray], object] | None = None
    fills: Callable[[Encoded, int], bool] = lambda encoded, nbytes: True


def _of_numcodecs(codec: Any, size: Callable[[Encoded], int | None]) -> _Codec:
    return _Codec(
        lambda encoded, _: codec.decode(encoded),
        codec.decode,
        lambda encoded, nbytes: size(encoded) == nbytes,
    )


def _inflated(encoded: Encoded, nbytes: int, wbits: int = zlib.MAX_WBITS) -> Encoded:
    """Bytes of a zlib stream. Memory of the final size is allocated at once, which the default is not."""
    return zlib.decompress(np.frombuffer(encoded, np.uint8).data, wbits, max(1, nbytes))


def _without_crc32c(encoded: Encoded, nbytes: int) -> Encoded:
    """The bytes before the checksum of format 3, which is the last four bytes of a chunk."""
    if google_crc32c.value(encoded[:-4]).to_bytes(4, "little") != bytes(encoded[-4:]):
        raise ValueError("the checksum of a chunk is wrong")
    return encoded[:-4]


def _blosc_size(encoded: Encoded) -> int | None:
    if len(encoded) < max(16, _integer(encoded[12:16])):
        raise TruncatedChunk(
            f"a Blosc chunk ends after {len(encoded)} bytes, before the end that its header says"
        )
    return _integer(encoded[4:8])


def _lz4_size(encoded: Encoded) -> int | None:
    return _integer(encoded[:4])


def _zstd_size(encoded: Encoded) -> int | None:
    """The content size in the header of a Zstandard frame (RFC 8878), which may be absent."""
    if len(encoded) < 5 or bytes(encoded[:4]) != b"\x28\xb5\x2f\xfd":
        return None
    flags = int(encoded[4])
    is_single_segment = flags >> 5 & 1
    nbytes = (is_single_segment, 2, 4, 8)[flags >> 6]
    begin = 6 - is_single_segment + (0, 1, 2, 4)[flags & 3]
    size = _integer(encoded[begin : begin + nbytes])
    return size + 256 if nbytes == 2 else size if nbytes else None


def _integer(encoded: Encoded) -> int:
    return int.from_bytes(bytes(encoded), "little")


_SIZES: dict[str, Callable[[Encoded], int | None]] = {
    "blosc": _blosc_size,
    "lz4": _lz4_size,
    "zstd": _zstd_size,
}
"""Functions that give the decoded size of encoded bytes; None if only decoding shows it."""
_CODECS = {f"numcodecs.{name}": _of_numcodecs(get_codec({"id": name}), size) for name, size in _SIZES.items()}
"""Codecs of bytes by their names in format 3. Those of format 2 have the names of numcodecs."""
_CODECS["numcodecs.gzip"] = _Codec(partial(_inflated, wbits=16 + zlib.MAX_WBITS))
_CODECS["numcodecs.zlib"] = _Codec(_inflated)
_CODECS |= {name: _CODECS[f"numcodecs.{name}"] for name in ("blosc", "gzip", "zstd")}
_CODECS["crc32c"] = _Codec(_without_crc32c)

# Filters of HDF5; its gzip is a zlib stream.
_CODECS["hdf5.gzip"] = _CODECS["numcodecs.zlib"]
_CODECS["hdf5.lzf"] = _Codec(lzf.decode, lzf.decode_into)
_CODECS |= {f"hdf5.shuffle{itemsize}": _of_numcodecs(Shuffle(itemsize), len) for itemsize in (1, 2, 4, 8, 16)}
