"""Chunks are decoded as zarr-python decodes them, or refused."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

from dasknmf.data.chunk_encoding import Encoding
from dasknmf.data.zarr_array import ZarrArray
from dasknmf.errors import SourceError
from dasknmf.io import retry
from dasknmf.io.counts import counting

pytestmark = pytest.mark.filterwarnings(
    "ignore:Numcodecs codecs are not in the Zarr version 3", "ignore:Combining a `sharding_indexed` codec"
)

SHAPE = (11, 6)
CHUNKS = ((4, 3), (4, 6), (3, 4), (16, 6), (4, 9))
DTYPES = ("u1", "i2", "f4", "f8")


def of_numcodecs(name, **configuration):
    """A codec of format 3 outside of its specification."""
    return {"name": f"numcodecs.{name}", "configuration": configuration}


CODECS = {
    "none": [],
    "crc32c": [Crc32cCodec()],
    "blosc lz4": [BloscCodec(cname="lz4", shuffle="bitshuffle")],
    "blosc zstd, crc32c": [BloscCodec(cname="zstd", shuffle="shuffle"), Crc32cCodec()],
    "blosc without compression": [BloscCodec(cname="lz4", clevel=0, shuffle="noshuffle")],
    "zstd": [ZstdCodec()],
    "zstd with checksum": [ZstdCodec(checksum=True)],
    "crc32c, gzip": [Crc32cCodec(), GzipCodec()],
    "zlib": [of_numcodecs("zlib")],
    "lz4": [of_numcodecs("lz4")],
    "zstd, lz4": [of_numcodecs("zstd"), of_numcodecs("lz4")],
}
"""Codecs of format 3, in the order of encoding."""
CODECS_2 = {
    "none": None,
    "blosc lz4": numcodecs.Blosc("lz4", shuffle=2),
    "blosc zstd": numcodecs.Blosc("zstd", shuffle=1),
    "zstd": numcodecs.Zstd(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
}
SHARDS = (None, "end", "start")
ENDIAN = {"<": "little", ">": "big"}


def values(shape, dtype):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def make(
    store,
    *,
    codec,
    dtype="f4",
    order="<",
    fortran=False,
    index=None,
    fill=3,
    shape=SHAPE,
    chunks=(4, 3),
    rows=None,
):
    """An array of format 3, of which so many rows are written; all by default."""
    array = zarr.create_array(
        store,
        shape=shape,
        chunks=chunks,
        shards=index and {"shape": tuple(2 * each for each in chunks), "index_location": index},
        dtype=dtype,
        filters=[TransposeCodec(order=(1, 0))] if fortran else [],
        serializer=BytesCodec(endian=ENDIAN[order] if np.dtype(dtype).itemsize > 1 else None),
        compressors=CODECS[codec],
        fill_value=fill,
    )
    array[:rows] = values(shape, dtype)[:rows]
    return array


def make_2(store, *, codec, dtype="f4", order="<", fortran=False, fill=3, chunks=(4, 3), rows=None):
    """An array of format 2."""
    array = zarr.create_array(
        store,
        shape=SHAPE,
        chunks=chunks,
        dtype=np.dtype(dtype).newbyteorder(order),
        order="F" if fortran else "C",
        compressors=CODECS_2[codec],
        filters=None,
        fill_value=fill,
        zarr_format=2,
    )
    array[:rows] = values(SHAPE, dtype)[:rows]
    return array


def assert_same(array, *parts):
    """Parts along both axes, without the help of zarr-python."""
    stored = ZarrArray(array)._stored
    assert stored is not None
    n, m = array.shape
    for part, axis in parts or ((slice(0, n), 0), (slice(0, 4), 0), (slice(3, 9), 0), (slice(1, m), 1)):
        expected = array[part] if axis == 0 else array[:, part]
        found = stored.read(part, axis)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.size == 0 or found.strides == expected.strides
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("index", SHARDS)
def test_format_3(tmp_path, codec, index):
    for number, (dtype, order, fortran) in enumerate(itertools.product(DTYPES, "<>", (False, True))):
        fill, chunks = 3 * (number % 3 > 0), CHUNKS[number % len(CHUNKS)]
        # The chunks of the last rows are never written.
        encoding = {"codec": codec, "dtype": dtype, "order": order, "fortran": fortran, "index": index}
        assert_same(make(tmp_path / str(number), **encoding, fill=fill, chunks=chunks, rows=7))


@pytest.mark.parametrize("codec", CODECS_2)
def test_format_2(tmp_path, codec):
    for number, (dtype, order, fortran) in enumerate(itertools.product(DTYPES, "<>", (False, True))):
        fill, chunks = (None, 0, 3)[number % 3], CHUNKS[number % len(CHUNKS)]
        encoding = {"codec": codec, "dtype": dtype, "order": order, "fortran": fortran}
        assert_same(make_2(tmp_path / str(number), **encoding, fill=fill, chunks=chunks, rows=7))


@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    chunks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["?", "i1", "u2", "f2", "i4", "u8", "f8"]),
    codec=st.sampled_from(sorted(CODECS)),
    index=st.sampled_from(SHARDS),
    fortran=st.booleans(),
    order=st.sampled_from("<>"),
)
def test_any_part_of_any_array(data, shape, chunks, dtype, codec, index, fortran, order):
    rows = data.draw(st.integers(0, shape[0]))
    array = make(
        MemoryStore(),
        codec=codec,
        dtype=dtype,
        order=order,
        fortran=fortran,
        index=index,
        fill=1,
        shape=shape,
        chunks=chunks,
        rows=rows,
    )
    for axis in (0, 1):
        start = data.draw(st.integers(0, shape[axis] - 1))
        assert_same(array, (slice(start, data.draw(st.integers(start, shape[axis]))), axis))


@pytest.mark.parametrize("order", ["<", ">"])
def test_special_values(tmp_path, order):
    array = make(tmp_path / "a", codec="zstd", order=order, fill=np.nan, rows=0)
    array[:4] = np.tile(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], "f4"), (4, 1))
    assert_same(array)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": numcodecs.BZ2(), "zarr_format": 2},
        {"filters": [numcodecs.Delta("f4")], "zarr_format": 2},
        {"compressors": [of_numcodecs("bz2")]},
        {"filters": [of_numcodecs("delta", dtype="f4")]},
        {"compressors": [of_numcodecs("crc32c")]},
        {"serializer": ShardingCodec(chunk_shape=(2, 3)), "compressors": [ZstdCodec()]},
        {"dtype": "c8"},
    ],
    ids=str,
)
def test_other_encodings_are_read_by_zarr(tmp_path, options):
    array = zarr.create_array(tmp_path / "a", **({"shape": SHAPE, "chunks": (4, 6), "dtype": "f4"} | options))
    array[:] = values(SHAPE, "f4")
    read = ZarrArray(array)
    assert read._stored is None
    np.testing.assert_array_equal(read.read(slice(0, 11), 0, "rows"), values(SHAPE, "f4"))


def outcome(read):
    """The bytes that are read; None if the read fails."""
    try:
        return np.ascontiguousarray(read()).tobytes()
    except Exception:
        return None


def refusals(array, file, contents):
    """How many contents of a file are refused; the others must be read as zarr-python reads them."""
    read, refused = ZarrArray(array), 0
    for content in contents:
        file.write_bytes(content)
        found = outcome(lambda: read.read(slice(0, array.shape[0]), 0, "all rows"))
        refused += found is None
        assert found is None or found == outcome(lambda: array[:])
    return refused


def flipped(whole, places):
    for bit, place in enumerate(places):
        content = bytearray(whole)
        content[place] ^= 1 << bit % 8
        yield bytes(content)


@pytest.mark.parametrize(
    ("codec", "index"),
    [(codec, index) for codec in CODECS for index in (None, "end") if index or codec != "none"],
)
def test_damaged_chunks(tmp_path, codec, index):
    array = make(tmp_path / "a", codec=codec, index=index, chunks=(4, 3) if index else (11, 6))
    file = next(file for file in (tmp_path / "a" / "c").rglob("*") if file.is_file())
    whole = file.read_bytes()
    cut = [whole[:length] for length in (0, 1, 5, len(whole) // 2, len(whole) - 1)]
    places = np.random.default_rng(0).integers(0, len(whole), 20)
    assert refusals(array, file, [*cut, whole + bytes(7), *flipped(whole, places)]) >= len(cut)


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_wrong_indices_of_shards(tmp_path, index_location):
    sharding = ShardingCodec(
        chunk_shape=(4, 3),
        codecs=[BytesCodec(), ZstdCodec()],
        index_codecs=[BytesCodec(endian="big")],
        index_location=index_location,
    )
    array = zarr.create_array(
        tmp_path / "a", shape=(8, 6), chunks=(8, 6), dtype="f4", serializer=sharding, compressors=None
    )
    array[:] = values((8, 6), "f4")
    assert_same(array, (slice(0, 8), 0))
    file = tmp_path / "a" / "c" / "0" / "0"
    whole = file.read_bytes()
    index = range(64) if index_location == "start" else range(len(whole) - 64, len(whole))
    swapped = bytearray(whole)  # the first two chunks are exchanged
    swapped[index[0] : index[32]] = whole[index[16] : index[32]] + whole[index[0] : index[16]]
    assert refusals(array, file, [bytes(swapped), *flipped(whole, index[::2])]) > 16


@pytest.mark.parametrize("codec", ["blosc lz4", "zstd", "lz4", "crc32c, gzip", "crc32c"])
def test_a_truncated_chunk_is_named(tmp_path, codec):
    read = ZarrArray(make(tmp_path / "a", codec=codec))
    file = tmp_path / "a" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"rows 0 to 3 of V at file:.*a cannot be read \(.*V must stay"):
        read.read(slice(0, 4), 0, "rows 0 to 3 of V")
    np.testing.assert_array_equal(read.read(slice(4, 8), 0, "rows"), values(SHAPE, "f4")[4:8])


def test_a_chunk_of_another_size_is_refused(tmp_path):
    """Codecs decode into a larger place without an error."""
    for codec in CODECS:
        small = make(tmp_path / "small" / codec, codec=codec, chunks=(2, 3))
        array = make(tmp_path / "large" / codec, codec=codec)
        chunk = Path("c") / "0" / "0"
        (tmp_path / "large" / codec / chunk).write_bytes((tmp_path / "small" / codec / chunk).read_bytes())
        assert small.chunks != array.chunks
        with pytest.raises(SourceError, match="cannot be read"):
            ZarrArray(array).read(slice(0, 11), 0, "rows")


def test_an_error_is_left_to_zarr(tmp_path, monkeypatch):
    array = make(tmp_path / "a", codec="zstd")
    monkeypatch.setattr(Encoding, "decode", lambda *_: 1 / 0)
    np.testing.assert_array_equal(ZarrArray(array).read(slice(0, 11), 0, "rows"), values(SHAPE, "f4"))


@pytest.mark.parametrize("index", SHARDS)
@pytest.mark.parametrize("place", ["directory", "memory", "fsspec"])
def test_every_store_and_its_bytes(tmp_path, place, index):
    stores = {
        "directory": lambda: LocalStore(tmp_path / "a"),
        "memory": MemoryStore,
        "fsspec": lambda: FsspecStore.from_url(f"memory://{tmp_path}"),
    }
    array = make(stores[place](), codec="blosc lz4", index=index, chunks=(4, 6))
    assert_same(array)
    read, nbytes = ZarrArray(array), []
    for _ in range(2):
        with counting() as counts:
            read.read(slice(0, 11), 0, "rows")
        nbytes.append(counts.nbytes)
        read._stored = None  # the second time by zarr-python
    assert nbytes[0] == nbytes[1] > 0
    copy = pickle.loads(pickle.dumps(ZarrArray(array)))
    if place != "memory":
        np.testing.assert_array_equal(copy.read(slice(0, 11), 0, "rows"), values(SHAPE, "f4"))


class Slow(WrapperStore):
    """A store that answers late, and of which the first requests for chunks fail."""

    waiting = together = failures = 0

    async def get(self, key, prototype, byte_range=None):
        if "c/" in key:
            Slow.failures -= 1
            if Slow.failures >= 0:
                raise TimeoutError
            Slow.waiting += 1
            Slow.together = max(Slow.together, Slow.waiting)
            await asyncio.sleep(0.01)
            Slow.waiting -= 1
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("index", SHARDS)
def test_chunks_of_a_store_are_requested_together(monkeypatch, index):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 1e-3)
    array = make(MemoryStore(), codec="zstd", index=index, chunks=(1, 3))
    read = ZarrArray(zarr.open_array(Slow(array.store), mode="r"))
    Slow.failures, Slow.together = 3, 0
    with counting() as counts:
        np.testing.assert_array_equal(read.read(slice(0, 11), 0, "rows"), values(SHAPE, "f4"))
    assert counts.retries == 3
    assert 6 <= Slow.together <= zarr.config.get("async.concurrency")


@pytest.mark.parametrize("chunks", [(10, 500), (10, 250)])
def test_threads_share_nothing(tmp_path, chunks):
    array = make(tmp_path / "a", codec="blosc lz4", shape=(400, 500), chunks=chunks)
    read, A = ZarrArray(array), values((400, 500), "f4")
    with ThreadPoolExecutor(8) as pool:
        slabs = list(pool.map(lambda at: read.read(slice(at, at + 20), 0, "rows"), [*range(0, 381, 20)] * 4))
    np.testing.assert_array_equal(np.concatenate(slabs), np.concatenate([A] * 4))
