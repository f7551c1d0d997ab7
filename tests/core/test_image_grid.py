"""Rows of V and pixels of a stack: tiles, images and back, names of columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasknmf.core.image_grid import Coordinate, Layout, Tiles, common, merged
from tests.helpers import cuts


@st.composite
def tilings(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    return Tiles(tuple(draw(cuts(length)) for length in lengths))


@given(tilings())
def test_rows_go_tile_by_tile_and_come_back(tiles):
    images = np.arange(2 * tiles.n_rows).reshape(2, *tiles.shape)
    W = tiles.rows(images)
    np.testing.assert_array_equal(tiles.images(W), images)
    for tile in tiles:
        part = images[(slice(None), *tile.slices)]
        np.testing.assert_array_equal(W[tile.start : tile.stop], part.reshape(2, -1).T)
    assert tiles.cuts.tolist() == [0, *(tile.stop for tile in tiles)]


@given(tilings(), st.data())
def test_tiles_between_two_cuts(tiles, data):
    start, stop = sorted(data.draw(st.tuples(*[st.sampled_from(tiles.cuts.tolist())] * 2)))
    expected = [tile for tile in tiles if start <= tile.start < stop]
    assert list(tiles.between(start, stop)) == expected


@given(tilings(), st.data())
def test_a_row_keeps_its_place_in_the_raster(tiles, data):
    raster = np.arange(tiles.n_rows).reshape(1, *tiles.shape)
    expected = tiles.rows(raster)[:, 0]
    start, stop = sorted(
        data.draw(st.lists(st.integers(0, tiles.n_rows), min_size=2, max_size=2, unique=True))
    )
    found = tiles.places(start, stop)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected[start:stop])
    assert tiles.in_order == (np.diff(expected) > 0).all()


@given(tilings(), st.integers(1, 200))
def test_merged_tiles_are_whole_tiles_and_small(tiles, least):
    found = merged(tiles.lengths, 1, least)
    assert found.shape == tiles.shape
    for was, now in zip(tiles.lengths, found.lengths, strict=True):
        assert set(np.cumsum(now)) <= set(np.cumsum(was))
    largest = max(int(np.prod(tile.shape)) for tile in found)
    assert largest <= max(least, *(int(np.prod(tile.shape)) for tile in tiles), 1)


def test_neighbours_along_the_last_dim_are_merged_first():
    assert merged([[10] * 4, [10] * 4], 2, 800).lengths == ((10,) * 4, (40,))
    assert merged([[10] * 4, [10] * 4], 2, 1600).lengths == ((20, 20), (40,))
    assert merged([[10] * 4, [10] * 4], 2, 600).lengths == ((10,) * 4, (30, 10))


def test_the_common_cut_of_variables_with_other_chunks():
    assert common([[4, 4, 4], [6, 6], [2] * 6]) == (12,)
    assert common([[4, 4, 4], [8, 4]]) == (8, 4)


@pytest.fixture
def layout():
    coords = {
        "time": Coordinate(("time",), np.array(["2024-01-01", "2024-03-01"], "datetime64[ns]")),
        "y": Coordinate(("y",), np.array([2.5, 1.5, 0.5])),
        "crs": Coordinate((), np.array(0)),
        "angle": Coordinate(("time", "y"), np.zeros((2, 3))),
    }
    return Layout(
        ("y", "x"), Tiles(((2, 1), (4,))), ("time", "band"), (2, 3), ("time", "band", "y", "x"), coords
    )


def test_columns_are_called_by_their_coordinates(layout):
    assert layout.feature_names.tolist() == [
        f"{day} {band}" for day in ("2024-01-01", "2024-03-01") for band in range(3)
    ]


def test_spectra_and_images_of_factors(layout):
    H, W = np.arange(12.0).reshape(2, 6), np.arange(24.0).reshape(12, 2)
    assert layout.spectra(H)[1, 1, 2] == 11
    assert layout.images(W).shape == (2, 3, 4)
    np.testing.assert_array_equal(layout.rows(layout.images(W)), W)


def test_coordinates_that_some_dims_can_carry(layout):
    assert set(layout.coords_over(["component", "y", "x"])) == {"y", "crs"}
    assert set(layout.coords_over(["time", "band"])) == {"time", "crs"}
