"""A stack of satellite images with moving clouds, of any size, written tile by tile to a Zarr store.

What is drawn. Component c has a spectrum over bands and a curve over dates, both smooth; its endmember is
their product, 3000 to 6000 at most: H, k × (dates · bands). Log abundances are smooth random fields of two
scales, and a softmax over components makes them abundances that add up to 1. A stored value is

    round(Σ_c abundance_c(y, x) · endmember_c(date, band) + noise),  noise ~ N(0, 30), at least 1, uint16

and 0 where a cloud is: on each date where another smooth random field is above its quantile, the same
pixels for all bands. The quantile is that of every eighth row and column or more, so that the share of
clouds is the one asked for, to sampling.

How it is drawn in bounded memory. A random field is a sum of cubic B-splines with random coefficients on a
coarse grid: any window of it is a product of three small matrices. Noise has a stream for each tile. So
each thread holds one tile of abundances and of one date, and no value depends on how many threads draw;
noise does depend on the tiles, the fields do not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import click
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from scipy.interpolate import BSpline
from scipy.special import softmax

from benchmarks.runner import report

VARIABLE = "reflectance"
NODATA = 0

_BRIGHTEST = 6000.0  # of the brightest endmember; half of it of the darkest
_NOISE = 30.0
_CONTRAST = 6.0  # of log abundances: most pixels are mixtures, some are nearly pure
_PIXEL = 20  # metres
_SPECTRA, _SEASONS, _ABUNDANCES, _CLOUDS, _TILES = range(5)  # what a stream is for


@dataclass(frozen=True)
class Field:
    """A smooth random image of which any window can be drawn alone.

    Parameters
    ----------
    shape : tuple of int
    spacings : tuple of float
        Pixels between the splines of each scale; a scale has half the weight of the one before.
    rng : numpy.random.Generator
    """

    shape: tuple[int, int]
    spacings: tuple[float, ...]
    rng: np.random.Generator

    @cached_property
    def _coefficients(self) -> list[np.ndarray]:
        counts = [[int(length / spacing) + 4 for length in self.shape] for spacing in self.spacings]
        return [self.rng.standard_normal(count, dtype=np.float32) for count in counts]

    def window(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Its values at some rows and columns: (rows, columns), float32."""
        values = np.zeros((len(rows), len(columns)), np.float32)
        for scale, (spacing, coefficients) in enumerate(zip(self.spacings, self._coefficients, strict=True)):
            down, across = (
                _splines(places / spacing, count)
                for places, count in zip((rows, columns), coefficients.shape, strict=True)
            )
            values += 0.5**scale * (down @ coefficients @ across.T)
        return values


def _splines(places: np.ndarray, count: int) -> np.ndarray:
    """The cubic B-splines with unit knots at some places: (places, count), float32."""
    design = BSpline.design_matrix(places.astype(float), np.arange(-3, count + 1, dtype=float), 3)
    return design.toarray().astype(np.float32)


@dataclass(frozen=True)
class Stack:
    """What there is to draw.

    Parameters
    ----------
    shape : tuple of int
        Dates, bands, rows and columns.
    tile : int
        Rows and columns of a stored tile, of one date and one band.
    n_components : int
    missing : float
        Share of each date that is under clouds.
    seed : int
    """

    shape: tuple[int, int, int, int]
    tile: int
    n_components: int = 8
    missing: float = 0.3
    seed: int = 0

    @cached_property
    def endmembers(self) -> np.ndarray:
        """H, (n_components, dates, bands), float32."""
        dates, bands = self.shape[:2]
        spectra = self._curves(_SPECTRA, bands, 4)
        seasons = self._curves(_SEASONS, dates, 5)
        endmembers = spectra[:, None, :] * seasons[:, :, None]
        brightest = np.linspace(_BRIGHTEST / 2, _BRIGHTEST, self.n_components)[:, None, None]
        return (brightest * endmembers / endmembers.max(axis=(1, 2), keepdims=True)).astype(np.float32)

    def _curves(self, purpose: int, length: int, count: int) -> np.ndarray:
        """One smooth positive curve for each component: (n_components, length)."""
        coefficients = self._stream(purpose).gamma(0.7, 1, (self.n_components, count)) + 0.02
        return coefficients @ _splines(np.linspace(0, count - 3, length), count).T

    def abundances(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """W at some rows and columns: (n_components, rows, columns), float32, sums 1."""
        fields = np.stack([field.window(rows, columns) for field in self._abundance_fields])
        return softmax(_CONTRAST * fields, axis=0)

    def clouds(self, date: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Whether there is a cloud at some rows and columns, bool."""
        field, level = self._cloud_fields[date]
        return field.window(rows, columns) > level

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile."""
        starts = [range(0, length, self.tile) for length in self.shape[2:]]
        for at in product(*starts):
            down, across = (
                slice(first, min(first + self.tile, length))
                for first, length in zip(at, self.shape[2:], strict=True)
            )
            yield down, across

    def dates(self, rows: slice, columns: slice) -> Iterator[np.ndarray]:
        """One tile of each date, all bands: (bands, rows, columns), uint16, `NODATA` under clouds."""
        dates, bands = self.shape[:2]
        places = [np.arange(each.start, each.stop) for each in (rows, columns)]
        abundances = self.abundances(*places)
        for date in range(dates):
            values = np.tensordot(self.endmembers[:, date].T, abundances, axes=1)
            for band in range(bands):
                rng = self._stream(_TILES, date, band, rows.start, columns.start)
                values[band] += _NOISE * rng.standard_normal(values.shape[1:], dtype=np.float32)
            np.clip(np.rint(values, out=values), 1, np.iinfo(np.uint16).max, out=values)
            drawn = values.astype(np.uint16)
            drawn[:, self.clouds(date, *places)] = NODATA
            yield drawn

    @cached_property
    def _abundance_fields(self) -> list[Field]:
        return [
            Field(self.shape[2:], self._spacings(30), self._stream(_ABUNDANCES, component))
            for component in range(self.n_components)
        ]

    @cached_property
    def _cloud_fields(self) -> list[tuple[Field, float]]:
        """A field for each date, and the level above which there are clouds."""
        step = max(1, min(8, min(self.shape[2:]) // 64))
        places = [np.arange(0, length, step) for length in self.shape[2:]]
        fields = [
            Field(self.shape[2:], self._spacings(8), self._stream(_CLOUDS, date))
            for date in range(self.shape[0])
        ]
        return [(field, float(np.quantile(field.window(*places), 1 - self.missing))) for field in fields]

    def _spacings(self, across: int) -> tuple[float, float]:
        """Of two scales: so many splines across the image, and four times as many."""
        coarse = max(self.shape[2:]) / across
        return coarse, coarse / 4

    def _stream(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))


SIZES = {
    "full": Stack((24, 6, 5490, 5490), 1024),
    "small": Stack((4, 3, 300, 300), 128, n_components=4),
}
"""Two years of a Sentinel-2 tile at 20 m, every month; and what a test can afford."""


def write(stack: Stack, path: Path, threads: int = 2) -> Path:
    """The store at `path`, a Dataset for `xarray.open_zarr`; made there where there is none.

    Parameters
    ----------
    stack : Stack
    path : Path
    threads : int
        Each draws and writes one tile of all dates after another.
    """
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        array = _without_values(stack, partial)
        # Fields that threads share are drawn before there are any.
        corner = np.arange(1)
        stack.abundances(corner, corner)
        stack.clouds(0, corner, corner)

        def fill(tile: tuple[slice, slice]) -> None:
            for date, drawn in enumerate(stack.dates(*tile)):
                array[(date, slice(None), *tile)] = drawn

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, stack.tiles()))
        partial.rename(path)
    return path


def _without_values(stack: Stack, path: Path) -> zarr.Array:
    """The store with its coordinates and endmembers, and the array that has still to be written."""
    dates, bands, height, width = stack.shape
    chunks = (1, 1, stack.tile, stack.tile)
    dims = ("time", "band", "y", "x")
    xr.Dataset(
        {
            VARIABLE: (dims, da.zeros(stack.shape, dtype=np.uint16, chunks=chunks), {"units": "1e-4"}),
            "planted": (("component", "time", "band"), stack.endmembers),
        },
        coords={
            "time": pd.date_range("2024-01-01", periods=dates, freq="MS"),
            # As objects: what xarray makes of str has no specification in Zarr format 3.
            "band": np.array([f"B{number:02}" for number in range(1, bands + 1)], object),
            "y": 5_000_000.0 - _PIXEL * np.arange(height),
            "x": 600_000.0 + _PIXEL * np.arange(width),
        },
    ).to_zarr(
        path,
        mode="w",
        compute=False,
        zarr_format=3,
        consolidated=False,
        encoding={VARIABLE: {"_FillValue": NODATA, "chunks": chunks}},
    )
    return zarr.open_array(path, path=VARIABLE, mode="r+")


def planted_endmembers(path: Path) -> np.ndarray:
    """The endmembers from which a store was drawn, (n_components, dates, bands)."""
    return zarr.open_array(path, path="planted", mode="r")[...]


def described(path: Path) -> dict[str, Any]:
    """Shape, tiles and bytes of a store."""
    array = zarr.open_array(path, path=VARIABLE, mode="r")
    return {
        "shape": "x".join(map(str, array.shape)),
        "tile": "x".join(map(str, array.chunks)),
        "decoded GB": array.nbytes / 1e9,
        "stored GB": array.nbytes_stored() / 1e9,
    }


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option("--threads", default=2, show_default=True, help="Each holds a tile of abundances.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here.")
def main(path: Path, size: str, threads: int, out: Path | None) -> None:
    """Draw a stack into the Zarr store PATH, or describe the one that is there."""
    found = path.exists()
    began = time.perf_counter()
    write(SIZES[size], path, threads)
    seconds = None if found else time.perf_counter() - began
    report("stack", [{**described(path), "seconds": seconds}], out)


if __name__ == "__main__":
    main()
