"""Datasets of HDF5 files are read by position as h5py reads them, or left to h5py."""

from __future__ import annotations

import errno
import os
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasknmf.data import hdf5_chunks, lzf
from dasknmf.data.hdf5_array import Hdf5Array
from dasknmf.errors import SourceError
from dasknmf.io.counts import counting

SHAPE = (11, 6)
CHUNKS = ((4, 3), (4, 6), (3, 4), (11, 6), (7, 5), (1, 1))
DTYPES = ("u1", "i2", "f4", "f8", "f2", "?", "i8")
FILTERS = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "gzip, shuffle": {"compression": "gzip", "shuffle": True},
    "lzf": {"compression": "lzf"},
    "lzf, shuffle": {"compression": "lzf", "shuffle": True},
}
OTHERS = {
    "fletcher32": {"fletcher32": True},
    "gzip, fletcher32": {"compression": "gzip", "fletcher32": True},
    "scale-offset": {"scaleoffset": 0},
}
if h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
    OTHERS["szip"] = {"compression": "szip"}


def values(shape, dtype):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def make(path, *, dtype="f4", order="<", shape=SHAPE, rows=None, userblock=0, libver="earliest", **options):
    """A file with the dataset X, of which so many rows are written; all by default."""
    with h5py.File(path, "w", userblock_size=userblock, libver=libver) as file:
        X = file.create_dataset("X", shape=shape, dtype=np.dtype(dtype).newbyteorder(order), **options)
        if np.prod(shape):
            X[:rows] = values(shape, dtype)[:rows]
    return str(path)


def by_position(path, part, axis, name="X"):
    array = Hdf5Array(path, name)
    return hdf5_chunks.read(path, name, array.shape, array.dtype, part, axis)


def assert_same(path, *parts, by_axes=(0, 1)):
    """Parts along both axes, without the help of h5py."""
    with h5py.File(path, "r") as file:
        expected = file["X"][()]
    n, m = expected.shape
    for part, axis in parts or ((slice(0, n), 0), (slice(0, 4), 0), (slice(3, 9), 0), (slice(1, m), 1)):
        if axis not in by_axes:
            continue
        along = (*(slice(None),) * axis, part)
        found = by_position(path, part, axis)
        assert found is not None
        assert found.shape == expected[along].shape
        np.testing.assert_array_equal(found, expected[along])
        assert Hdf5Array(path, "X").read(part, axis, "V").dtype == expected.dtype.newbyteorder("=")


def assert_left(path, name="X"):
    """h5py reads the dataset, also without an attempt to read it by position that fails."""
    with h5py.File(path, "r") as file:
        expected = file[name][()]
    assert by_position(path, slice(0, 4), 0, name) is None
    np.testing.assert_array_equal(Hdf5Array(path, name).read(slice(0, 4), 0, "V"), expected[:4])


@pytest.mark.parametrize("filters", FILTERS)
def test_chunks(tmp_path, filters):
    for number, (dtype, order, chunks) in enumerate(product(DTYPES, "<>", CHUNKS)):
        path = make(
            tmp_path / str(number),
            dtype=dtype,
            order=order,
            chunks=chunks,
            rows=(7, 11, 0)[number % 3],  # the chunks of the last rows are never written
            fillvalue=(None, 1)[number % 2],
            libver=("earliest", "latest")[number % 2],
            userblock=(0, 512)[number // 2 % 2],
            **FILTERS[filters],
        )
        assert_same(path)


def test_shuffle_alone(tmp_path):
    assert_same(make(tmp_path / "a", chunks=(11, 3), shuffle=True))
    assert_left(make(tmp_path / "b", chunks=(4, 3), shuffle=True))


@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_contiguous(tmp_path, dtype, order, userblock):
    path = make(tmp_path / "a", dtype=dtype, order=order, userblock=userblock)
    assert_same(path, by_axes=(0,))
    assert by_position(path, slice(1, 3), 1) is None
    found = Hdf5Array(path, "X").read(slice(1, 3), 1, "V")
    np.testing.assert_array_equal(found, values(SHAPE, dtype)[:, 1:3])


@pytest.mark.parametrize("filters", OTHERS)
def test_other_filters_are_left_to_h5py(tmp_path, filters):
    assert_left(make(tmp_path / "a", dtype="i4", chunks=(4, 4), **OTHERS[filters]))


def test_other_layouts_are_left_to_h5py(tmp_path):
    one = make(tmp_path / "one", chunks=(4, 3))
    with h5py.File(tmp_path / "a", "w") as file:
        layout = h5py.VirtualLayout(SHAPE, "f4")
        layout[:] = h5py.VirtualSource(one, "X", SHAPE)
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink(one, "X")
        file.create_dataset("never written", SHAPE, "f4", fillvalue=2)
        file.create_dataset("external", data=values(SHAPE, "f4"), external=[(tmp_path / "raw", 0, 264)])
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_FLOAT, space, properties)
        file["compact"][:] = values(SHAPE, "f4")
        narrow = h5py.h5t.STD_I32LE.copy()
        narrow.set_precision(20)
        h5py.h5d.create(file.id, b"narrow", narrow, space)
        file["narrow"][:] = values(SHAPE, "i4") - 100
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((4, 3))
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"never filled", h5py.h5t.NATIVE_FLOAT, space, properties)
        file["never filled"][:3] = 1
        names = list(file)
    assert len(names) == 7
    for name in names:
        assert_left(str(tmp_path / "a"), name)


def test_filter_masks(tmp_path):
    """Filters that a chunk lacks: HDF5 leaves out those that fail, as LZF does on random values."""
    noise = np.random.default_rng(0).integers(0, 2**63, (64, 8))
    path = tmp_path / "a"
    with h5py.File(path, "w") as file:
        X = file.create_dataset("X", data=noise, chunks=(16, 8), compression="lzf", shuffle=True)
        X[:16] = 3
        plain = np.arange(128).reshape(16, 8)
        X.id.write_direct_chunk((16, 0), zlib.compress(b"no chunk"), 0)
        X.id.write_direct_chunk((16, 0), plain.tobytes(), 0b11)
        options = {"chunks": (16, 8), "compression": "gzip", "shuffle": True}
        Y = file.create_dataset("Y", shape=(16, 8), dtype="i8", **options)
        Y.id.write_direct_chunk((0, 0), zlib.compress(plain.tobytes()), 0b01)
    with h5py.File(path) as file:
        masks = [file["X"].id.get_chunk_info(at).filter_mask for at in range(4)]
    assert set(masks) == {0, 0b10, 0b11}
    assert_same(str(path), (slice(0, 64), 0), (slice(5, 40), 0), (slice(2, 5), 1))
    np.testing.assert_array_equal(by_position(str(path), slice(0, 16), 0, "Y"), plain)


@given(
    data=st.data(),
    shape=st.tuples(st.integers(0, 30), st.integers(1, 12)),
    chunks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["?", "i1", "u2", "f2", "i4", "u8", "f8"]),
    order=st.sampled_from("<>"),
    filters=st.sampled_from(sorted(FILTERS)),
    libver=st.sampled_from(["earliest", "latest"]),
    growing=st.sampled_from(["", "rows", "rows and columns"]),  # each has its own index of chunks
)
def test_any_part_of_any_dataset(
    tmp_path_factory, data, shape, chunks, dtype, order, filters, libver, growing
):
    path = make(
        tmp_path_factory.mktemp("a") / "a",
        shape=shape,
        chunks=chunks,
        maxshape=(None if growing else max(shape[0], chunks[0]), None if "columns" in growing else 12),
        dtype=dtype,
        order=order,
        rows=data.draw(st.integers(0, shape[0])),
        fillvalue=1,
        libver=libver,
        **FILTERS[filters],
    )
    parts = []
    for axis in (0, 1):
        start = data.draw(st.integers(0, shape[axis]))
        parts.append((slice(start, data.draw(st.integers(start, shape[axis]))), axis))
    assert_same(path, *parts)


def test_special_values(tmp_path):
    special = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38]], ">f4")
    with h5py.File(tmp_path / "a", "w") as file:
        file.create_dataset("X", data=special, chunks=(1, 4), compression="gzip", fillvalue=np.nan)
    found = by_position(str(tmp_path / "a"), slice(0, 1), 0)
    assert found.tobytes() == special.astype("<f4").tobytes()


@pytest.mark.parametrize("limit", [{"_MOST_CHUNKS": 5}, {"_FIRST_HDF5": (99, 0, 0)}])
def test_many_chunks_and_old_versions_of_hdf5_are_left_to_h5py(tmp_path, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(hdf5_chunks, name, value)
    assert_left(make(tmp_path / "a", chunks=(4, 3)))


def test_an_error_is_left_to_h5py(tmp_path, monkeypatch):
    array = Hdf5Array(make(tmp_path / "a", chunks=(4, 3), compression="gzip"), "X")

    def lost(*_):
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(hdf5_chunks, "bytes_at", lost)
    np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), values(SHAPE, "f4"))


@pytest.mark.parametrize("filters", FILTERS)
def test_bytes_are_those_of_chunks(tmp_path, filters):
    path = make(tmp_path / "a", chunks=(4, 3), **FILTERS[filters])
    array, nbytes = Hdf5Array(path, "X"), []
    for array._is_written in (True, False):  # the second time by h5py
        with counting() as counts:
            array.read(slice(3, 9), 0, "V")
        nbytes.append(counts.nbytes)
    assert nbytes[0] == nbytes[1] > 0


def chunk_in(path, at=0):
    """Start and stop of a chunk in the file."""
    with h5py.File(path) as file:
        info = file["X"].id.get_chunk_info(at)
    return info.byte_offset, info.byte_offset + info.size


@pytest.mark.parametrize("filters", [name for name in FILTERS if name != "none"])
def test_a_flipped_byte_is_read_as_by_h5py(tmp_path, filters):
    path = make(tmp_path / "a", dtype="i4", shape=(40, 6), chunks=(40, 6), **FILTERS[filters])
    whole, refused = (tmp_path / "a").read_bytes(), 0
    start, stop = chunk_in(path)
    for place in np.random.default_rng(0).integers(start, stop, 40):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        (tmp_path / "a").write_bytes(content)
        try:
            with h5py.File(path) as file:
                expected = file["X"][()]
        except OSError:
            refused += 1
            with pytest.raises(SourceError, match=r"rows 0 to 39 of V at .*a/X cannot be read \(.*V must"):
                Hdf5Array(path, "X").read(slice(0, 40), 0, "rows 0 to 39 of V")
        else:
            np.testing.assert_array_equal(Hdf5Array(path, "X").read(slice(0, 40), 0, "V"), expected)
    assert refused or "lzf" in filters  # LZF has no checksum


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 3)}, {"chunks": (4, 3), "compression": "gzip"}])
def test_a_truncated_file_is_refused(tmp_path, options):
    path = make(tmp_path / "a", shape=(400, 6), **options)
    array = Hdf5Array(path, "X")
    array.read(slice(0, 400), 0, "V")
    os.truncate(path, os.path.getsize(path) - 100)
    with pytest.raises(SourceError, match="a cannot be opened as HDF5"):
        array.read(slice(0, 400), 0, "V")
    os.unlink(path)
    with pytest.raises(SourceError, match="a cannot be opened as HDF5"):
        array.read(slice(0, 400), 0, "V")


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 3)}, {"chunks": (4, 3), "compression": "gzip"}])
def test_a_changed_file_is_located_again(tmp_path, options):
    path = make(tmp_path / "a", **options)
    array = Hdf5Array(path, "X")
    np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), values(SHAPE, "f4"))
    with h5py.File(path, "w") as file:  # written into the same file
        file["before"] = np.arange(1000)
        file.create_dataset("X", data=values(SHAPE, "f4") + 1, **options)
    np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), values(SHAPE, "f4") + 1)
    os.replace(make(tmp_path / "b", userblock=512, **options), path)  # another file
    np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), values(SHAPE, "f4"))
    with h5py.File(path, "w") as file:  # of another dtype
        file["X"] = values(SHAPE, "i2")
    found = array.read(slice(0, 11), 0, "V")
    assert found.dtype == "f4"
    np.testing.assert_array_equal(found, values(SHAPE, "f4"))


def test_what_is_not_yet_written_is_read(tmp_path):
    """HDF5 shares one open file within a process."""
    path = make(tmp_path / "a", chunks=(4, 3), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["X"][3] = 7
        array = Hdf5Array(path, "X")
        expected = values(SHAPE, "f4")
        expected[3] = 7
        np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), expected)
    np.testing.assert_array_equal(array.read(slice(0, 11), 0, "V"), expected)
    assert_same(path)


@pytest.mark.parametrize("options", [{}, {"chunks": (10, 50)}, {"chunks": (10, 500), "compression": "gzip"}])
def test_threads_and_pickles(tmp_path, options, monkeypatch):
    A = values((400, 500), "f4")
    path = make(tmp_path / "a", shape=A.shape, **options)
    array, located = Hdf5Array(path, "X"), []
    locate = hdf5_chunks.locate
    monkeypatch.setattr(hdf5_chunks, "locate", lambda *node: located.append(1) or locate(*node))
    n_open = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    with ThreadPoolExecutor(8) as pool:
        slabs = pool.map(
            lambda at: pickle.loads(pickle.dumps(array)).read(slice(at, at + 20), 0, "V"),
            [*range(0, 381, 20)] * 4,
        )
        np.testing.assert_array_equal(np.concatenate(list(slabs)), np.concatenate([A] * 4))
    assert len(located) == 1
    assert len(pickle.dumps(array)) < 1000
    if n_open is not None:
        assert len(os.listdir("/proc/self/fd")) == n_open


@given(st.binary(max_size=60), st.integers(0, 100))
def test_lzf_of_any_bytes_stays_in_its_memory(encoded, nbytes):
    memory = np.full(nbytes + 64, 7, np.uint8)
    with suppress(ValueError):
        lzf.decode_into(encoded, memory[32 : 32 + nbytes])
    assert (memory[:32] == 7).all()
    assert (memory[32 + nbytes :] == 7).all()
